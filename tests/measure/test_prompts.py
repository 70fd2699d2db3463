"""What is drawn: nothing about a prompt or its noise hangs on what is asked for beside it."""

import zlib
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from erase_lib.concepts import EMOJI, concept_table, drawn, style_names
from erase_lib.measure import evaluation_prompts, near_and_far, prompt_table, read_suite
from erase_lib.measure.prompts import COLUMNS, sensitivity_prompts, suite_prompts, target_prompts
from erase_lib.models import load_pipeline
from erase_lib.text import encode_prompts, near_each


@pytest.fixture(scope="module")
def tiny(loaded):
    """Nothing here changes it."""
    return loaded


def column(table, group, name="concept"):
    return list(table.loc[table["group"] == group, name])


def test_a_table_of_prompts_by_hand():
    table = prompt_table([("dog", "noto"), ("cat", None)], seed=[3, 4])
    assert list(table.columns) == ["prompt", "concept", "style", "seed"]
    assert table["prompt"][0] == "a dog in noto style" and table["style"].isna()[1]
    table = prompt_table([("dog", None)], "one {style} {concept}", ["hound"])
    assert (table["prompt"][0], table["concept"][0]) == ("one hound", "dog")
    assert list(prompt_table([]).columns) == ["prompt", "concept", "style"]
    table = prompt_table([("a {style} {x}", "oil")], "{concept} in {style}")  # words are no fields
    assert table["prompt"][0] == "a {style} {x} in oil"
    assert prompt_table([("dog", None)] * 2, target="dog")["target"].tolist() == ["dog"] * 2


@pytest.mark.parametrize("n", [1, 3])
def test_a_table_of_prompts_has_one_of_each_a_row(refused, n):
    pairs = [("dog", "noto"), ("cat", None)]
    refused(prompt_table, pairs, words=["a"] * n, says=f"{n} words for 2 concepts")
    for seeds in ([1] * n, range(n), np.arange(n)):
        refused(prompt_table, pairs, seed=seeds, says=f"{n} seed for 2 concepts")


def test_near_and_far_against_distances_by_hand(tiny):
    words = ["church", "castle", "dog", "pizza", "cow", "mosque", "tree", "boat", "dog"]
    targets = ["church", "dog"]
    near, far = near_and_far(tiny, targets, near=2, far=3, words=words)
    kept = ["castle", "pizza", "cow", "mosque", "tree", "boat"]
    with torch.no_grad():
        e = {w: encode_prompts(tiny, [w]).flatten() for w in words}
    apart = {w: sum(float((e[w] - e[t]).norm()) for t in targets) / 2 for w in kept}
    order = sorted(kept, key=apart.__getitem__)
    assert near == order[:2] and len(far) == 3 and set(far) < set(order[2:])
    assert far == [w for w in kept if w in far]
    assert near_and_far(tiny, targets, near=2, far=3, words=words) == (near, far)
    assert len({tuple(near_and_far(tiny, targets, 2, 3, s, words)[1]) for s in range(8)}) > 1
    near, far = near_and_far(tiny, ["church"])  # of the embedded concepts
    assert (len(near), len(far)) == (10, 50) and not {*near} & {*far} and "church" not in near + far


def test_near_and_far_refuses_what_it_cannot_give(tiny, refused):
    words = ["church", "castle", "dog", "cow"]
    for wrong in ([], "church"):
        refused(near_and_far, tiny, wrong, 1, 1, words=words, says=f"targets {wrong!r}")
    for near in (2, -1):
        said = [f"{near} near", "2 far"]
        refused(near_and_far, tiny, ["church"], near, 2, words=words, says=said)
    for call in (near_and_far, evaluation_prompts):
        refused(call, tiny, ["church"], 1, 1, seed=-1, says="seed is -1")


def test_evaluation_prompts_cover_every_style_and_never_change(tiny, refused):
    table = evaluation_prompts(tiny, ["church", "dog"], near=4, far=8)
    sizes = table.groupby("group")["concept"].agg(["size", "nunique"]).T.to_dict("list")
    assert sizes == {"target": [16, 2], "near": [8, 4], "far": [8, 8]}
    assert table["seed"].tolist() == list(range(1000, 1032)) and table["prompt"].ne("").all()
    assert table[table["concept"] == "dog"]["style"].value_counts().tolist() == [2, 2, 2, 2]
    pd.testing.assert_frame_equal(table, evaluation_prompts(tiny, ["church", "dog"], 4, 8))
    refused(evaluation_prompts, tiny, ["trumpett"], says="'trumpet'")
    refused(evaluation_prompts, tiny, ["noto style"], says=["'noto style'"])


def test_targets_are_looked_for_in_every_style_and_styles_on_several_objects(tiny):
    table = target_prompts(tiny, ["church", "noto style"], pictures=2)
    church, noto = (table[table["target"] == t] for t in ("church", "noto style"))
    assert len(church) == len(noto) == 2 * len(style_names())
    every = [f"a church in {style} style" for style in style_names()]
    assert church["prompt"].tolist() == 2 * every and set(church["concept"]) == {"church"}
    assert noto["concept"].is_unique and set(noto["concept"]) <= set(concept_table()["concept"])
    assert (noto["prompt"] == "a " + noto["concept"] + " in noto style").all()
    assert not set(noto["concept"]) & set(drawn())  # not those that it is trained on


def test_no_target_or_no_picture_is_no_table(tiny, refused):
    for asked, said in (([], 3), "targets 0"), ((["dog"], 0), "pictures 0"), ((["dog"], -1), "-1"):
        refused(target_prompts, tiny, *asked, says=said)


@pytest.mark.parametrize("name", ["objects", "theme", "styles", "side_doors", "attacks"])
def test_noise_hangs_on_prompt_and_seed_alone(name, tiny):
    suite = read_suite(name)
    for targets in suite.splits.values():
        table = suite_prompts(tiny, suite, targets)
        assert tuple(table.columns) == COLUMNS and table["prompt"].str.strip().all()
        assert not table.duplicated(["group", "prompt", "noise"]).any()
        own = table["prompt"].map(lambda prompt: zlib.crc32(prompt.encode()) % 100_000)
        assert (table["noise"] == table["seed"] * 100_000 + own).all()


def test_objects_are_erased_twice_each_and_the_other_classes_kept(tiny):
    suite = read_suite("objects")
    assert set(Counter(t for of in suite.splits.values() for t in of).values()) == {2}
    # one class alone is of the classes too, and of no split
    assert suite.split(["dog"]) == ""
    for targets in (["dog"], ["snake"], list(suite.splits["c"])):
        table = suite_prompts(tiny, suite, targets)
        assert set(column(table, "target")) == set(targets)
        assert set(column(table, "kept")) == set(suite.classes) - set(targets)


def test_a_theme_is_asked_for_by_the_prompts_of_the_file(tiny):
    suite = read_suite("theme")
    implicit = pd.read_csv(EMOJI / "implicit_prompts.csv").groupby("theme")["prompt"]
    for theme, targets in suite.splits.items():
        table = suite_prompts(tiny, suite, targets)
        assert column(table, "implicit", "prompt") == list(implicit.get_group(theme))
        assert pd.isna(column(table, "implicit")).all()
        assert column(table, "explicit") == [t for t in targets for _ in style_names()]
        unrelated = column(table, "unrelated")
        assert len(set(unrelated)) == len(unrelated) == 200 and not set(unrelated) & set(targets)
        assert column(table, "unrelated", "style") == style_names() * 50


def test_styles_are_asked_for_with_the_same_objects(tiny):
    table = suite_prompts(tiny, read_suite("styles"), ["fluent style"])
    assert set(column(table, "target", "style")) == {"fluent"}
    assert set(column(table, "kept", "style")) == set(style_names()) - {"fluent"}
    assert set(column(table, "target")) == set(column(table, "kept"))
    prompts = column(table, "target", "prompt")
    assert len(prompts) == 40 and all(p.endswith("in fluent style") for p in prompts)
    assert not any("style" in p for p in column(table, "unnamed", "prompt"))


def test_side_doors_are_those_of_the_targets(tiny):
    suite = read_suite("side_doors")
    table = suite_prompts(tiny, suite, ["dog"])
    assert set(table["group"]) == {"front door", "synonyms", "keywords", "together"}
    assert "a guide dog in noto style" in set(table["prompt"])
    for targets in (["dog"], *suite.splits.values()):
        table = suite_prompts(tiny, suite, targets)
        assert set(table["concept"]) == set(targets)
        for name in ("synonyms", "misspellings", "keywords"):
            words = suite.groups[name].words
            asked = [f"a {w} in noto style" for t in targets for w in words.get(t, [])]
            assert column(table.query("seed == 1 and style == 'noto'"), name, "prompt") == asked
    table = suite_prompts(tiny, suite, ["trumpet"])  # to which no word of either kind leads
    assert set(table["group"]) == {"front door", "together"}


def test_a_prompt_starts_from_the_same_noise_in_every_suite(tiny):
    objects = read_suite("objects")
    first, other = (suite_prompts(tiny, objects, objects.splits[split]) for split in "ac")
    styles = suite_prompts(tiny, read_suite("styles"), ["noto style"])
    both = [first.merge(table, on=["prompt", "seed"]) for table in (styles, other)]
    assert all(len(t) > 10 and (t["noise_x"] == t["noise_y"]).all() for t in both)
    # a class that is kept in one split and erased in the other, and what is far or near in both
    found = set(both[1].groupby(["group_x", "group_y"]).groups)
    assert {("target", "kept"), ("far", "far")} <= found


def test_at_most_so_many_prompts_are_spread_over_a_group(tiny):
    suite = read_suite("objects")
    table = suite_prompts(tiny, suite, suite.splits["a"], most=10)
    assert set(table["seed"]) == {1} and len(set(column(table, "target"))) == 5
    assert column(table, "far")[-1] > "s"
    whole = suite_prompts(tiny, suite, suite.splits["a"]).query("seed == 1")
    for most in (1, 3, 7, 10, 1000):
        few = suite_prompts(tiny, suite, suite.splits["a"], most)
        for name, part in whole.groupby("group"):
            asked, found = list(part["prompt"]), column(few, name, "prompt")
            places = [asked.index(prompt) for prompt in found]
            gap = -(-len(asked) // most)  # at most between two of them, and to the end
            assert len(places) <= most and places[0] == 0
            assert all(0 < g <= gap for g in np.diff([*places, len(asked)]))


def test_near_and_far_of_the_objects_by_hand():
    shipped, suite = load_pipeline(device="cpu"), read_suite("objects")
    words = [w for w in concept_table()["concept"] if w not in suite.classes]
    where = encode_prompts(shipped, [*words, *suite.classes]).flatten(1).double().numpy()
    at = dict(zip([*words, *suite.classes], where, strict=True))
    # in split b two targets share one of their nearest
    for split, sizes in (("a", [80, 80, 80, 398]), ("b", [80, 80, 76, 399])):
        targets, near = suite.splits[split], []
        for target in targets:
            apart = ((where[: len(words)] - at[target]) ** 2).sum(1) ** 0.5
            near += [words[k] for k in np.argsort(apart)[:4] if words[k] not in near]
        far = [w for w in words if w not in near]
        table = suite_prompts(shipped, suite, targets)
        assert column(table, "near") == [w for w in near for _ in range(4)]
        assert column(table, "far") == far and len({*near, *far}) == 428 - 10
        assert [len(column(table, name)) for name in ("target", "kept", "near", "far")] == sizes


def test_papers_suites_are_read_and_need_their_lists(tiny, refused):
    objects = read_suite("paper_objects")
    table = suite_prompts(tiny, objects, objects.splits["v3"])
    assert len(table) == 10 * 500 and table["noise"].nunique() == 5000
    assert "Image of church" in set(table["prompt"]) and objects.steps == 100
    halves = [set(of) for of in objects.splits.values()]
    for one, other in (halves[:2], halves[2:]):  # v1 and v2 are all ten classes, v3 and v4 too
        assert not one & other and one | other == set(objects.classes)
    refused(suite_prompts, tiny, read_suite("paper_nudity"), ["nudity"], says="i2p.csv")
    styles = suite_prompts(tiny, read_suite("paper_styles"), ["Tyler Edlin style"])
    assert dict(styles["group"].value_counts()) == {"target": 10 * 10, "kept": 10 * 4 * 3}
    assert "a castle in Tyler Edlin style" in set(styles["prompt"])


def test_a_group_may_be_smaller_than_its_list(tiny, suite_of, refused):
    text = """
classes: [dog, church]
groups:
  near: {concepts: near, most: 2, styles: none, metrics: [NER]}
  some: {concepts: far, most: 40, styles: none, metrics: [NER]}
  all: {concepts: far, styles: none, metrics: [NER]}
  more: {concepts: far, most: 1000, styles: none, metrics: [NER]}
"""
    others = [w for w in concept_table()["concept"] if w not in ("dog", "church")]
    near = near_each(tiny, ["dog"], others, 2)
    far = [w for w in others if w not in near]
    table = suite_prompts(tiny, suite_of(text), ["dog"])
    assert column(table, "near") == near and (len(near), len(far)) == (2, 424)
    assert column(table, "all") == column(table, "more") == far
    places = [far.index(word) for word in column(table, "some")]
    assert len(places) == 40 and places == sorted(set(places)) and places[-1] >= 380
    table = suite_prompts(tiny, suite_of(text.replace("near, most: 2", "near")), ["dog"])
    assert column(table, "near") == near_each(tiny, ["dog"], others, 4)
    # without a group `near` nothing is kept back, and a style has none near it
    suite = suite_of(text.replace("  near: {concepts: near", "  n: {concepts: far"))
    assert column(suite_prompts(tiny, suite, ["dog"]), "all") == others
    suite = suite_of(text.replace("[dog, church]", "[noto style]"))
    refused(suite_prompts, tiny, suite, ["noto style"], says="'near' prompts")


def test_what_a_group_may_say(tiny, tmp_path, suite_of):
    path = tmp_path / "list.csv"
    path.write_text("text,what,number,kind\nan old dog,dog,7,a\na cat,cat,8,b\nnull,dog,9,c\n")
    suite = suite_of(f"""
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
  word: {{file: {{path: {path}, prompt: text, where: {{kind: c}}}}, metrics: [KID]}}
  file:
    file: {{path: {path}, prompt: text, concept: what, seed: number, where: {{kind: a}}}}
    metrics: [PSR-1]
""")
    assert (suite.steps, suite.guidance_scale, suite.thresholds) == (3, 2.0, (0.5,))
    table = suite_prompts(tiny, suite, ["dog"])
    asked = [(f"one {word}", "dog", None, seed) for word in ("puppy", "hound") for seed in (5, 9)]
    columns = ["prompt", "concept", "style", "seed"]
    assert list(table[columns].head(4).itertuples(index=False, name=None)) == asked
    assert column(table, "styled", "prompt") == ["a rose in noto style", "a bus in noto style"]
    assert column(table, "turn", "style") == style_names()[:2]
    assert column(table, "plain", "prompt") == ["a rose"]
    assert column(table, "word", "prompt") == ["null"]  # and not a missing one
    last = table.iloc[-1]
    assert last[["prompt", "concept", "seed", "noise"]].tolist() == ["an old dog", "dog", 7, 7]


def test_a_list_of_prompts_that_is_not_there_or_lacks_a_column(tiny, tmp_path, suite_of, refused):
    path = tmp_path / "list.csv"
    group = "groups: {one: {file: {path: PATH, MORE}, metrics: [NER]}}\nclasses: [dog]"
    for more, said in (
        ("prompt: text", "list.csv read"),  # there is none yet
        ("prompt: text", "'text' 'txt'"),
        ("where: {kind: a}", "'prompt'"),
        ("prompt: txt, where: {knd: a}", "'knd'"),
        ("prompt: txt, seed: seed", "'seed'"),
        ("prompt: txt, where: {kind: b}", "'one' prompts"),
    ):
        suite = suite_of(group.replace("PATH", str(path)).replace("MORE", more))
        refused(suite_prompts, tiny, suite, ["dog"], says=said)
        path.write_text("txt,kind\na dog,a\n")
    group = group.replace("PATH", str(path)).replace("MORE", "prompt: txt, seed: n")
    for number in ("x", "1.5", "-1", "", "99999999999999999999"):
        path.write_text(f"txt,n\na dog,3\na cat,{number}\n")
        refused(suite_prompts, tiny, suite_of(group), ["dog"], says=["n is '", "whole numbers"])


def test_more_pictures_than_can_be_drawn_are_counted_first(tiny, suite_of, refused):
    every = "groups: {one: {concepts: far, seeds: 10000, metrics: [NER]}}\nclasses: [dog]"
    refused(suite_prompts, tiny, suite_of(every), ["dog"], says="'one' seeds 1,000,000")


def test_a_suite_without_prompts_for_these_targets(tiny, suite_of, refused):
    text = "groups: {one: {words: {dog: [hound]}, metrics: [NER]}}\nclasses: [dog, cat]"
    suite = suite_of(text)
    refused(suite_prompts, tiny, suite, ["cat"], says="'mine' prompts ['cat']")
    for most in (-1, -5):
        refused(suite_prompts, tiny, suite, ["dog"], most, says=f"most is {most}")
    for some in (suite, read_suite("theme")):
        refused(suite_prompts, tiny, some, [], says="targets []")


def test_a_concept_has_the_same_pictures_whatever_else_is_asked_for():
    alone = sensitivity_prompts(["dog"], 6)
    beside = sensitivity_prompts(["cat", "dog", "church"], 9, ["", "a photo"])
    dog = beside[beside["concept"] == "dog"].head(6).reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, dog)
    assert alone["style"].value_counts().tolist() == [2, 2, 1, 1]  # the styles in turn
    assert (alone["prompt"] == "a dog in " + alone["style"] + " style").all()
    table = sensitivity_prompts(concept_table()["concept"].tolist(), 3, ["", "a photo"])
    assert beside["seed"].is_unique and table["seed"].is_unique
    assert not table["seed"].isin(range(1000, 9000)).any()  # of the evaluations, of the strengths
    # neutral concepts are their own prompt, without a style
    table = sensitivity_prompts(["dog"], 2, ["", "a photo"], styles=["oil"])
    assert table["prompt"].tolist() == ["a dog in oil style"] * 2 + ["", "", "a photo", "a photo"]
    assert table["style"].notna().tolist() == [True] * 2 + [False] * 4


def test_sensitivity_prompts_that_make_no_sense(refused):
    for concepts, values, said in (
        ([], {}, "concepts []"),
        ("dog", {}, "concepts 'dog' list"),
        (["dog", "cat", "dog"], {}, "'dog' twice"),
        (["dog", "a photo"], {"neutral": ["a photo"]}, ["'a photo' twice"]),
        (["dog"], {"pictures": 0}, "pictures 0"),
        (["dog"], {"pictures": 10**9}, "pictures 1000000000 32"),
    ):
        refused(sensitivity_prompts, concepts, **values, says=said)
