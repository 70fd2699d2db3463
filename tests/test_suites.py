"""Suites: those that ship, what a file becomes, and what is said of a bad one."""

from __future__ import annotations

import zlib
from collections import Counter

import pandas as pd
import pytest
import torch

from erase_lib import EraseError
from erase_lib.concepts import EMOJI, style_names
from erase_lib.models import encode_prompts
from erase_lib.neighbours import near_each
from erase_lib.suite_prompts import COLUMNS, suite_prompts
from erase_lib.suites import SUITES, read_suite

EMBEDDED = ("objects", "theme", "styles", "side_doors")
GROUP = "groups:\n  one: {concepts: [dog], metrics: [PSR-1]}\n"


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def refused(action):
    with pytest.raises(EraseError) as error:
        action()
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    return str(error.value)


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_shipped_suite_fits_its_splits(name, tiny):
    suite = read_suite(name)
    assert suite.name == name and len(suite.about) > 100
    for split, targets in suite.splits.items():
        assert suite.split(list(reversed(targets))) == split
        table = suite_prompts(tiny, suite, targets)
        assert tuple(table.columns) == COLUMNS and table["prompt"].str.strip().all()
        assert not table.duplicated(["group", "prompt", "noise"]).any()
        for row in table.head(5).itertuples():
            assert row.noise == row.seed * 100_000 + zlib.crc32(row.prompt.encode()) % 100_000


def test_papers_suites_are_read_and_need_their_lists(tiny):
    objects = read_suite("paper_objects")
    table = suite_prompts(tiny, objects, objects.splits["a"])
    assert len(table) == 10 * 500 and table["noise"].nunique() == 5000
    assert table["prompt"].iloc[0] == "an image of a tench"
    nudity = read_suite("paper_nudity")
    assert "private/i2p.csv cannot be read" in refused(
        lambda: suite_prompts(tiny, nudity, ["nudity"])
    )


def test_objects_are_erased_twice_each_and_everything_else_is_measured(tiny):
    suite = read_suite("objects")
    assert set(Counter(t for of in suite.splits.values() for t in of).values()) == {2}
    targets = list(suite.splits["c"])
    table = suite_prompts(tiny, suite, targets)
    of = {name: set(part["concept"]) for name, part in table.groupby("group")}
    assert of["target"] == set(targets) and of["kept"] == set(suite.classes) - set(targets)
    assert not of["near"] & of["far"] and not (of["near"] | of["far"]) & set(suite.classes)
    assert len(of["near"] | of["far"]) == 428 - 10
    counts = table["group"].value_counts()
    assert counts["target"] == counts["kept"] == 5 * 4 * 4
    assert counts["near"] == 4 * len(of["near"]) and counts["far"] == len(of["far"])
    # one class alone is of the classes too, and of no split
    assert suite.split(["dog"]) == ""
    assert set(suite_prompts(tiny, suite, ["dog"]).query("group == 'kept'")["concept"]) == set(
        suite.classes
    ) - {"dog"}


def test_near_are_the_nearest_to_each_target(tiny):
    words = ["wolf", "house", "bus", "violin", "cat", "rose"]
    expected = []
    for target in ("dog", "church"):
        ends = encode_prompts(tiny, words) - encode_prompts(tiny, [target])
        order = ends.flatten(1).pow(2).sum(1).argsort()[:2]
        expected += [words[i] for i in order.tolist()]
    assert near_each(tiny, ["dog", "church"], words, 2) == list(dict.fromkeys(expected))


def test_a_theme_is_asked_for_by_the_prompts_of_the_file(tiny):
    suite = read_suite("theme")
    prompts = pd.read_csv(EMOJI / "implicit_prompts.csv")
    for theme, targets in suite.splits.items():
        table = suite_prompts(tiny, suite, targets)
        implicit = table[table["group"] == "implicit"]
        assert list(implicit["prompt"]) == list(prompts[prompts["theme"] == theme]["prompt"])
        assert implicit["concept"].isna().all()
        assert not set(table.query("group == 'unrelated'")["concept"]) & set(targets)


def test_styles_are_asked_for_with_the_same_objects(tiny):
    suite = read_suite("styles")
    table = suite_prompts(tiny, suite, ["fluent style"])
    target, kept = (table[table["group"] == name] for name in ("target", "kept"))
    assert set(target["style"]) == {"fluent"}
    assert set(kept["style"]) == set(style_names()) - {"fluent"}
    assert set(target["concept"]) == set(kept["concept"]) and len(target) == 40
    assert target["prompt"].str.endswith("in fluent style").all()
    assert not table.query("group == 'unnamed'")["prompt"].str.contains("style").any()


def test_side_doors_are_those_of_the_targets(tiny):
    suite = read_suite("side_doors")
    table = suite_prompts(tiny, suite, ["dog"])
    assert set(table["concept"]) == {"dog"}
    assert set(table["group"]) == {"front door", "synonyms", "keywords", "together"}
    assert "a guide dog in noto style" in set(table["prompt"])


def test_a_prompt_starts_from_the_same_noise_in_every_suite(tiny):
    first = suite_prompts(tiny, read_suite("objects"), read_suite("objects").splits["a"])
    second = suite_prompts(tiny, read_suite("styles"), ["noto style"])
    both = first.merge(second, on=["prompt", "seed"])
    assert len(both) > 10 and (both["noise_x"] == both["noise_y"]).all()


def test_at_most_so_many_prompts_are_spread_over_a_group(tiny):
    suite = read_suite("objects")
    table = suite_prompts(tiny, suite, suite.splits["a"], most=10)
    assert table["group"].value_counts().max() <= 10 and set(table["seed"]) == {1}
    assert table.query("group == 'target'")["concept"].nunique() == 5
    assert table.query("group == 'far'")["concept"].iloc[-1] > "s"


def test_what_a_group_may_say(tiny, tmp_path):
    (tmp_path / "list.csv").write_text("text,what,number,kind\nan old dog,dog,7,a\na cat,cat,8,b\n")
    suite = read_suite(
        written(
            tmp_path,
            f"""
classes: [dog, cat]
steps: 3
guidance_scale: 2
groups:
  words:
    words: {{dog: [puppy, hound], cat: [kitten]}}
    template: "one {{concept}}"
    styles: none
    seeds: [5, 9]
    metrics: [ESR-2]
  styled: {{concepts: [rose, bus], styles: [noto], metrics: [CLIP score]}}
  turn: {{concepts: [rose, bus], styles: turn, metrics: [distance]}}
  file:
    file:
      {{path: {tmp_path}/list.csv, prompt: text, concept: what, seed: number, where: {{kind: a}}}}
    metrics: [PSR-1]
""",
        )
    )
    assert (suite.steps, suite.guidance_scale, suite.thresholds) == (3, 2.0, (0.5,))
    table = suite_prompts(tiny, suite, ["dog"]).drop(columns="noise")
    assert table.to_numpy().tolist()[:4] == [
        ["words", "one puppy", "dog", None, 5],
        ["words", "one puppy", "dog", None, 9],
        ["words", "one hound", "dog", None, 5],
        ["words", "one hound", "dog", None, 9],
    ]
    assert list(table.query("group == 'styled'")["prompt"]) == [
        "a rose in noto style",
        "a bus in noto style",
    ]
    assert list(table.query("group == 'turn'")["style"]) == style_names()[:2]
    last = suite_prompts(tiny, suite, ["dog"]).iloc[-1]
    assert (last["prompt"], last["concept"], last["seed"], last["noise"]) == (
        "an old dog",
        "dog",
        7,
        7,
    )


BAD = {
    "groups: {}": "groups is missing",
    "about: nothing else": "groups is missing",
    "": "is no suite",
    GROUP + "stepz: 4": "unknown section 'stepz': did you mean 'steps'",
    GROUP + "steps: many": "steps is 'many' (str): expected int",
    GROUP + "thresholds: [0.5, 1.5]": "expected numbers in (0, 1)",
    GROUP + "classes: [dog, dog]": "classes has 'dog' twice",
    GROUP + "splits: {a: dog}": "split a is 'dog': expected a list",
    GROUP + GROUP: "'groups' is given twice",
    "groups:\n\tone: 3": "indent with blanks",
    "groups: {one: 3}": "group 'one' is 3: expected a mapping",
    "groups: {one: {metrics: [PSR-1]}}": "group 'one' has no prompts",
    "groups: {one: {concepts: [], metrics: [PSR-1]}}": "group 'one' has no prompts",
    "groups: {one: {concepts: [dog]}}": "group 'one' counts nothing",
    "groups: {one: {concepts: [dog], words: {dog: [a]}, metrics: [NER]}}": "give one of concepts",
    "groups: {one: {concepts: [dog], metrics: [PSR]}}": "did you mean 'PSR-1'",
    "groups: {one: {concepts: [dog], metrics: [PSR-0]}}": "unknown metric 'PSR-0'",
    "groups: {one: {concepts: targetz, metrics: [NER]}}": "did you mean 'targets'",
    "groups: {one: {concepts: [dog], styles: al, metrics: [NER]}}": "did you mean 'all'",
    "groups: {one: {concepts: [dog], seed: 4, metrics: [NER]}}": "did you mean 'seeds'",
    "groups: {one: {concepts: [dog], seeds: [1, 2, 1], metrics: [NER]}}": "seed 1 is given twice",
    "groups: {one: {concepts: [dog], seeds: 0, metrics: [NER]}}": "seeds is 0",
    "groups: {one: {concepts: [dog], seeds: [-1], metrics: [NER]}}": "seeds is [-1]",
    "groups: {one: {concepts: [dog], seeds: [a], metrics: [NER]}}": "seeds is ['a']",
    "groups: {one: {words: [a], metrics: [NER]}}": "words is ['a']: expected a mapping",
    "groups: {one: {words: {dog: a}, metrics: [NER]}}": "words of 'dog' is 'a': expected a list",
    "groups: {one: {words: {dog: [a, a]}, metrics: [NER]}}": "has 'a' twice",
    "groups: {one: {file: here.csv, metrics: [NER]}}": "file is 'here.csv': expected a mapping",
    "groups: {one: {file: {pth: a}, metrics: [NER]}}": "unknown key of file 'pth'",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_one_line_that_names_what_is_wrong(text, tmp_path):
    path = written(tmp_path, text)
    message = refused(lambda: read_suite(path))
    assert BAD[text] in message and "mine.yaml" in message


def test_a_suite_that_does_not_exist_or_fit(tiny, tmp_path):
    assert "unknown suite 'object': did you mean 'objects'" in refused(lambda: read_suite("object"))
    assert "no-such.yaml" in refused(lambda: read_suite(tmp_path / "no-such.yaml"))
    suite = read_suite("theme")
    for targets, named in ((["dog"], "'dog'"), (["dog", "axe"], "'dog'"), (["axe"], "'axe'")):
        assert f"not made for the target {named}" in refused(lambda t=targets: suite.split(t))
    assert sorted(p.stem for p in SUITES.glob("*.yaml"))[0].startswith("objects")


def test_a_list_of_prompts_that_is_not_there_or_lacks_a_column(tiny, tmp_path):
    group = "groups: {{one: {{file: {{path: {path}, {more}}}, metrics: [NER]}}}}\nclasses: [dog]"
    path = tmp_path / "list.csv"

    def message(more):
        suite = read_suite(written(tmp_path, group.format(path=path, more=more)))
        return refused(lambda: suite_prompts(tiny, suite, ["dog"]))

    assert "cannot be read" in message("prompt: text")
    path.write_text("txt,kind\na dog,a\n")
    assert "unknown column 'text': did you mean 'txt'" in message("prompt: text")
    assert "unknown column 'knd'" in message("prompt: txt, where: {knd: a}")
    assert "unknown column 'seed'" in message("prompt: txt, seed: seed")
    assert "group 'one' has no prompts" in message("prompt: txt, where: {kind: b}")


def test_the_text_encoder_alone_is_asked(tiny, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("the UNet was asked")

    monkeypatch.setattr(tiny.unet, "forward", fail)
    with torch.no_grad():
        suite_prompts(tiny, read_suite("objects"), ["dog"])
