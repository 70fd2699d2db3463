"""Figures of an evaluation: every picture and number in its place, in the colour that says it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from erase_lib import EraseConfig
from erase_lib.closed_form import erase_closed_form
from erase_lib.measure import Group, Suite, evaluate, load_instruments
from erase_lib.measure import pictures as cache
from erase_lib.show import KEPT, LOST, QUIET
from erase_lib.show import verdicts as viz_evaluate

TARGET = Group(("ESR-1", "CLIP score", "distance"), seeds=(1, 2), concepts="targets")
FAR = Group(("PSR-1", "NER"), concepts=("cat", "bus", "rose"), styles="turn")
SUITE = Suite(
    "mine", "", {"target": TARGET, "far": FAR}, ("dog", "church"), {"a": ("dog",)}, steps=2
)


@pytest.fixture
def erasure(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    return erase_closed_form(tiny, EraseConfig(["dog"], method="uce", nearest=4))


@pytest.fixture
def instruments():
    return load_instruments(SUITE, ["dog"], detector="weapon")


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
