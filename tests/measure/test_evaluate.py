"""An evaluation is whole, goes on where it was cut off, and leaves the model as it was."""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from erase_lib import EraseConfig, EraseError
from erase_lib.closed_form import erase_closed_form
from erase_lib.diffusion import generate
from erase_lib.measure import pictures as cache
from erase_lib.measure.evaluate import evaluate, evaluate_runs
from erase_lib.measure.instruments import load_instruments
from erase_lib.measure.pictures import Pictures
from erase_lib.measure.suite import Group, Suite
from erase_lib.show import KEPT, LOST, QUIET
from erase_lib.show import verdicts as viz_evaluate

TARGET = Group(("ESR-1", "CLIP score", "distance"), seeds=(1, 2), concepts="targets")
FAR = Group(("PSR-1", "NER"), concepts=("cat", "bus", "rose"), styles="turn")
COLUMNS = ["group", "metric", "model", "value", "low", "high", "n"]
SUITE = Suite(
    "mine", "", {"target": TARGET, "far": FAR}, ("dog", "church"), {"a": ("dog",)}, steps=2
)


@pytest.fixture
def erasure(tiny):
    return erase_closed_form(tiny, EraseConfig(["dog"], method="uce", nearest=4))


@pytest.fixture
def instruments():
    return load_instruments(SUITE, ["dog"], detector="weapon")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Files of four pictures, in a folder of the test's own."""
    monkeypatch.setattr(sys.modules["erase_lib.measure.evaluate"], "CACHE", tmp_path / "cache")
    monkeypatch.setattr(cache, "PART", 4)
    monkeypatch.setattr(cache.draw, "__defaults__", (30, 4.0, tmp_path / "cache", True, None))


@pytest.fixture
def drawings(monkeypatch):
    calls = []

    def counted(pipe, prompts, *arguments, **settings):
        calls.append(len(prompts))
        return generate(pipe, prompts, *arguments, **settings)

    monkeypatch.setattr(cache, "generate", counted)
    return calls


def test_it_is_whole_and_is_not_drawn_twice(tiny, erasure, instruments, tmp_path, drawings):
    teacher = {name: t.clone() for name, t in tiny.unet.state_dict().items()}
    found = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "run", progress=False)
    assert sum(drawings) == 2 * (8 + 3) and found.targets == ("dog",)
    assert len(found.before) == len(found.after) == 11 and len(found.pictures) == 22
    rows = pd.read_csv(tmp_path / "run" / "mine_rows.csv", keep_default_na=False)
    assert len(rows) == len(found.rows) == 3 + 3 + 1 + 3 + 3
    saved = pd.read_parquet(tmp_path / "run" / "mine_pictures.parquet")
    assert list(saved["prompt"]) == list(found.pictures["prompt"])
    assert all(t.equal(teacher[name]) for name, t in tiny.unet.state_dict().items())
    again = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "run", progress=False)
    assert sum(drawings) == 22
    pd.testing.assert_frame_equal(again.rows[COLUMNS], found.rows[COLUMNS])
    # another erasure's pictures are its own, the unedited model's are everybody's
    more = erase_closed_form(tiny, EraseConfig(["dog"], method="uce", nearest=5))
    evaluate(tiny, more, SUITE, instruments, tmp_path / "more", progress=False)
    assert sum(drawings) == 33 and not list((tmp_path / "run").rglob("*.tmp"))
    names = [len(list((tmp_path / n).glob("*.npz"))) for n in ("cache", "run/pictures")]
    assert names == [3, 3]


def test_cut_off_it_goes_on_with_what_is_there(tiny, erasure, instruments, tmp_path, monkeypatch):
    whole = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "one", progress=False)
    calls = []

    def cut(pipe, prompts, *arguments, **settings):
        calls.append(len(prompts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(pipe, prompts, *arguments, **settings)

    monkeypatch.setattr(cache, "generate", cut)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny, erasure, SUITE, instruments, tmp_path / "two", progress=False)
    rest = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "two", progress=False)
    # of the erased pictures' three files the first was there; the originals are everybody's
    assert calls == [4, 4, 4, 3]
    for a, b in zip(whole.after, rest.after, strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()
    pd.testing.assert_frame_equal(rest.rows[COLUMNS], whole.rows[COLUMNS])


def test_a_damaged_file_alone_is_drawn_again(tiny, erasure, instruments, tmp_path, drawings):
    found = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "run", progress=False)
    path = sorted((tmp_path / "run" / "pictures").glob("*.npz"))[0]
    before = np.load(path)["pictures"]
    path.write_bytes(path.read_bytes()[:-30])
    del drawings[:]
    with pytest.warns(UserWarning, match=f"{path.name} is damaged .*: drawn again"):
        again = evaluate(tiny, erasure, SUITE, instruments, tmp_path / "run", progress=False)
    assert drawings == [len(before)] and (np.load(path)["pictures"] == before).all()
    pd.testing.assert_frame_equal(again.rows[COLUMNS], found.rows[COLUMNS])


def test_runs_that_cannot_be_evaluated_are_named(tiny, erasure, tmp_path, instruments):
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


def test_what_cannot_be_written_or_counted_is_said(tiny, erasure, instruments, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EraseError, match="cannot write to .*file"):
        evaluate(tiny, erasure, SUITE, instruments, tmp_path / "file", progress=False)
    with pytest.raises(EraseError, match="counts NER, but there is no detector"):
        instruments.detector = None
        evaluate(tiny, erasure, SUITE, instruments, progress=False)


def test_nothing_is_drawn_for_an_erasure_that_does_not_fit(tiny, erasure, instruments, drawings):
    key = erase_closed_form(tiny, EraseConfig(["key"], method="uce", nearest=4))
    with pytest.raises(EraseError, match="not made for the target 'key'"):
        evaluate(tiny, key, SUITE, instruments, progress=False)
    erasure.base = "another"
    with pytest.raises(EraseError, match="made for base model another"):
        evaluate(tiny, erasure, SUITE, instruments, progress=False)
    assert not drawings


def test_results_that_cannot_be_written_leave_the_older_ones(tiny, erasure, instruments, tmp_path):
    found = evaluate(tiny, erasure, SUITE, instruments, most=1, progress=False)
    found.save(tmp_path / "run")
    before = (tmp_path / "run" / "mine_rows.csv").read_bytes()
    (tmp_path / "run" / "mine_pictures.parquet.tmp").mkdir()
    found.rows["value"] = 0.0
    with pytest.raises(EraseError, match="cannot write to .*run .*: free space") as error:
        found.save(tmp_path / "run")
    assert "\n" not in str(error.value)
    assert (tmp_path / "run" / "mine_rows.csv").read_bytes() == before


def test_at_most_so_many_prompts(tiny, erasure, instruments):
    found = evaluate(tiny, erasure, SUITE, instruments, most=2, progress=False)
    sizes = found.pictures.groupby(["model", "group"])["prompt"].agg(["size", "nunique"])
    assert (sizes == 2).all(axis=None) and len(found.before) == 4


def test_pictures_are_those_that_were_drawn(tiny, tmp_path):
    ask = ["a dog", "a cat", "a bus", "a hat", "a rose"], [5, 6, 7, 8, 9], 2
    found = cache.draw(tiny, *ask, folder=tmp_path, progress=False)
    drawn = generate(tiny, *ask, progress=False)
    assert len(found) == 5 and len(found.parts) == 2
    for i in (*range(-5, 5), np.int64(3)):
        assert found[i].tobytes() == drawn[i].tobytes()
    for some in (slice(3, 5), slice(None, None, -2), slice(-2, 99), slice(4, 1)):
        assert [p.tobytes() for p in found[some]] == [p.tobytes() for p in drawn[some]]
    for i in (5, -6):
        with pytest.raises(IndexError):
            found[i]


def test_a_part_is_read_once_while_it_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "HELD", 1)
    for name in "ab":
        array = np.full((4, 2, 2, 3), ord(name), np.uint8)
        np.savez_compressed(tmp_path / f"{name}.npz", pictures=array)
    pictures = Pictures([tmp_path / "a.npz", tmp_path / "b.npz"], 8)
    assert pictures[0].getpixel((0, 0))[0] == ord("a")
    (tmp_path / "a.npz").unlink()
    assert pictures[3].getpixel((0, 0))[0] == ord("a")  # still held
    assert pictures[4].getpixel((0, 0))[0] == ord("b")
    with pytest.raises(EraseError, match="a.npz is gone or damaged: run again") as error:
        pictures[0]
    assert "\n" not in str(error.value)
    (tmp_path / "a.npz").write_bytes(b"half")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(EraseError, match="run again"):
        pictures[0]


def test_pictures_in_parts_are_a_sequence(tmp_path):
    every = [Image.new("RGB", (2, 2), (i, 0, 0)) for i in range(6)]
    np.savez_compressed(tmp_path / "a.npz", pictures=np.stack([np.asarray(p) for p in every[:4]]))
    pictures = Pictures([tmp_path / "a.npz", every[4:]], 6)
    assert len(pictures) == 6 and [p.getpixel((0, 0))[0] for p in pictures] == list(range(6))
    assert [p.getpixel((0, 0))[0] for p in pictures[3:]] == [3, 4, 5]
    assert pictures[-1].getpixel((0, 0))[0] == 5
    with pytest.raises(IndexError):
        pictures[6]
    with pytest.raises(EraseError, match="gone or damaged: run again"):
        Pictures([tmp_path / "b.npz"], 4)[0]


def test_its_figures(tiny, erasure, instruments):
    found = evaluate(tiny, erasure, SUITE, instruments, progress=False)
    figure = viz_evaluate.pictures(found, each=3)
    words = [ax.get_xlabel() for ax in figure.axes if ax.get_xlabel()]
    assert len(words) == 2 * 2 * 3 and set(words) <= set(instruments.classifier.concepts)
    figure = viz_evaluate.levels(found.rows)
    labels = [t.get_text() for ax in figure.axes for t in ax.get_yticklabels()]
    assert "target · ESR-1  (n 8)" in labels and "far · NER-0.5  (n 3)" in labels
    assert "measured by emoji-judge" in figure.get_supxlabel()
    ax = viz_evaluate.thresholds(found.rows)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["far, original", "far, erased"]
    plt.close("all")


def row(group, metric, model, value, low, high, n=8):
    names = ("group", "metric", "model", "value", "low", "high", "n", "measured_by")
    return dict(zip(names, (group, metric, model, value, low, high, n, "a judge"), strict=True))


ROWS = pd.DataFrame(
    [
        row("target", "ESR-1 style", "original", 0.1, 0.0, 0.2),
        row("target", "ESR-1 style", "erased", 0.9, 0.7, 1.0),
        row("target", "ESR-1 style", "difference", 0.8, 0.6, 1.0),
        row("far", "distance", "erased", 0.3, 0.2, 0.5, 3),
        row("far", "KID", "erased", 0.02, 0.01, 0.03, 3),
    ]
)


def drawn(ax):
    """Of each series its label, colour, values and the ends of its intervals."""
    found = {}
    for bars in ax.containers:
        line, _, (spans,) = bars.lines
        segments = [segment for segment in spans.get_segments() if len(segment)]
        ends = [segment[:, 0].round(6).tolist() for segment in segments]
        values = np.asarray(line.get_xdata(), float).round(6).tolist()
        found[bars.get_label()] = (to_hex(line.get_color()), values, ends)
    return found


def test_levels_have_a_panel_a_unit_and_a_mark_a_row():
    figure = viz_evaluate.levels(ROWS)
    shares, distance, kid = figure.axes
    assert shares.get_xlabel() == "share of pictures" and kid.get_xlabel() == "KID"
    assert shares.get_xlim() == pytest.approx((-0.03, 1.03))
    found = drawn(shares)
    assert found == {
        "original": (QUIET.lower(), [0.1], [[0.0, 0.2]]),
        "erased": (LOST.lower(), [0.9], [[0.7, 1.0]]),
    }
    # of the distance there is no original one
    assert drawn(distance)["erased"][1:] == ([0.3], [[0.2, 0.5]])
    assert np.isnan(drawn(distance)["original"][1]).all()
    assert [t.get_text() for t in distance.get_yticklabels()] == ["far · distance  (n 3)"]
    plt.close("all")


def test_a_word_says_by_its_colour_whether_it_was_asked_for(tiny, erasure, instruments):
    styled = Group(("ESR-1 style",), concepts="targets")
    groups = {
        "target": TARGET,
        "styled": styled,
        "theme": Group(("CLIP score",), concepts=("key",)),
    }
    of = Suite("mine", "", groups, ("dog",), steps=2)
    found = evaluate(tiny, erasure, of, instruments, progress=False)
    table = found.pictures
    assert table["style_seen"].notna().all()
    table["rank"] = np.where(table["group"] == "target", 0.0, np.nan)
    table.loc[table["model"] == "erased", "rank"] += 1
    table["style_rank"] = np.where(table["model"] == "erased", 2.0, 0.0)
    figure = viz_evaluate.pictures(found, each=5)
    lines = np.array(figure.axes).reshape(6, 5)
    shown = [[ax for ax in line if ax.images] for line in lines]
    # four styles are four prompts, of the first seed alone; there is no fifth
    assert [len(line) for line in shown] == [4] * 6 and not lines[0, 4].axison
    colours = [{ax.xaxis.label.get_color() for ax in line} for line in shown]
    assert colours == [{KEPT}, {LOST}, {KEPT}, {LOST}, {QUIET}, {QUIET}]
    names = [line[0].get_ylabel() for line in shown]
    assert names[:3] == ["target\noriginal", "target\nerased", "styled\noriginal"]
    titles = [line[0].get_title() for line in shown]
    assert titles[:2] == ["a dog in noto\nstyle", ""]
    seen = table[(table["model"] == "erased") & (table["group"] == "styled")]
    words = [ax.get_xlabel() for ax in shown[3]]
    assert words == (seen["style_seen"] + " " + seen["seen"]).tolist()
    # each frame holds the picture of its own row
    places = table.index[(table["model"] == "erased") & (table["group"] == "styled")] - len(
        found.before
    )
    for ax, i in zip(shown[3], places, strict=True):
        picture = found.after[i].resize((256, 256), Image.Resampling.LANCZOS)
        assert (ax.images[0].get_array() == np.asarray(picture)).all()
    plt.close("all")


def test_thresholds_have_a_line_and_a_band_a_model():
    rows = [
        row(group, f"NER-{τ}", model, τ / 2, 0.0, 1.0)
        for group in "abcdef"
        for model in ("original", "erased", "difference")
        for τ in (0.3, 0.5)
    ]
    ax = viz_evaluate.thresholds(pd.concat([ROWS, pd.DataFrame(rows)]))
    assert [line.get_label() for line in ax.lines][:3] == [
        "a, original",
        "a, erased",
        "b, original",
    ]
    assert len(ax.lines) == len(ax.collections) == 12
    for line in ax.lines:
        assert line.get_xdata().tolist() == [0.3, 0.5] and line.get_ydata().tolist() == [0.15, 0.25]
    assert ax.lines[0].get_color() == QUIET != ax.lines[1].get_color()
    _, own = plt.subplots()
    assert viz_evaluate.thresholds(pd.DataFrame(rows), own) is own
    plt.close("all")
