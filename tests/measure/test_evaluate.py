"""From pictures to rows, by instruments that say what they are told; an evaluation is whole and
goes on where it was cut off; an edit scaled, and the smallest scale at which it erases."""

import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from erase_lib import EraseConfig, Erasure, erase
from erase_lib.measure import first_strength, summary
from erase_lib.measure import pictures as cache
from erase_lib.measure.distances import fid, kid
from erase_lib.measure.evaluate import COLUMNS, evaluate, evaluate_runs, successes, suite_rows
from erase_lib.measure.instruments import Instruments, load_instruments
from erase_lib.measure.pictures import real_pictures
from erase_lib.measure.statistics import bootstrap
from erase_lib.measure.suite import Group, Suite
from erase_lib.measure.world import World

measuring = import_module("erase_lib.measure.evaluate")  # of the same name as its function


def table(rank, model):
    """Eight pictures: two of the target (church), two near it (castle), four far away."""
    concepts = [name for name in ("church", "castle", "dog", "pizza") for _ in range(2)]
    rows = pd.DataFrame({"concept": concepts, "seed": [0, 1] * 4, "rank": rank, "model": model})
    return rows.assign(prompt="a " + rows["concept"], measured_by="by hand", seconds=0.5)


BEFORE_BY_HAND = table([0, 0, 0, 0, 0, 0, 0, 3], "original")
AFTER_BY_HAND = table([9, 1, 0, 2, 0, 0, 0, 0], "erased")


def test_successes_by_hand():
    expected = {"ESR-1": [1, 1, 0], "ESR-5": [1, 0, 0]}
    expected |= {"PSR-1": [0, 0, 1], "PSR-5 style": [0, 1, 1]}
    for metric, values in expected.items():
        ranks = [9, 1, 0, np.nan]
        found = successes(metric, pd.DataFrame({"rank": ranks, "style_rank": ranks}))
        assert found[:3].tolist() == values and np.isnan(found[3])


def test_summary_of_a_hand_made_table(refused):
    shuffled = AFTER_BY_HAND.sample(frac=1, random_state=0)  # rows are matched by prompt and seed
    rows = summary(BEFORE_BY_HAND, shuffled, ["church"], ["castle"]).set_index(["metric", "model"])
    expected = {"ESR-1": (0, 1, 1), "PSR-1": (5 / 6, 5 / 6, 0)}
    expected |= {"PSR-1 near": (1, 0.5, -0.5), "PSR-1 far": (0.75, 1, 0.25)}
    for metric, values in expected.items():
        assert rows.loc[metric, "value"].tolist() == pytest.approx(values)
    assert (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
    assert rows.loc[("PSR-1", "erased"), ["n", "prompts", "seeds"]].tolist() == [6, 3, 2]
    assert rows.loc[("PSR-1 far", "difference"), "seconds"] == pytest.approx(4.0)
    other = AFTER_BY_HAND.assign(seed=[5, 6] * 4)
    twice = [pd.concat([t, t.head(1)]) for t in (BEFORE_BY_HAND, AFTER_BY_HAND)]
    for tables in ((BEFORE_BY_HAND, other), twice):
        refused(summary, *tables, ["church"], says="same prompts seeds")


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
        ranks = [self.ranks[place(picture)] for picture in pictures]
        # 7 to 1, of which the dog has what its rank says and the others the rest in their order
        rows = [[7 - rank, *np.delete(np.arange(7, 0, -1), rank)] for rank in ranks]
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


class Spread(FakeClip):
    """Features of any picture, the same for the same pixels."""

    def image_features(self, pictures):
        means = torch.tensor(np.array([np.asarray(p).mean((0, 1)) for p in pictures]))
        return torch.nn.functional.normalize(means + 50, dim=1).float()

    def text_features(self, prompts):
        return torch.ones(len(prompts), 3)


class FakeDetector:
    name = "a detector"
    found = [0.9, 0.9, 0.9, 0.4, 0.4, 0.4] + [0.9, 0.35, 0.2, 0.1, 0.1, 0.1]

    def scores(self, pictures):
        return np.array([self.found[place(p)] for p in pictures])


PROMPTS = pd.DataFrame(
    {"prompt": ["a dog", "a dog", "one dog", "one dog", "a pack", "a leash"], "style": None}
    | {"group": ["target"] * 4 + ["theme"] * 2, "concept": ["dog"] * 4 + [None] * 2}
    | {"seed": [1, 2, 1, 2, 1, 1], "noise": range(6)}
)


def six_prompts(**values):
    return PROMPTS.assign(group="target", concept="dog", prompt=list("abcdef")).assign(**values)


def rows_of(metrics, prompts=PROMPTS, clip=None, detector=FakeDetector, judge=None, **options):
    groups = {"target": Group(metrics), "theme": Group(("NER",))}
    suite = Suite("mine", "", groups, thresholds=(0.3, 0.5))
    found = detector and detector()
    given = Instruments(judge or FakeClassifier(), clip or FakeClip(), found, "clip", **options)
    pictures, rows = suite_rows(suite, prompts, BEFORE, AFTER, given)
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
    expected = [100 * (cosines.mean() - 1), 100 * cosines.mean(), 100]
    assert value["target", "CLIP score"].tolist() == pytest.approx(expected, abs=1e-4)
    assert rows.loc[("target", "distance")].index.tolist() == ["erased"]
    assert value["target", "distance", "erased"] == pytest.approx((1 - cosines).mean(), abs=1e-5)
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()
    turned = FakeClip()
    turned.angle = [2.0] * 6 + [0.0] * 6
    _, rows = rows_of(("CLIP score",), clip=turned)  # a fit below zero counts as none
    assert rows.loc["target", "CLIP score"]["value"].tolist() == pytest.approx([100, 100, 0])


def test_a_further_detector_has_rows_of_its_own():
    class Stricter(FakeDetector):
        name, found = "another", [0.45] * 6 + [0.1] * 6

    _, alone = rows_of(("NER", "CLIP score"))
    pictures, rows = rows_of(("NER", "CLIP score"), further={"other": Stricter()})
    value = rows["value"]["target"]
    assert value["NER-0.3 other"].tolist() == [-1.0, 0.0, 1.0]  # difference, erased, original
    assert value["NER-0.5 other"].tolist() == [0.0, 0.0, 0.0]
    own = [" other" in metric for _, metric, _ in rows.index]
    assert set(rows[own]["measured_by"]) == {"another"} and sum(own) == 2 * 2 * 3
    first = rows[~np.array(own)].drop(columns="seconds")
    pd.testing.assert_frame_equal(first, alone.drop(columns="seconds"))
    assert pictures["score other"].tolist() == Stricter.found
    assert pictures["measured_by"].str.contains("a detector; another").all()


def test_every_row_says_of_what_and_by_what_in_the_order_of_the_suite(suite_of):
    suite = suite_of("""
thresholds: [0.5, 0.3]
groups:
  target: {concepts: [dog], seeds: 2, metrics: [PSR-1, NER, distance]}
  doors: {words: {dog: [hound]}, metrics: [ESR-1]}  # of these no prompt is there
  theme: {concepts: [dog], metrics: [CLIP score, NER]}
""")
    given = Instruments(FakeClassifier(), FakeClip(), FakeDetector(), net="clip")
    pictures, rows = suite_rows(suite, PROMPTS, BEFORE, AFTER, given)
    assert list(rows.columns) == COLUMNS and set(rows["suite"]) == {"mine"}
    assert rows["note"].eq("").all() and rows.drop(columns="note").notna().all(axis=None)
    counted = ["target PSR-1", "target NER-0.5", "target NER-0.3", "target distance"]
    counted += ["theme CLIP score", "theme NER-0.5", "theme NER-0.3"]
    models = ["original", "erased", "difference"]
    paired = set(counted) - {"target distance"}
    expected = [(name, m) for name in counted for m in models if m == "erased" or name in paired]
    assert list(zip(rows["group"] + " " + rows["metric"], rows["model"], strict=True)) == expected
    names = {"PSR": "a classifier", "NER": "a detector", "CLI": "a clip"}
    names["dis"] = "CLIP feature distance (a clip)"
    assert rows["measured_by"].tolist() == [names[metric[:3]] for metric in rows["metric"]]
    assert pictures["measured_by"].map(lambda text: all(n in text for n in names.values())).all()
    assert len(pictures) == 12 and set(pictures["model"]) == {"original", "erased"}
    assert rows.iloc[0][["n", "prompts", "seeds"]].tolist() == [4, 2, "1, 2"]
    seconds = rows[rows["metric"] == "NER-0.3"].groupby("group")["seconds"].first()
    assert seconds["target"] == pytest.approx(2 * seconds["theme"]) and seconds["theme"] >= 0


def test_every_picture_is_told_by_every_instrument():
    pictures, _ = rows_of(("ESR-1",))
    old, new = (pictures[pictures["model"] == m] for m in ("original", "erased"))
    assert list(new["rank"])[:4] == [0, 1, 4, 5] and list(new["seen"])[:2] == ["dog", "cat"]
    assert new["probability"].tolist()[:4] == pytest.approx([7 / 28, 6 / 28, 3 / 28, 2 / 28])
    assert new["clip"].tolist() == pytest.approx(100 * np.cos(0.3 * np.arange(6)), abs=1e-4)
    assert new["score"].tolist() == FakeDetector.found[6:]
    assert old["clip"].tolist() == [100] * 6 and (old["distance"] == 0).all()
    assert new["distance"].tolist() == pytest.approx(1 - np.cos(0.3 * np.arange(6)), abs=1e-5)
    assert "style_seen" not in pictures  # the classifier tells none
    # a prompt without a concept is seen but not ranked
    theme = pictures["group"] == "theme"
    assert (pictures["rank"].isna() == theme).all() and pictures["seen"].isin(CONCEPTS).all()
    pictures, _ = rows_of(("ESR-1",), six_prompts(), detector=None)
    assert "score" not in pictures and "detector" not in pictures["measured_by"][0]


def test_intervals_are_those_over_prompts_and_a_difference_is_erased_minus_original():
    pictures, rows = rows_of(("ESR-1", "ESR-5", "PSR-1", "NER", "CLIP score"))
    old, new = (pictures[pictures["model"] == m].iloc[:4] for m in ("original", "erased"))
    by_hand = {"ESR-1": [(t["rank"] >= 1) * 1.0 for t in (old, new)]}
    by_hand["PSR-1"] = [1 - values for values in by_hand["ESR-1"]]
    by_hand["NER-0.3"] = [(t["score"] > 0.3) * 1.0 for t in (old, new)]
    by_hand["CLIP score"] = [t["clip"] for t in (old, new)]
    for metric, (before, after) in by_hand.items():
        found = rows.loc["target", metric][["low", "high"]]
        gaps = np.asarray(after, float) - np.asarray(before, float)
        for model, of in (("original", before), ("erased", after), ("difference", gaps)):
            assert tuple(found.loc[model]) == bootstrap(of, old["prompt"])
    value = rows["value"].unstack("model")
    assert (value["difference"] - (value["erased"] - value["original"])).abs().max() < 1e-5
    # both prompts changed by the same: the difference is sure, the levels are not
    low = rows["low"]["target", "ESR-1"]
    assert low["difference"] == rows["high"]["target", "ESR-1", "difference"] == 0.5
    assert low["erased"] < 0.75


def test_what_names_no_concept_is_not_counted(refused):
    metrics = ("ESR-1", "ESR-5", "PSR-1", "CLIP score")
    tables = PROMPTS, PROMPTS.assign(group="target")
    alone, rows = (rows_of(metrics, prompts)[1].loc["target"] for prompts in tables)
    columns = ["value", "low", "high", "n", "prompts", "seeds"]
    ranked = [table.loc[list(metrics[:3]), columns] for table in (alone, rows)]
    pd.testing.assert_frame_equal(*ranked)
    assert set(rows.loc["CLIP score"]["n"]) == {6}
    refused(rows_of, ("PSR-1",), six_prompts(concept=None), says="'mine' 'target' PSR-1 concept")


@pytest.mark.parametrize("style", [None, "noto"])  # one real picture is no set
def test_sets_are_held_against_the_unedited_model_where_nothing_is_real(style):
    with pytest.warns(UserWarning, match="2,000"):
        _, rows = rows_of(("FID", "KID"), six_prompts(style=style), Spread())
    sets = [Spread().image_features(some) for some in (BEFORE, AFTER)]
    expected = {("target", "FID", "erased"): fid(*sets), ("target", "KID", "erased"): kid(*sets)}
    assert rows["value"].to_dict() == pytest.approx(expected)
    assert rows["measured_by"].str.contains("against 6 pictures of the unedited model").all()
    assert "biased" in rows["note"].iloc[0]
    # a set of too few prompts is left out
    with pytest.warns(UserWarning, match="left out: 4 pictures of 2 prompts, expected of 3"):
        _, rows = rows_of(("FID", "ESR-1"))
    assert "FID" not in rows.index.get_level_values("metric")


@pytest.mark.filterwarnings("ignore:.*2,000")
@pytest.mark.parametrize(("concepts", "given"), [(["dog", "cat", "bus"], 0), (["dog"], 5)])
def test_sets_are_held_against_real_pictures(concepts, given, noise):
    prompts = six_prompts(concept=concepts * (6 // len(concepts)), style="noto")
    real = noise(given, (4, 4)) or real_pictures(prompts[:3])
    # two seeds of a prompt are held against the same picture of the data set, which counts once;
    # given ones come before those of the data set
    _, rows = rows_of(("KID", "FID"), prompts, Spread(), reference=real if given else None)
    assert set(rows.index.get_level_values("model")) == {"original", "erased"}
    for model, drawn in (("original", BEFORE), ("erased", AFTER)):
        sets = [Spread().image_features(pictures) for pictures in (real, drawn)]
        for metric, distance in (("FID", fid), ("KID", kid)):
            assert rows["value"]["target", metric, model] == pytest.approx(distance(*sets))
    assert rows["measured_by"].str.contains(f"a clip.*against {len(real)} real pictures").all()
    assert (rows["low"] < rows["value"]).all() and (rows["value"] < rows["high"]).all()
    assert (rows["seconds"] > 0).all() and set(rows["n"]) == {6}


def test_a_style_is_ranked_among_the_styles(judge):
    prompts, styles = six_prompts(concept=CONCEPTS[:3] * 2), ["noto", "fluent", "openmoji"] * 2
    right, wrong = prompts.assign(style=styles), prompts.assign(style=np.roll(styles, 1))
    suite = Suite("mine", "", {"target": Group(("ESR-1 style", "PSR-1 style", "PSR-1"))})
    drawn = real_pictures(right), real_pictures(wrong)
    _, rows = suite_rows(suite, right, *drawn, Instruments(judge, Spread(), net="clip"))
    value = rows.set_index(["metric", "model"])["value"]
    assert value["PSR-1 style", "original"] == value["ESR-1 style", "erased"] == 1
    assert value["PSR-1", "original"] == value["PSR-1", "erased"] == 1


def test_styles_that_the_judge_does_not_know_are_not_counted(judge, refused):
    def found(**values):
        return rows_of(("PSR-1 style",), six_prompts(**values), Spread(), judge=judge)

    pictures, rows = found(style=["noto", None, "oil"] * 2)
    assert set(rows["n"]) == {2} and set(rows["measured_by"]) == {judge.name}
    assert pictures["style_rank"].notna().tolist() == [True, False, False] * 4
    assert pictures["style_seen"].isin(judge.styles).all()
    assert pictures["rank"].isna().all()  # concepts are not asked for, so they may be any
    found(style="noto", concept="tench")
    for style in (None, "oil"):
        refused(found, style=style, says="PSR-1 style")


TARGET = Group(("ESR-1", "CLIP score", "distance"), seeds=(1, 2), concepts="targets")
FAR = Group(("PSR-1", "NER"), concepts=("cat", "bus", "rose"), styles="turn")
FIELDS = ["group", "metric", "model", "value", "low", "high", "n"]
GROUPS = {"target": TARGET, "far": FAR}
SUITE = Suite("mine", "", GROUPS, ("dog", "church"), {"a": ("dog",)}, steps=2)


@pytest.fixture
def instruments(tiny):
    return load_instruments(World(tiny), SUITE, ["dog"], detector="weapon")


@pytest.fixture
def erasing(tiny, uce, instruments, tmp_path, monkeypatch):
    """`evaluate`, its files of four pictures, in a folder of the test's own."""
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(cache, "PART", 4)
    erasure = uce("dog")

    def call(folder=None, of=erasure, **settings):
        folder = tmp_path / folder if folder else None
        return evaluate(tiny, of, SUITE, instruments, folder, progress=False, **settings)

    return call


def test_it_is_whole_and_is_not_drawn_twice(tiny, erasing, uce, tmp_path, drawings):
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
    erasing("more", uce("dog", nearest=5))
    assert sum(drawings) == 33 and not list((tmp_path / "run").rglob("*.tmp"))
    for place in ("cache", "run/pictures"):
        assert len(list((tmp_path / place).glob("*.npz"))) == 3


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


def test_on_a_disk_that_fills_what_is_there_stays_and_space_is_all_it_wants(
    erasing, tmp_path, monkeypatch, refused
):
    before = erasing("run").rows
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(self, file, *args, **kwargs):
        Path(file if isinstance(file, Path) else file.name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "PART", 3)  # so that pictures have to be drawn again
    for writes in ("savez_compressed", "to_csv", "to_parquet"):
        with monkeypatch.context() as disk:
            if writes == "savez_compressed":
                disk.setattr(cache.np, writes, lambda file, **_: full(None, file))
            else:
                disk.setattr(pd.DataFrame, writes, full)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the original's pictures can be drawn again
                refused(erasing, "run", says=["No space left", str(tmp_path / "run"), "free space"])
        assert all(path.read_bytes() == data for path, data in kept.items())
        assert not list(tmp_path.rglob("*.tmp"))
    pd.testing.assert_frame_equal(erasing("run").rows[FIELDS], before[FIELDS])


def test_runs_that_cannot_be_evaluated_are_named(tiny, uce, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    erasure = uce("dog")
    for name in ("good", "half"):
        erasure.save(tmp_path / name)
    (tmp_path / "half" / "erased.safetensors").unlink()
    erasure.base = "another"
    erasure.save(tmp_path / "another")
    uce("key").save(tmp_path / "other")
    names = [str(tmp_path / n) for n in ("none", "half", "good", "another", "other")]
    found, wrong = evaluate_runs(World(tiny), names, SUITE, detector="weapon", progress=False)
    assert list(found) == [names[2]] and list(wrong) == [names[i] for i in (0, 1, 3, 4)]
    for name, message in zip(wrong, ("missing", "missing", "base model", "'key'"), strict=True):
        assert message in wrong[name] and "\n" not in wrong[name]
    said = "argument load_instruments 'detektor' 'detector'"
    world = World(tiny)
    refused(evaluate_runs, world, names, SUITE, detektor=1, says=said)
    refused(evaluate_runs, world, names, SUITE, detector=1, says="load_instruments: detector is 1")
    for bad in ([], "runs/one", tmp_path / "good"):
        refused(evaluate_runs, world, bad, SUITE, says="list")


def test_what_does_not_fit_is_said(erasing, uce, instruments, tmp_path, drawings, refused):
    (tmp_path / "file").write_text("")
    refused(erasing, "file", says=["cannot write", str(tmp_path / "file")])
    del drawings[:]
    other = uce("dog")
    other.base = "another"
    refused(erasing, of=uce("key"), says="'key'")
    refused(erasing, of=other, says="another")
    instruments.detector = None
    refused(erasing, says="NER")
    assert not drawings  # nothing is drawn for what does not fit


def test_at_most_so_many_prompts_and_older_results_stay(erasing, tmp_path, refused):
    found = erasing(most=2)
    sizes = found.pictures.groupby(["model", "group"])["prompt"].agg(["size", "nunique"])
    assert (sizes == 2).all(axis=None) and len(found.before) == 4
    # results that cannot be written leave the older ones
    found.save(tmp_path / "run")
    before = (tmp_path / "run" / "mine_rows.csv").read_bytes()
    (tmp_path / "run" / "mine_pictures.parquet").unlink()
    (tmp_path / "run" / "mine_pictures.parquet").mkdir()
    found.rows["value"] = 0.0
    refused(found.save, tmp_path / "run", says=["cannot write", str(tmp_path / "run")])
    assert (tmp_path / "run" / "mine_rows.csv").read_bytes() == before


@pytest.fixture
def erasure(tiny):
    config = EraseConfig.from_profile("smoke", targets=["church"], method="esd", steps=1, lr=1e-2)
    return erase(tiny, config, [])


def test_a_scaled_edit_against_its_formula_and_saved_with_its_strength(tiny, erasure, tmp_path):
    base = dict(tiny.unet.named_parameters())
    for s in (0.0, 0.5, 1.0, 2.0):
        for name, tensor in erasure.scaled(tiny, s).tensors.items():
            expected = base[name] + s * (erasure.tensors[name] - base[name])
            assert torch.allclose(tensor, expected, atol=1e-6)
    assert erasure.scaled(tiny, 1.0).config == erasure.config
    half = erasure.scaled(tiny, 0.5)
    loaded = Erasure.load(half.save(tmp_path))
    assert loaded.strength == half.strength == 0.5 and loaded.scaled(tiny, 2).strength == 1.0
    assert all(torch.equal(t, half.tensors[k]) for k, t in loaded.tensors.items())


@pytest.fixture
def judged(monkeypatch, tiny, erasure):
    """Instead of pictures the strength of the edit in place, once for each prompt, of which `seen`
    tells the ranks of concept and style. Tried strengths are noted."""
    tried = []
    name = next(iter(erasure.tensors))
    still = tiny.unet.get_parameter(name).detach().clone()
    whole = (erasure.tensors[name] - still).norm()

    def drawn(pipe, prompts, *given, **named):
        tried.append(float((pipe.unet.get_parameter(name) - still).norm() / whole))
        return tried[-1:] * len(prompts)

    def install(seen):
        def verdicts(judge, strengths, prompts):
            rank, style_rank = seen(strengths[0], prompts)
            return prompts.assign(rank=rank, style_rank=style_rank)

        monkeypatch.setattr(cache, "generate", drawn)
        monkeypatch.setattr(measuring, "verdicts", verdicts)
        return tried

    return install


def fading(at):
    """The target is gone from 4 of 5 pictures at this strength, from all from twice this on."""

    def seen(s, prompts):
        share = 0.0 if s < at - 1e-4 else 0.8 if s < 2 * at - 1e-4 else 1.0
        return [int(i < round(share * len(prompts))) for i in range(len(prompts))], 0

    return seen


@pytest.mark.parametrize(("at", "level", "found"), [(0.35, 0.8, 0.4), (0.35, 0.95, 0.7)])
def test_the_first_strength_that_reaches_the_level(tiny, erasure, judged, at, level, found):
    tried = judged(fading(at))
    assert first_strength(tiny, erasure, FakeClassifier(), level) == (found, True)
    assert len(tried) <= 4  # a bisection of twelve


def test_a_style_is_gone_where_the_judge_sees_another(tiny, erasure, judged):
    erasure.config = replace(erasure.config, targets=("noto style", "church"))
    # the church is gone from the first; every object is seen, in noto below 0.45
    judged(lambda s, prompts: ((prompts["concept"] == "church").astype(int), int(s >= 0.45)))
    assert first_strength(tiny, erasure, FakeClassifier()) == (0.5, True)
    assert first_strength(tiny, erasure, FakeClassifier(), level=0.5) == (0.2, True)


def test_a_level_out_of_reach_is_a_warning(tiny, erasure, judged):
    judged(fading(50.0))
    with pytest.warns(UserWarning, match=r"below 0\.95 up to strength 2\.0"):
        assert first_strength(tiny, erasure, FakeClassifier()) == (2.0, False)


def test_strengths_that_make_no_sense(tiny, erasure, refused):
    refused(first_strength, tiny, erasure, FakeClassifier(), level=95, says="level 95")
    for wrong in ([], [0.0, 1.0], [1.0, 0.5]):
        refused(
            first_strength, tiny, erasure, FakeClassifier(), strengths=wrong, says="numbers rise"
        )
    refused(first_strength, tiny, erasure, FakeClassifier(), pictures=0, says="pictures 0")
    refused(erasure.scaled, tiny, float("nan"), says="strength nan")
