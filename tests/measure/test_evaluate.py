"""From pictures to rows: rates by hand, with instruments that say what they are told; and an
evaluation is whole, goes on where it was cut off, and leaves the model as it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from erase_lib import EraseConfig, EraseError
from erase_lib.closed_form import erase_closed_form
from erase_lib.measure import pictures as cache
from erase_lib.measure.distances import fid, kid
from erase_lib.measure.evaluate import (
    COLUMNS,
    evaluate,
    evaluate_runs,
    successes,
    suite_rows,
    summary,
)
from erase_lib.measure.instruments import Instruments, load_instruments
from erase_lib.measure.pictures import real_pictures
from erase_lib.measure.statistics import bootstrap
from erase_lib.measure.suite import Group, Suite, read_suite


def table(rank, model):
    """Eight pictures: two of the target (church), two near it (castle), four far away."""
    concept = ["church"] * 2 + ["castle"] * 2 + ["dog"] * 2 + ["pizza"] * 2
    return pd.DataFrame(
        {
            "prompt": [f"a {c}" for c in concept],
            "concept": concept,
            "seed": [0, 1] * 4,
            "model": model,
            "rank": rank,
            "measured_by": "by hand",
            "seconds": 0.5,
        }
    )


BEFORE_BY_HAND = table([0, 0, 0, 0, 0, 0, 0, 3], "original")
AFTER_BY_HAND = table([9, 1, 0, 2, 0, 0, 0, 0], "erased")


def test_successes_by_hand():
    rank = pd.Series([9, 1, 0, np.nan])
    expected = {
        "ESR-1": [1, 1, 0],
        "ESR-5": [1, 0, 0],
        "PSR-1": [0, 0, 1],
        "PSR-5 style": [0, 1, 1],
    }
    for metric, values in expected.items():
        found = successes(metric, rank)
        assert found[:3].tolist() == values and np.isnan(found[3])


def test_summary_of_a_hand_made_table():
    shuffled = AFTER_BY_HAND.sample(frac=1, random_state=0)  # rows are matched by prompt and seed
    rows = summary(BEFORE_BY_HAND, shuffled, ["church"], ["castle"]).set_index(["metric", "model"])
    expected = {
        "ESR-1": (0, 1, 1),
        "PSR-1 near": (1, 0.5, -0.5),
        "PSR-1 far": (0.75, 1, 0.25),
        "PSR-1": (5 / 6, 5 / 6, 0),
    }
    for metric, values in expected.items():
        assert rows.loc[metric, "value"].tolist() == pytest.approx(values)
    assert (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
    assert rows.loc[("PSR-1", "erased"), ["n", "prompts", "seeds"]].tolist() == [6, 3, 2]
    assert rows.loc[("PSR-1 far", "difference"), "seconds"] == pytest.approx(4.0)


def test_summary_refuses_tables_that_do_not_match(refused):
    other = AFTER_BY_HAND.assign(seed=[5, 6] * 4)
    twice = [pd.concat([t, t.head(1)]) for t in (BEFORE_BY_HAND, AFTER_BY_HAND)]
    for tables in ((BEFORE_BY_HAND, other), twice):
        assert "same prompts and seeds" in refused(summary, *tables, ["church"])


CONCEPTS = ["dog", "cat", "bus", "hat", "rose", "key", "pen"]
BEFORE = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(6)]
AFTER = [Image.new("RGB", (8, 8), (i, 255, 0)) for i in range(6)]


def place(picture):
    """Which picture of which list it is."""
    red, green, _ = picture.getpixel((0, 0))
    return red + 6 * (green > 0)


class FakeClassifier:
    name, concepts, styles = "a classifier", CONCEPTS, []
    # the rank of "dog" in each picture: before all first, after 0, 1, 4, 5 …
    ranks = [0, 0, 1, 0, 0, 0] + [0, 1, 4, 5, 0, 2]

    def likelihoods(self, pictures):
        rows = []
        for picture in pictures:
            order = CONCEPTS[1:]
            order.insert(self.ranks[place(picture)], "dog")
            rows.append([7.0 - order.index(c) for c in CONCEPTS])
        return np.array(rows, np.float32) / 28, np.zeros((len(rows), 0))

    def index(self, names):
        return np.array([CONCEPTS.index(name) for name in names], dtype=int)


class FakeClip:
    name = "a clip"
    angle = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0] + [0.0, 0.3, 0.6, 0.9, 1.2, 1.5]

    def image_features(self, pictures):
        angles = torch.tensor([self.angle[place(p)] for p in pictures])
        return torch.stack([angles.cos(), angles.sin()], 1)

    def text_features(self, prompts):
        return torch.tensor([[1.0, 0.0]]).expand(len(prompts), 2)


class FakeDetector:
    name = "a detector"
    found = [0.9, 0.9, 0.9, 0.4, 0.4, 0.4] + [0.9, 0.35, 0.2, 0.1, 0.1, 0.1]

    def scores(self, pictures):
        return np.array([self.found[place(p)] for p in pictures])


PROMPTS = pd.DataFrame(
    {
        "group": ["target"] * 4 + ["theme"] * 2,
        "prompt": ["a dog", "a dog", "one dog", "one dog", "a pack", "a leash"],
        "concept": ["dog"] * 4 + [None] * 2,
        "style": None,
        "seed": [1, 2, 1, 2, 1, 1],
        "noise": range(6),
    }
)


def suite(**groups):
    return Suite("mine", "", groups, thresholds=(0.3, 0.5))


def rows_of(metrics, prompts=PROMPTS, clip=None):
    of = suite(target=Group(metrics), theme=Group(("NER",)))
    given = Instruments(FakeClassifier(), clip or FakeClip(), FakeDetector(), net="clip")
    pictures, rows = suite_rows(of, prompts, BEFORE, AFTER, given)
    return pictures, rows.set_index(["group", "metric", "model"]).sort_index()


def test_every_metric_by_hand():
    # of each: difference, erased, original
    _, rows = rows_of(("ESR-1", "ESR-5", "PSR-1", "NER", "CLIP score", "distance"))
    value = rows["value"]
    # dog is first in 3 of 4 before and 1 of 4 after; in the first five in 4 and 3
    assert value["target", "ESR-1"].tolist() == [0.5, 0.75, 0.25]
    assert value["target", "ESR-5"].tolist() == [0.25, 0.25, 0.0]
    assert value["target", "PSR-1"].tolist() == [-0.5, 0.25, 0.75]
    assert value["target", "NER-0.3"].tolist() == [-0.5, 0.5, 1.0]
    assert value["target", "NER-0.5"].tolist() == [-0.5, 0.25, 0.75]
    assert value["theme", "NER-0.3"].tolist() == [-1.0, 0.0, 1.0]
    cosines = np.cos([0.0, 0.3, 0.6, 0.9])
    assert value["target", "CLIP score"].tolist() == pytest.approx(
        [100 * (cosines.mean() - 1), 100 * cosines.mean(), 100], abs=1e-4
    )
    assert rows.loc[("target", "distance")].index.tolist() == ["erased"]
    assert value["target", "distance", "erased"] == pytest.approx((1 - cosines).mean(), abs=1e-5)
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()


def test_every_row_says_of_what_and_by_what():
    pictures, rows = rows_of(("ESR-1", "NER", "CLIP score", "distance"))
    assert set(rows.index.names) | set(rows.columns) == set(COLUMNS)
    by = rows["measured_by"]
    assert by["target", "ESR-1", "erased"] == "a classifier"
    assert by["target", "NER-0.3", "erased"] == "a detector"
    assert by["target", "CLIP score", "erased"] == "a clip"
    assert by["target", "distance", "erased"] == "CLIP feature distance (a clip)"
    row = rows.loc[("target", "ESR-1", "difference")]
    assert (row["n"], row["prompts"], row["seeds"]) == (4, 2, "1, 2") and row["seconds"] >= 0
    assert len(pictures) == 12 and set(pictures["model"]) == {"original", "erased"}
    assert pictures["measured_by"].nunique() == 1 and "a detector" in pictures["measured_by"][0]


def test_a_prompt_without_a_concept_is_seen_but_not_ranked():
    pictures, _ = rows_of(("ESR-1",))
    theme = pictures[pictures["group"] == "theme"]
    assert theme["rank"].isna().all() and theme["seen"].isin(CONCEPTS).all()
    assert pictures[pictures["group"] == "target"]["rank"].notna().all()


def test_the_interval_draws_prompts_and_pairs_the_pictures():
    _, rows = rows_of(("ESR-1",))
    # both prompts changed by the same: the difference is sure, the levels are not
    change = rows.loc[("target", "ESR-1", "difference")]
    assert change["low"] == change["high"] == change["value"] == 0.5
    assert rows.loc[("target", "ESR-1", "erased"), "low"] < 0.75


def test_a_group_without_prompts_is_left_out():
    _, rows = rows_of(("ESR-1",), PROMPTS.assign(group="target").head(6).assign(concept="dog"))
    assert set(rows.index.get_level_values("group")) == {"target"}


def test_sets_are_held_against_the_unedited_model_where_nothing_is_real():
    prompts = PROMPTS.assign(group="target", concept="dog", prompt=list("abcdef"))
    with pytest.warns(UserWarning, match="fewer than 2,000"):
        _, rows = rows_of(("FID", "KID"), prompts)
    assert rows.index.tolist() == [("target", "FID", "erased"), ("target", "KID", "erased")]
    assert "against 6 pictures of the unedited model" in rows["measured_by"].iloc[0]
    assert "biased" in rows["note"].iloc[0] and (rows["value"] > 0).all()
    with pytest.warns(UserWarning, match="left out: 4 pictures of 2 prompts, expected of 3"):
        _, rows = rows_of(("FID", "ESR-1"))
    assert "FID" not in rows.index.get_level_values("metric")


def test_real_pictures_of_the_data_set_are_the_reference():
    prompts = PROMPTS.assign(group="target", concept=["dog", "cat", "bus"] * 2, style="noto")
    prompts = prompts.assign(prompt=list("abcdef"))
    with pytest.warns(UserWarning, match="fewer than 2,000"):
        of = suite(target=Group(("FID",)))
        clip = FakeClip()
        clip.image_features = lambda pictures: torch.rand(
            len(pictures), 2, generator=torch.Generator().manual_seed(len(pictures))
        )
        given = Instruments(FakeClassifier(), clip, net="clip")
        _, rows = suite_rows(of, prompts, BEFORE, AFTER, given)
    assert list(rows["model"]) == ["original", "erased"]
    # two seeds of a prompt are held against the same picture, which counts once
    assert rows["measured_by"].str.contains("against 3 real pictures").all()
    assert rows["n"].tolist() == [6, 6]


def test_a_style_is_ranked_among_the_styles(judge):
    prompts = pd.DataFrame(
        {"concept": ["dog", "cat", "bus"], "style": ["noto", "fluent", "openmoji"], "seed": 1}
    ).assign(prompt=list("abc"), group="target", noise=0)
    right = real_pictures(prompts)
    wrong = real_pictures(prompts.assign(style=["fluent", "noto", "twemoji"]))
    of = suite(target=Group(("ESR-1 style", "PSR-1 style", "PSR-1")))
    _, rows = suite_rows(of, prompts, right, wrong, Instruments(judge, FakeLike(), net="clip"))
    value = rows.set_index(["metric", "model"])["value"]
    assert value["PSR-1 style", "original"] == 1 and value["ESR-1 style", "erased"] == 1
    assert value["PSR-1", "original"] == value["PSR-1", "erased"] == 1


class FakeLike(FakeClip):
    def image_features(self, pictures):
        return torch.tensor([[1.0, 0.0]]).expand(len(pictures), 2)


MINE = """
thresholds: [0.5, 0.3]
groups:
  target: {concepts: [dog], seeds: 2, metrics: [PSR-1, NER, distance]}
  doors: {words: {dog: [hound]}, metrics: [ESR-1]}
  theme: {concepts: [dog], metrics: [CLIP score]}
"""


def test_rows_stand_in_the_order_of_the_suite(tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE)
    given = Instruments(FakeClassifier(), FakeClip(), FakeDetector(), net="clip")
    # of the doors no prompt is there
    _, rows = suite_rows(read_suite(tmp_path / "mine.yaml"), PROMPTS, BEFORE, AFTER, given)
    assert list(rows.columns) == COLUMNS and set(rows["suite"]) == {"mine"}
    both = ["original", "erased", "difference"]
    metrics = ["PSR-1", "NER-0.5", "NER-0.3"]
    expected = [("target", metric, model) for metric in metrics for model in both]
    expected += [("target", "distance", "erased")]
    expected += [("theme", "CLIP score", model) for model in both]
    assert list(rows[["group", "metric", "model"]].itertuples(index=False, name=None)) == expected
    assert rows["note"].eq("").all() and rows.drop(columns="note").notna().all(axis=None)


def test_intervals_are_those_over_prompts_and_a_difference_is_erased_minus_original():
    metrics = ("ESR-1", "ESR-5", "PSR-1", "NER", "CLIP score")
    pictures, rows = rows_of(metrics)
    old, new = (pictures[pictures["model"] == m].iloc[:4] for m in ("original", "erased"))
    by_hand = {"ESR-1": [(t["rank"] >= 1) * 1.0 for t in (old, new)]}
    by_hand["PSR-1"] = [1 - values for values in by_hand["ESR-1"]]
    by_hand["NER-0.3"] = [(t["score"] > 0.3) * 1.0 for t in (old, new)]
    by_hand["CLIP score"] = [t["clip"] for t in (old, new)]
    for metric, (before, after) in by_hand.items():
        found = rows.loc["target", metric][["low", "high"]]
        assert tuple(found.loc["original"]) == bootstrap(before, old["prompt"])
        assert tuple(found.loc["erased"]) == bootstrap(after, old["prompt"])
        gaps = np.asarray(after, float) - np.asarray(before, float)
        assert tuple(found.loc["difference"]) == bootstrap(gaps, old["prompt"])
    value = rows["value"].unstack("model")
    assert (value["difference"] - (value["erased"] - value["original"])).abs().max() < 1e-5


def test_every_picture_is_told_by_every_instrument():
    pictures, _ = rows_of(("ESR-1",))
    old, new = (pictures[pictures["model"] == m] for m in ("original", "erased"))
    assert list(new["rank"])[:4] == [0, 1, 4, 5] and list(new["seen"])[:2] == ["dog", "cat"]
    assert new["probability"].tolist()[:4] == pytest.approx([7 / 28, 6 / 28, 3 / 28, 2 / 28])
    assert old["clip"].tolist() == [100] * 6
    assert new["clip"].tolist() == pytest.approx(100 * np.cos(0.3 * np.arange(6)), abs=1e-4)
    assert new["score"].tolist() == FakeDetector.found[6:]
    assert (old["distance"] == 0).all()
    assert new["distance"].tolist() == pytest.approx(1 - np.cos(0.3 * np.arange(6)), abs=1e-5)
    assert "style_seen" not in pictures  # the classifier tells none
    assert pictures["measured_by"][0] == (
        "a classifier; a clip; CLIP feature distance (a clip); a detector"
    )
    of = suite(target=Group(("ESR-1",)))
    given = Instruments(FakeClassifier(), FakeClip(), net="clip")
    pictures, _ = suite_rows(of, PROMPTS, BEFORE, AFTER, given)
    assert "score" not in pictures and pictures["measured_by"][0].endswith("distance (a clip)")


def test_a_fit_below_zero_counts_as_none():
    clip = FakeClip()
    clip.angle = [2.0] * 6 + [0.0] * 6
    _, rows = rows_of(("CLIP score",), clip=clip)
    assert rows.loc["target", "CLIP score"]["value"].tolist() == pytest.approx([100, 100, 0])


def test_what_names_no_concept_is_not_counted():
    metrics = ("ESR-1", "ESR-5", "PSR-1", "CLIP score")
    _, alone = rows_of(metrics)
    _, rows = rows_of(metrics, PROMPTS.assign(group="target"))
    columns = ["value", "low", "high", "n", "prompts", "seeds"]
    ranked = [m for m in metrics if m != "CLIP score"]
    pd.testing.assert_frame_equal(
        rows.loc["target"].loc[ranked, columns], alone.loc["target"].loc[ranked, columns]
    )
    assert set(rows.loc["target", "CLIP score"]["n"]) == {6}
    with pytest.raises(EraseError) as error:
        rows_of(("PSR-1",), PROMPTS.assign(group="target", concept=None))
    for piece in ("'mine'", "'target'", "PSR-1", "leave the metric out"):
        assert piece in str(error.value)


def test_the_seconds_of_an_instrument_are_shared_by_the_groups():
    _, rows = rows_of(("NER", "distance"))
    seconds = rows["seconds"]
    assert seconds["target", "NER-0.3", "erased"] == pytest.approx(
        2 * seconds["theme", "NER-0.3", "erased"]
    )


def six_prompts(**values):
    return PROMPTS.assign(group="target", concept="dog", prompt=list("abcdef")).assign(**values)


class Spread(FakeClip):
    """Features of any picture, the same for the same pixels."""

    def image_features(self, pictures):
        means = torch.tensor(np.array([np.asarray(p).mean((0, 1)) for p in pictures]))
        return torch.nn.functional.normalize(means + 50, dim=1).float()

    def text_features(self, prompts):
        return torch.ones(len(prompts), 3)


@pytest.mark.filterwarnings("ignore:.*fewer than 2,000")
def test_sets_are_held_against_the_given_pictures():
    rng = np.random.default_rng(0)
    real = [Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)) for _ in range(5)]
    given = Instruments(FakeClassifier(), Spread(), net="clip", reference=real)
    of = suite(target=Group(("KID", "FID")))
    # given ones come before those of the data set
    _, rows = suite_rows(of, six_prompts(style="noto"), BEFORE, AFTER, given)
    value = rows.set_index(["metric", "model"])["value"]
    assert list(value.index) == [
        (metric, model) for model in ("original", "erased") for metric in ("FID", "KID")
    ]
    for model, drawn in (("original", BEFORE), ("erased", AFTER)):
        sets = given.clip.image_features(real), given.clip.image_features(drawn)
        assert value["FID", model] == pytest.approx(fid(*sets))
        assert value["KID", model] == pytest.approx(kid(*sets))
    assert rows["measured_by"].str.contains("a clip features.*against 5 real pictures").all()
    assert (rows["low"] < rows["value"]).all() and (rows["value"] < rows["high"]).all()
    assert (rows["seconds"] > 0).all() and set(rows["n"]) == {6}


@pytest.mark.filterwarnings("ignore:.*fewer than 2,000")
def test_one_real_picture_is_no_set():
    given = Instruments(FakeClassifier(), Spread(), net="clip")
    of = suite(target=Group(("KID",)))
    _, rows = suite_rows(of, six_prompts(style="noto"), BEFORE, AFTER, given)
    assert list(rows["model"]) == ["erased"]
    assert "against 6 pictures of the unedited model" in rows["measured_by"].iloc[0]
    sets = (given.clip.image_features(some) for some in (BEFORE, AFTER))
    assert rows["value"].iloc[0] == pytest.approx(kid(*sets))


def test_styles_that_the_judge_does_not_know_are_not_counted(judge):
    style = ["noto", None, "oil"] * 2
    given = Instruments(judge, FakeLike(), net="clip")
    of = suite(target=Group(("PSR-1 style",)))
    pictures, rows = suite_rows(of, six_prompts(style=style), BEFORE, AFTER, given)
    assert set(rows["n"]) == {2} and set(rows["measured_by"]) == {judge.name}
    assert pictures["style_rank"].notna().tolist() == [True, False, False] * 4
    assert pictures["style_seen"].isin(judge.styles).all()
    assert pictures["rank"].isna().all()  # concepts are not asked for, so they may be any
    suite_rows(of, six_prompts(style="noto", concept="tench"), BEFORE, AFTER, given)
    for style in (None, "oil"):
        with pytest.raises(EraseError, match="counts PSR-1 style, but no prompt names a style"):
            suite_rows(of, six_prompts(style=style), BEFORE, AFTER, given)


TARGET = Group(("ESR-1", "CLIP score", "distance"), seeds=(1, 2), concepts="targets")
FAR = Group(("PSR-1", "NER"), concepts=("cat", "bus", "rose"), styles="turn")
FIELDS = ["group", "metric", "model", "value", "low", "high", "n"]
SUITE = Suite(
    "mine", "", {"target": TARGET, "far": FAR}, ("dog", "church"), {"a": ("dog",)}, steps=2
)


@pytest.fixture
def erasure(tiny):
    return erase_closed_form(tiny, EraseConfig(["dog"], method="uce", nearest=4))


@pytest.fixture
def instruments():
    return load_instruments(SUITE, ["dog"], detector="weapon")


@pytest.fixture
def erasing(tiny, erasure, instruments, tmp_path, monkeypatch):
    """`evaluate`, its files of four pictures, in a folder of the test's own."""
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(cache, "PART", 4)

    def call(folder=None, of=erasure, **settings):
        folder = tmp_path / folder if folder else None
        return evaluate(tiny, of, SUITE, instruments, folder, progress=False, **settings)

    return call


def test_it_is_whole_and_is_not_drawn_twice(tiny, erasing, tmp_path, drawings):
    teacher = {name: t.clone() for name, t in tiny.unet.state_dict().items()}
    found = erasing("run")
    assert sum(drawings) == 2 * (8 + 3) and found.targets == ("dog",)
    assert len(found.before) == len(found.after) == 11 and len(found.pictures) == 22
    rows = pd.read_csv(tmp_path / "run" / "mine_rows.csv", keep_default_na=False)
    assert len(rows) == len(found.rows) == 3 + 3 + 1 + 3 + 3
    saved = pd.read_parquet(tmp_path / "run" / "mine_pictures.parquet")
    assert list(saved["prompt"]) == list(found.pictures["prompt"])
    assert all(t.equal(teacher[name]) for name, t in tiny.unet.state_dict().items())
    again = erasing("run")
    assert sum(drawings) == 22
    pd.testing.assert_frame_equal(again.rows[FIELDS], found.rows[FIELDS])
    # another erasure's pictures are its own, the unedited model's are everybody's
    erasing("more", erase_closed_form(tiny, EraseConfig(["dog"], method="uce", nearest=5)))
    assert sum(drawings) == 33 and not list((tmp_path / "run").rglob("*.tmp"))
    names = [len(list((tmp_path / n).glob("*.npz"))) for n in ("cache", "run/pictures")]
    assert names == [3, 3]


def test_cut_off_it_goes_on_with_what_is_there(erasing, drawings):
    whole = erasing("one")
    del drawings[:]
    drawings.cut = 2
    with pytest.raises(KeyboardInterrupt):
        erasing("two")
    rest = erasing("two")
    # of the erased pictures' three files the first was there; the originals are everybody's
    assert drawings == [4, 4, 4, 3]
    for a, b in zip(whole.after, rest.after, strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()
    pd.testing.assert_frame_equal(rest.rows[FIELDS], whole.rows[FIELDS])


def test_runs_that_cannot_be_evaluated_are_named(tiny, erasure, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    erasure.save(tmp_path / "good")
    erasure.save(tmp_path / "half")
    (tmp_path / "half" / "config.json").unlink()
    erasure.base = "another"
    erasure.save(tmp_path / "another")
    other = erase_closed_form(tiny, EraseConfig(["key"], method="uce", nearest=4))
    other.save(tmp_path / "other")
    names = [str(tmp_path / n) for n in ("none", "half", "good", "another", "other")]
    found, wrong = evaluate_runs(tiny, names, SUITE, detector="weapon", progress=False)
    assert list(found) == [names[2]] and list(wrong) == [names[i] for i in (0, 1, 3, 4)]
    for name, message in zip(wrong, ("missing", "missing", "base model", "'key'"), strict=True):
        assert message in wrong[name] and "\n" not in wrong[name]
    for bad in ([], "runs/one", tmp_path / "good"):
        with pytest.raises(EraseError, match="expected a list"):
            evaluate_runs(tiny, bad, SUITE)


def test_what_cannot_be_written_or_counted_is_said(tiny, erasing, instruments, tmp_path, drawings):
    (tmp_path / "file").write_text("")
    with pytest.raises(EraseError, match="cannot write to .*file"):
        erasing("file")
    del drawings[:]
    with pytest.raises(EraseError, match="'key'"):
        erasing(of=erase_closed_form(tiny, EraseConfig(["key"], method="uce", nearest=4)))
    other = erase_closed_form(tiny, EraseConfig(["dog"], method="uce", nearest=4))
    other.base = "another"
    with pytest.raises(EraseError, match="another"):
        erasing(of=other)
    instruments.detector = None
    with pytest.raises(EraseError, match="NER"):
        erasing()
    assert not drawings  # nothing is drawn for what does not fit


def test_results_that_cannot_be_written_leave_the_older_ones(erasing, tmp_path):
    found = erasing(most=1)
    found.save(tmp_path / "run")
    before = (tmp_path / "run" / "mine_rows.csv").read_bytes()
    (tmp_path / "run" / "mine_pictures.parquet.tmp").mkdir()
    found.rows["value"] = 0.0
    with pytest.raises(EraseError, match="cannot write to .*run .*: free space"):
        found.save(tmp_path / "run")
    assert (tmp_path / "run" / "mine_rows.csv").read_bytes() == before


def test_at_most_so_many_prompts(erasing):
    found = erasing(most=2)
    sizes = found.pictures.groupby(["model", "group"])["prompt"].agg(["size", "nunique"])
    assert (sizes == 2).all(axis=None) and len(found.before) == 4
