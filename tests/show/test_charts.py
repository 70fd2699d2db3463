"""Dots with intervals are where the table says; a caption says all that is needed to quote them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from erase_lib import EraseError, show
from erase_lib.show import caption, footnote
from erase_lib.show.charts import INK, LOOKS, series

ROWS = pd.DataFrame(
    [
        ("target", "ESR-1", 80, 20, "1, 2", "a judge", "", 2.0),
        ("target", "ESR-5", 80, 20, "1, 2", "a judge", "", 2.0),
        ("far", "PSR-1", 1398, 398, "1", "a judge", "", 3.0),
        ("far", "CLIP score", 1398, 398, "1", "a clip", "", 0.5),
    ],
    columns="group metric n prompts seeds measured_by note seconds".split(),
)


def test_every_instrument_has_a_line_with_n_prompts_seeds_and_seconds():
    before = ROWS.copy()
    first, second, last = caption(ROWS).splitlines()
    pd.testing.assert_frame_equal(ROWS, before)
    for part in ("ESR-1, ESR-5, PSR-1: ", "a judge", "80 to 1,398 pictures", "20 to 398 prompts"):
        assert part in first
    # what one look at a group's pictures costs stands in more than one row
    assert first.endswith("seeds 1, 2 | 1 · 5.0 s")
    assert "CLIP score: " in second and "a clip" in second and "n = 1,398 pictures" in second
    assert last == "Intervals: 95 %, bootstrap over prompts."
    mixed = pd.concat([ROWS.tail(1), ROWS.head(1), ROWS.tail(1).assign(metric="distance", n=7)])
    first, second, _ = caption(mixed).splitlines()  # in the order of the rows
    assert "CLIP score, distance: " in first and "n = 7 to 1,398" in first and "ESR-1: " in second


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (ROWS.head(3).assign(seconds=[2.0, 0.0, 3.0]), " · 5.0 s\n"),
        # without groups every row has looked for itself
        (ROWS.drop(columns="group").assign(measured_by="one"), " · 7.5 s\n"),
        (ROWS.assign(seeds=["3", "1", "3", "2"], measured_by="one"), ", seeds 3 | 1 | 2 · "),
    ],
)
def test_a_caption_counts_nothing_twice(rows, says):
    assert says in caption(rows)


def test_a_caption_says_what_the_table_has():
    assert caption(ROWS[["metric", "n", "measured_by"]].head(2)) == (
        "ESR-1, ESR-5: measured by a judge · n = 80 pictures\n"
        "Intervals: 95 %, bootstrap over prompts."
    )
    for table in (ROWS.drop(columns="n"), ROWS.drop(columns="measured_by"), ROWS.head(0)):
        with pytest.raises(EraseError, match="cannot be quoted"):
            caption(table)


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (["ESR-1"], "bootstrap over prompts"),
        (["KID", "FID"], "jackknife over prompts"),
        (["KID", "NER-0.5"], "bootstrap over prompts (FID, KID: jackknife over prompts)"),
    ],
)
def test_the_interval_is_that_of_the_metrics(metrics, says):
    rows = pd.concat([ROWS.head(1).assign(metric=metric) for metric in metrics])
    assert caption(rows).splitlines()[-1] == f"Intervals: 95 %, {says}."


def test_every_note_stands_there_once_and_no_line_is_wider_than_asked():
    lines = caption(ROWS.assign(note=["few", None, "too " * 20 + "few", "few"]), 60).splitlines()
    assert lines[-3:] == ["Note: few", "Note: " + "too " * 12 + "too", "too " * 7 + "few"]
    assert max(map(len, lines)) <= 60
    assert "Note" not in caption(ROWS.assign(note=["", None, float("nan"), ""]))


def test_the_caption_is_drawn_inside_the_figure_from_the_left():
    figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    with pytest.raises(EraseError):
        footnote(figure, ROWS.head(0))
    assert figure.get_supxlabel() == ""
    rows = ROWS.assign(note="so many words that the line has to be broken " * 8)
    assert footnote(figure, rows) is figure
    figure.canvas.draw()
    (text,) = [t for t in figure.texts if t.get_text() == figure.get_supxlabel()]
    box, renderer = figure.bbox, figure.canvas.get_renderer()
    drawn = text.get_window_extent(renderer)
    assert "measured by a judge" in text.get_text()
    assert drawn.x0 == pytest.approx(0.01 * box.width, abs=2)
    assert drawn.x1 <= box.width and drawn.y0 >= 0
    assert drawn.y1 <= ax.get_tightbbox(renderer).y0  # the axes make room for it
    assert footnote(figure, "small print").get_supxlabel() == "small print"


def drawn(ax):
    """Of each series its label: values, lines and the ends of its intervals."""
    found = {}
    for bars in ax.containers:
        line, _, spans = bars.lines
        ends = [s[:, 0].round(6).tolist() for span in spans for s in span.get_segments() if len(s)]
        values, y = (np.asarray(x, float).round(6).tolist() for x in line.get_data())
        name = "" if bars.get_label().startswith("_") else bars.get_label()
        found[name] = (values, [round(place) for place in y], ends)
    return found


def looks(ax):
    """Of each series colour, marker and whether it is filled."""
    lines = {bars.get_label(): bars.lines[0] for bars in ax.containers}
    return {
        name: (to_hex(x.get_color()), x.get_marker(), x.get_markerfacecolor() != "white")
        for name, x in lines.items()
    }


def names(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def said(ax):
    return [text.get_text() for text in ax.texts]


def dashed(ax, axis):
    """Where the dashed lines stand."""
    return [line.get_xydata()[0, axis] for line in ax.lines if line.get_linestyle() == "--"]


TABLE = pd.DataFrame(
    [("b", "x", 0.5, 0.4, 0.7), ("a", "x", 0.2, 0.1, 0.3), ("b", "y", 0.9, 0.9, 1.0)],
    columns=["setting", "metric", "value", "low", "high"],
)


def test_dots_stand_in_the_tables_order_with_their_intervals():
    _, own = plt.subplots()
    ax = show.dots(TABLE[:2], "setting", ax=own)
    assert ax is own and names(ax) == ["b", "a"] and ax.yaxis_inverted()
    assert drawn(ax) == {"": ([0.5, 0.2], [0, 1], [[0.4, 0.7], [0.1, 0.3]])}
    ax = show.dots(TABLE, "setting", "metric")
    assert drawn(ax)["y"] == ([0.9], [0], [[0.9, 1.0]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["x", "y"]
    assert drawn(show.dots(TABLE[:2].drop(columns=["low", "high"]), "setting"))[""][2] == []
    turned = TABLE[:1].assign(low=0.5 + 1e-12)  # on the wrong side by rounding
    assert drawn(show.dots(turned, "setting"))[""][2] == [[0.5, 0.7]]


def test_no_two_series_look_alike():
    every = [tuple(series(place).values()) for place in range(40)]
    assert len(set(every)) == 40
    assert len({colour for colour, _ in every[:5]}) == 5 and len({m for _, m in every[:13]}) == 13


def test_a_forest_has_a_panel_a_metric_and_its_line():
    one, two = show.forest(TABLE, "setting", {"y": 0.25}).axes
    assert [one.get_title(), two.get_title()] == ["x", "y"]
    assert drawn(one)[""][0] == [0.5, 0.2] and np.isnan(drawn(two)[""][0][1])
    assert dashed(two, 0) == [0.25]
    wide = TABLE.assign(metric="PSR-1", low=-1.0, high=2.0, runs=6, groups=3, kind="neutral")
    figure = show.forest(wide.head(2), "setting", {"PSR-1": 0.5})
    assert drawn(figure.axes[0])["neutral"][2] == [[0, 1], [0, 1]]  # no share lies beyond
    assert looks(figure.axes[0])["neutral"][:2] == (LOOKS["neutral"]["color"].lower(), "D")
    assert "6 runs, 3 targets" in figure.get_supxlabel()
    (ax,) = show.forest(wide.head(2), "setting", {"PSR-1": 0}).axes
    assert drawn(ax)["neutral"][2] == [[-1, 2], [-1, 2]]  # but differences do
    figure = show.forest(pd.concat([TABLE[:2].assign(metric=str(i)) for i in range(9)]), "setting")
    assert len(figure.axes) == 9 and figure.get_figwidth() <= 8.5


def test_the_least_and_the_most_are_said_with_all_whose_they_are():
    table = pd.DataFrame({"lam": [1.0, 5.0, 20.0, 1.0], "value": [0.9, 0.801, 0.799, 0.1]})
    table["metric"] = ["PSR-1 near"] * 3 + ["PSR-1 far"]
    assert show.ranged(table, "lam") == "0.80 (5.0 and 20.0) to 0.90 (1.0)"
    assert show.ranged(table, "lam", "PSR-1 far") == "0.10 (1.0)"
    with pytest.raises(EraseError, match="ESR-1.*PSR-1"):
        show.ranged(table, "lam", "ESR-1")


def test_multiples_show_the_runs_beside_their_mean():
    runs = [TABLE[:2].assign(targets=t, value=v) for t, v in (("dog", 0.01), ("cat", 0.3))]
    runs = pd.concat(runs).assign(model="erased")
    runs = pd.concat([runs, runs[:1].assign(model="original", value=0.8)])
    runs, pooled = (t.assign(metric="PSR-1") for t in (runs, TABLE[:2]))
    (ax,) = show.multiples(runs, pooled, "setting", "targets").axes
    points = {line.get_label(): list(line.get_xdata()) for line in ax.lines}
    assert points["dog"] == [0.01, 0.01] and points["cat"] == [0.3, 0.3]
    assert ax.get_xlim()[0] < 0.01  # no run is out of view
    assert drawn(ax)[""][0] == [0.5, 0.2] and dashed(ax, 0) == [0.8]


def row(group, metric, model, value, low, high, n=8):
    keys = ("group", "metric", "model", "value", "low", "high", "n", "measured_by")
    return dict(zip(keys, (group, metric, model, value, low, high, n, "a judge"), strict=True))


LEVELS = pd.DataFrame(
    [
        row("target", "ESR-1 style", "original", 0.1, 0.0, 0.2),
        row("target", "ESR-1 style", "erased", 0.9, 0.7, 1.0),
        row("target", "ESR-1 style", "difference", 0.8, 0.6, 1.0),
        row("far", "distance", "erased", 0.3, 0.2, 0.5, 3),
        row("far", "KID", "erased", 0.02, 0.01, 0.03, 3),
    ]
)


def test_intervals_have_a_panel_a_unit_and_a_mark_a_model():
    figure = show.intervals(LEVELS)
    shares, distance, kid = figure.axes
    assert shares.get_xlabel() == "share of pictures" and kid.get_xlabel() == "KID"
    assert shares.get_xlim() == pytest.approx((-0.03, 1.03))
    found = {name: (values, ends) for name, (values, _, ends) in drawn(shares).items()}
    assert found == {"original": ([0.1], [[0.0, 0.2]]), "erased": ([0.9], [[0.7, 1.0]])}
    blue = INK.lower()
    assert looks(shares) == {"original": (blue, "o", False), "erased": (blue, "o", True)}
    assert drawn(distance) == {"erased": ([0.3], [0], [[0.2, 0.5]])}
    assert names(distance) == ["far · distance  (n 3)"]
    assert "measured by a judge" in figure.get_supxlabel()
    assert names(show.intervals(LEVELS.drop(columns="group")).axes[0]) == ["ESR-1 style  (n 8)"]


def test_delta_has_the_most_and_the_least_hurt_and_all_that_is_special():
    table = pd.DataFrame({"concept": list("abcdefg"), "delta": np.arange(7) / 10 - 0.2})
    table = pd.concat([table, pd.DataFrame({"concept": [""], "delta": [0.15]})])
    ax = show.delta_bars(table, ["d"], [""], show.thumbnails(), most=2)
    assert names(ax) == ["g", "f", "“” (empty)", "d", "b", "a"]
    found = drawn(ax)
    assert found["target"][:2] == ([0.1], [3]) and found["neutral"][:2] == ([0.15], [2])
    assert found["concept"][:2] == ([0.4, 0.3, -0.1, -0.2], [0, 1, 4, 5])
    assert len(set(looks(ax).values())) == len({mark for _, mark, _ in looks(ax).values()}) == 3


def test_the_plane_has_a_mark_and_two_intervals_a_setting():
    rows = [("esd", 0.4), ("eap, random", 0.6), ("original", 0.9)]
    settings = pd.DataFrame(rows, columns=["setting", "value"])
    settings = settings.assign(low=settings["value"] - 0.1, high=settings["value"] + 0.1)
    axes = (("target", "ESR-1"), ("near", "PSR-1"))
    ax = show.plane(pd.concat([settings.assign(group=g, metric=m) for g, m in axes]))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["esd", "eap, random"]
    assert len(ax.containers) == 2 and "ESR-1" in ax.get_xlabel() and "PSR-1" in ax.get_ylabel()
    assert len({mark for _, mark, _ in looks(ax).values()}) == 2 and dashed(ax, 1) == [0.9]


def test_thresholds_have_a_line_and_a_band_a_group_and_model():
    rows = [
        row(group, f"NER-{τ}", model, τ / 2, 0.0, 1.0)
        for group in "abcdef"
        for model in ("original", "erased", "difference")
        for τ in (0.3, 0.5)
    ]
    _, own = plt.subplots()
    ax = show.thresholds(pd.concat([LEVELS, pd.DataFrame(rows)]), own)
    assert ax is own and len(ax.lines) == len(ax.collections) == 12
    assert [line.get_label() for line in ax.lines][1:3] == ["a, erased", "b, original"]
    for line in ax.lines:
        assert line.get_xdata().tolist() == [0.3, 0.5] and line.get_ydata().tolist() == [0.15, 0.25]
    assert len({line.get_marker() for line in ax.lines}) == 6
    assert [line.get_markerfacecolor() == "white" for line in ax.lines] == [True, False] * 6
    other = [r | {"metric": f"{r['metric']} open_nsfw"} for r in rows if r["group"] == "a"]
    ax = show.thresholds(pd.DataFrame([*rows, *other]))  # of another detector
    assert [line.get_label() for line in ax.lines][12:] == [
        "a open_nsfw, original",
        "a open_nsfw, erased",
    ]
    assert all(line.get_xdata().tolist() == [0.3, 0.5] for line in ax.lines)


CHOSEN = ["a|a", "a|b", "b|b", "b|c"]
HISTORY = pd.DataFrame({"step": range(4), "l1": [0.4, 0.3, 0.2, 0.1], "l2": 0.0, "chosen": CHOSEN})


def test_a_history_has_its_losses_and_what_was_preserved():
    ax = show.losses(HISTORY)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["L1, erase"]  # L2 is 0
    both = show.losses(HISTORY.assign(l2=[1e-14, 0.1, 0.2, 0.1])).get_lines()
    assert both[2].get_ydata().min() == 0.1  # rounding would stretch the logarithm
    assert len({(line.get_color(), line.get_linestyle()) for line in both[1::2]}) == 2
    ax = show.preserved(HISTORY, most=2)
    assert names(ax) == ["a", "b"] and [bar.get_width() for bar in ax.patches] == [3, 4]
    assert "of 8 (3 concepts)" in ax.get_xlabel()


def test_maps_of_a_search_have_candidates_down_and_updates_across():
    ax = show.chosen_map(HISTORY, list("bac"), windows=2, top=2)
    assert names(ax) == ["b", "a"] and tuple(ax.get_xlim()) == (0, 4)
    assert ax.images[0].get_array().tolist() == [[0.25, 0.75], [0.75, 0.0]]
    ax = show.pi_map(HISTORY.assign(pi=[[0.5, 0.25, 0.25]] * 4), list("abc"), list("cab"))
    assert names(ax) == ["c", "a", "b"]
    assert ax.images[0].get_array()[:, 0].tolist() == [0.75, 1.5, 0.75]
    assert ax.images[0].get_clim() == (0.5, 1.5)  # chance in the middle


def test_spectra_are_sorted():
    table = pd.DataFrame({"concept": ["a", "b", ""], "delta": [0.3, 0.1, 0.2]})
    table = table.assign(low=table["delta"] - 0.1, high=table["delta"] + 0.1)
    ax = show.spectrum(table, ["a"], [""])
    assert ax.lines[0].get_ydata().tolist() == [0.1, 0.2, 0.3] and said(ax) == ["“” (empty)"]
    marks = {line.get_label(): line.get_xydata()[0].tolist() for line in ax.lines}
    assert marks["target (1)"] == [2, 0.3] and marks["neutral (1)"] == [1, 0.2]
    moved = pd.DataFrame({"concept": list("xyz"), "moved": [3.0, 2.0, 1.0]})
    ax = show.search_spectrum({"random": moved, "gumbel": moved}, label=2)
    assert said(ax) == ["x", "y"] and len({line.get_marker() for line in ax.lines}) == 2


def test_pivots_hold_the_means_in_the_tables_order():
    runs = TABLE.assign(targets=["dog", "dog", "cat"], metric="PSR-1")
    (ax,) = show.pivots(runs, "targets", "setting").axes
    assert names(ax) == ["dog", "cat"] and sorted(said(ax)) == [".20", ".50", ".90"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["b", "a"]
    assert show.pivots(runs, "targets", "setting").get_supxlabel() == "Runs behind a cell: 1"


def test_costs_say_what_was_extrapolated():
    rows = [("esd", 25.0, 200, 200, 4000), ("eap", 520.0, 200, 20, 44000), ("uce", 0.4, 0, 0, 0)]
    columns = ["name", "seconds", "updates", "timed_updates", "evaluations"]
    ax = show.costs(pd.DataFrame(rows, columns=columns))
    known, guessed, closed = said(ax)
    assert "25 s, 4,000 ev" in known and "(from 20 updates)" in guessed and closed == "0.4 s"
    assert drawn(ax)[""][0] == [25.0, 520.0, 0.4] and ax.get_xscale() == "log"


def test_memory_is_stacked_and_has_what_all_held_at_once():
    parts = {f"{p}_mb": [1000.0] for p in ("weights", "gradients", "optimiser", "activations")}
    rows = {"train_method": ["full"], "arrangement": ["one"], "peak_mb": 3500.0} | parts
    ax = show.memory(pd.DataFrame(rows))
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(i, 1) for i in range(4)]
    assert ax.lines[0].get_xdata().tolist() == [3.5]
    assert len({bar.get_facecolor() for bar in ax.patches}) == 4
