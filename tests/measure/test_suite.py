"""Suites: those that ship, what a file becomes, and what is said of a bad one."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from erase_lib import EraseConfig, EraseError, Erasure
from erase_lib.concepts import EMOJI, concept_table, style_names
from erase_lib.measure.prompts import COLUMNS, suite_prompts
from erase_lib.measure.suite import SUITES, read_suite
from erase_lib.models import load_pipeline
from erase_lib.text import encode_prompts, near_each

EMBEDDED = ("objects", "theme", "styles", "side_doors")
GROUP = "groups:\n  one: {concepts: [dog], metrics: [PSR-1]}\n"


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    """Once for the file: nothing here changes it."""
    return load_pipeline(tiny_folder, device="cpu")


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
        for row in table.itertuples():
            assert row.noise == row.seed * 100_000 + zlib.crc32(row.prompt.encode()) % 100_000


def test_every_shipped_suite_is_read(tiny):
    names = sorted(path.stem for path in SUITES.glob("*.yaml"))
    assert {name for name in names if not name.startswith("paper_")} == set(EMBEDDED)
    for name in names:
        suite = read_suite(name)
        assert suite == read_suite(SUITES / f"{name}.yaml") and suite.groups and suite.about
        assert {suite.split(targets) for targets in suite.splits.values()} == set(suite.splits)
        for targets in suite.splits.values():
            assert set(targets) <= set(suite.classes or targets)
    styles = suite_prompts(tiny, read_suite("paper_styles"), ["Tyler Edlin style"])
    assert dict(styles["group"].value_counts()) == {"target": 10 * 10, "kept": 10 * 4 * 3}
    assert "a castle in Tyler Edlin style" in set(styles["prompt"])


@pytest.fixture(scope="module")
def shipped():
    return load_pipeline(device="cpu")


@pytest.mark.parametrize("split", "abcd")
def test_near_and_far_of_the_objects_by_hand(split, shipped):
    suite = read_suite("objects")
    targets = suite.splits[split]
    words = [w for w in concept_table()["concept"] if w not in suite.classes]
    where = encode_prompts(shipped, [*words, *targets]).flatten(1).double().numpy()
    near = []
    for i in range(len(targets)):
        apart = ((where[: len(words)] - where[len(words) + i]) ** 2).sum(1) ** 0.5
        near += [words[k] for k in np.argsort(apart)[:4] if words[k] not in near]
    far = [w for w in words if w not in near]
    table = suite_prompts(shipped, suite, targets)
    of = {name: list(part["concept"]) for name, part in table.groupby("group")}
    assert of["near"] == [w for w in near for _ in range(4)] and of["far"] == far
    # in split b two targets share one of their nearest
    expected = (80, 80, 76, 399) if split == "b" else (80, 80, 80, 398)
    assert tuple(len(of[name]) for name in ("target", "kept", "near", "far")) == expected


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
        explicit, unrelated = (table[table["group"] == g] for g in ("explicit", "unrelated"))
        assert list(explicit["concept"]) == [t for t in targets for _ in style_names()]
        assert unrelated["concept"].nunique() == len(unrelated) == 200
        assert list(unrelated["style"]) == style_names() * 50
        assert not set(unrelated["concept"]) & set(targets)


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
    for split, targets in suite.splits.items():
        table = suite_prompts(tiny, suite, targets)
        assert set(table["concept"]) == set(targets), split
        for name in ("synonyms", "misspellings", "keywords"):
            words = suite.groups[name].words
            asked = [f"a {w} in noto style" for t in targets for w in words.get(t, [])]
            part = table.query("group == @name and seed == 1 and style == 'noto'")
            assert list(part["prompt"]) == asked
    # no word of either kind leads to the trumpet
    groups = set(suite_prompts(tiny, suite, ["trumpet"])["group"])
    assert groups == {"front door", "together"}


def test_a_prompt_starts_from_the_same_noise_in_every_suite(tiny):
    first = suite_prompts(tiny, read_suite("objects"), read_suite("objects").splits["a"])
    second = suite_prompts(tiny, read_suite("styles"), ["noto style"])
    both = first.merge(second, on=["prompt", "seed"])
    assert len(both) > 10 and (both["noise_x"] == both["noise_y"]).all()
    other = suite_prompts(tiny, read_suite("objects"), read_suite("objects").splits["c"])
    both = first.merge(other, on=["prompt", "seed"])
    # a class that is kept in one split and erased in the other, and what is far or near in both
    assert {("target", "kept"), ("far", "far")} <= set(both.groupby(["group_x", "group_y"]).groups)
    assert (both["noise_x"] == both["noise_y"]).all()


def test_at_most_so_many_prompts_are_spread_over_a_group(tiny):
    suite = read_suite("objects")
    table = suite_prompts(tiny, suite, suite.splits["a"], most=10)
    assert table["group"].value_counts().max() <= 10 and set(table["seed"]) == {1}
    assert table.query("group == 'target'")["concept"].nunique() == 5
    assert table.query("group == 'far'")["concept"].iloc[-1] > "s"
    whole = suite_prompts(tiny, suite, suite.splits["a"]).query("seed == 1")
    for most in (1, 3, 7, 1000):
        few = suite_prompts(tiny, suite, suite.splits["a"], most)
        for name, part in whole.groupby("group"):
            asked, found = (list(t.loc[t["group"] == name, "prompt"]) for t in (part, few))
            places = [asked.index(prompt) for prompt in found]
            gap = -(-len(asked) // most)  # at most between two of them, and to the end
            assert len(places) <= most and places[0] == 0
            assert all(0 < g <= gap for g in np.diff([*places, len(asked)]))


def test_a_group_may_be_smaller_than_its_list(tiny, tmp_path):
    text = """
classes: [dog, church]
groups:
  near: {concepts: near, most: 2, styles: none, metrics: [NER]}
  some: {concepts: far, most: 40, styles: none, metrics: [NER]}
  all: {concepts: far, styles: none, metrics: [NER]}
  more: {concepts: far, most: 1000, styles: none, metrics: [NER]}
"""
    suite = read_suite(written(tmp_path, text))
    others = [w for w in concept_table()["concept"] if w not in ("dog", "church")]
    near = near_each(tiny, ["dog"], others, 2)
    far = [w for w in others if w not in near]
    table = suite_prompts(tiny, suite, ["dog"])
    of = {name: list(part["concept"]) for name, part in table.groupby("group")}
    assert of["near"] == near and len(near) == 2 and len(far) == 424
    assert of["all"] == of["more"] == far
    places = [far.index(word) for word in of["some"]]
    assert len(places) == 40 and places == sorted(set(places)) and places[-1] >= 380
    suite = read_suite(written(tmp_path, text.replace("near, most: 2", "near")))
    table = suite_prompts(tiny, suite, ["dog"])
    assert list(table.query("group == 'near'")["concept"]) == near_each(tiny, ["dog"], others, 4)
    # without a group `near` nothing is kept back, and a style has none near it
    suite = read_suite(
        written(tmp_path, text.replace("  near: {concepts: near", "  n: {concepts: far"))
    )
    table = suite_prompts(tiny, suite, ["dog"])
    assert list(table.query("group == 'all'")["concept"]) == others
    suite = read_suite(written(tmp_path, text.replace("[dog, church]", "[noto style]")))
    message = refused(lambda: suite_prompts(tiny, suite, ["noto style"]))
    assert "group 'near' has no prompts for ['noto style']" in message


def test_settings_are_shared_by_an_anchor(tmp_path):
    text = "groups:\n  a: &a {concepts: [dog], seeds: 2, metrics: [NER]}\n  b: {<<: *a, seeds: 3}\n"
    groups = read_suite(written(tmp_path, text)).groups
    assert groups["b"].concepts == groups["a"].concepts == ("dog",)
    assert (groups["a"].seeds, groups["b"].seeds) == ((1, 2), (1, 2, 3))


def test_what_a_group_may_say(tiny, tmp_path):
    (tmp_path / "list.csv").write_text(
        "text,what,number,kind\nan old dog,dog,7,a\na cat,cat,8,b\nnull,dog,9,c\n"
    )
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
  plain: {{concepts: [rose], styles: none, template: "a {{style}} {{concept}}", metrics: [FID]}}
  word: {{file: {{path: {tmp_path}/list.csv, prompt: text, where: {{kind: c}}}}, metrics: [KID]}}
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
    assert list(table.query("group == 'plain'")["prompt"]) == ["a rose"]
    assert list(table.query("group == 'word'")["prompt"]) == ["null"]  # and not a missing one
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
    "groups: [one]": "groups is missing: expected a mapping",
    "groups: {one: }": "group 'one' is None: expected a mapping",
    "- one": "is no suite: expected the sections about, groups",
    "{}": "is no suite: expected the sections about, groups",
    "groups: {one: {": "line 1",
    "groups: {? [1] : 2}": "line 1: found unhashable key",
    "groups: {one: \0}": "unacceptable character",
    GROUP + "about: 3": "about is 3 (int): expected str",
    GROUP + "steps: 2.5": "steps is 2.5 (float): expected int",
    GROUP + "guidance_scale: .nan": "guidance_scale is nan: expected a finite number",
    GROUP + "classes: dog": "classes is 'dog': expected a list of words",
    GROUP + "classes: [yes]": "classes is [True]: expected a list of words",
    GROUP + "splits: {a: [dog, cat, dog]}": "split a has 'dog' twice",
    GROUP + "thresholds: [0]": "thresholds is (0.0,): expected numbers in (0, 1)",
    GROUP + "thresholds: [1]": "thresholds is (1.0,): expected numbers in (0, 1)",
    GROUP + "thresholds: [-0.5]": "thresholds is (-0.5,)",
    GROUP + "thresholds: [0.5, .nan]": "thresholds is (0.5, nan)",
    GROUP + "splits: {a: [dog]}\nsteps: 1\nsteps: 2": "'steps' is given twice",
    "groups:\n  one:\n    seeds: 1\n    seeds: 2": "'seeds' is given twice in the block at line 3",
    "about: x\ngroups:\n\tone: 3": "line 3",
    "groups: {one: {concepts: [dog], file: {path: a}, metrics: [NER]}}": "give one of concepts",
    "groups: {one: {words: {dog: [a]}, file: {path: a}, metrics: [NER]}}": "give one of concepts",
    "groups: {one: {concepts: [dog, dog], metrics: [NER]}}": "concepts has 'dog' twice",
    "groups: {one: {concepts: [3], metrics: [NER]}}": "concepts is [3]: expected a list of words",
    "groups: {one: {concepts: 3, metrics: [NER]}}": "unknown concepts 3: expected one of targets",
    "groups: {one: {concepts: [dog], styles: [a, a], metrics: [NER]}}": "styles has 'a' twice",
    "groups: {one: {concepts: [dog], metrics: []}}": "group 'one' counts nothing",
    "groups: {one: {concepts: [dog], metrics: NER}}": "metrics is 'NER': expected a list",
    "groups: {one: {concepts: [dog], metrics: [NER, NER]}}": "metrics has 'NER' twice",
    "groups: {one: {concepts: [dog], metrics: [ESR-1, NER-0.5]}}": "unknown metric 'NER-0.5'",
    "groups: {one: {concepts: [dog], metrics: [NER style]}}": "unknown metric 'NER style'",
    "groups: {one: {concepts: [dog], metrics: [LPIPS]}}": "unknown metric 'LPIPS'",
    "groups: {one: {concepts: [dog], seeds: -2, metrics: [NER]}}": "seeds is -2: expected a number",
    "groups: {one: {concepts: [dog], seeds: four, metrics: [NER]}}": "seeds is 'four'",
    "groups: {one: {concepts: [dog], seeds: 1.5, metrics: [NER]}}": "seeds is 1.5",
    "groups: {one: {concepts: [dog], seeds: true, metrics: [NER]}}": "seeds is True",
    "groups: {one: {concepts: [dog], seeds: [1, true], metrics: [NER]}}": "seeds is [1, True]",
    "groups: {one: {concepts: [dog], seeds: [], metrics: [NER]}}": "seeds is []",
    "groups: {one: {concepts: [dog], words: , metrics: [NER]}}": "words is None: expected",
    "groups: {one: {words: {dog: [1]}, metrics: [NER]}}": "words of 'dog' is [1]: expected a list",
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
    smoking, weapon = suite.splits["smoking"], suite.splits["weapon"]
    for targets, named in (
        ([*smoking, *weapon], "cigarette"),  # two splits at once
        ([*weapon, "dog"], "dog"),
        (weapon[1:], "bomb"),
    ):
        message = refused(lambda t=targets: suite_prompts(tiny, suite, t))
        for piece in ("suite 'theme' is not made for", repr(named), "weapon: axe+bomb+"):
            assert piece in message
    suite = read_suite("objects")
    assert suite.split(["dog", "fish", "trumpet"]) == ""  # of the classes, but no split
    message = refused(lambda: suite.split(["dog", "bus"]))
    assert "the target 'bus': expected of fish, dog, videocassette" in message
    assert "unknown suite 'zzz': expected one of objects" in refused(lambda: read_suite("zzz"))
    message = refused(lambda: suite_prompts(tiny, suite, suite.classes))
    assert "group 'kept' has no prompts for ('fish', 'dog'" in message


def test_a_file_that_is_no_text_is_one_line(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_bytes(b"about: \xff\xfe")
    assert "mine.yml: 'utf-8' codec can't decode" in refused(lambda: read_suite(path))


def test_a_list_of_prompts_that_is_not_there_or_lacks_a_column(tiny, tmp_path):
    group = "groups: {{one: {{file: {{path: {path}, {more}}}, metrics: [NER]}}}}\nclasses: [dog]"
    path = tmp_path / "list.csv"

    def message(more):
        suite = read_suite(written(tmp_path, group.format(path=path, more=more)))
        return refused(lambda: suite_prompts(tiny, suite, ["dog"]))

    assert "cannot be read" in message("prompt: text")
    path.write_text("txt,kind\na dog,a\n")
    assert "unknown column 'text': did you mean 'txt'" in message("prompt: text")
    assert "unknown column 'prompt'" in message("where: {kind: a}")
    assert "unknown column 'knd'" in message("prompt: txt, where: {knd: a}")
    assert "unknown column 'seed'" in message("prompt: txt, seed: seed")
    assert "group 'one' has no prompts" in message("prompt: txt, where: {kind: b}")


def test_the_text_encoder_alone_is_asked(tiny, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("the UNet was asked")

    monkeypatch.setattr(tiny.unet, "forward", fail)
    with torch.no_grad():
        suite_prompts(tiny, read_suite("objects"), ["dog"])


def test_an_erasure_is_known_by_its_tensors_alone():
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2)}
    erasure = Erasure(tensors, EraseConfig(["dog"]), "base")
    expected = hashlib.sha256(b"a" + np.ones(2, "<f4").tobytes())
    expected.update(b"b" + np.arange(6, dtype="<f4").tobytes())
    assert erasure.digest() == expected.hexdigest()[:16]

    def other(tensors):
        return Erasure(tensors, EraseConfig(["church"]), "another", [{"loss": 1.0}]).digest()

    same = {"a": tensors["a"].half(), "b": tensors["b"].T.contiguous().T}
    assert not same["b"].is_contiguous() and other(same) == erasure.digest()
    nearly = torch.nextafter(tensors["a"], torch.tensor(2.0))
    for changed in ({"a": nearly}, {"a": tensors["a"], "c": tensors["b"]}):
        assert other({"b": tensors["b"]} | changed) != erasure.digest()
