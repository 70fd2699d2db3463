"""The metric card says all that is needed to quote a number."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from erase_lib import EraseError
from erase_lib.show.card import foot, metric_card, under

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
    first, second, last = metric_card(ROWS).splitlines()
    assert first == (
        "ESR-1, ESR-5, PSR-1: measured by a judge · n = 80 to 1,398 pictures of 20 to 398 prompts,"
        " seeds 1, 2 | 1 · 5.0 s"
    )
    assert second.startswith("CLIP score: measured by a clip · n = 1,398 pictures of 398 prompts")
    assert last == "Intervals: 95 %, bootstrap over prompts."


def test_a_card_says_what_the_table_has():
    bare = ROWS[["metric", "n", "measured_by"]].head(2)
    assert metric_card(bare) == (
        "ESR-1, ESR-5: measured by a judge · n = 80 pictures\n"
        "Intervals: 95 %, bootstrap over prompts."
    )
    thrice = pd.concat([ROWS.head(2).assign(model=m) for m in ("original", "erased")])
    assert metric_card(thrice).startswith("ESR-1, ESR-5: measured by a judge · n = 80 pictures of")
    # what one look at a group's pictures costs stands in more than one row; some cost nothing more
    assert " · 5.0 s\n" in metric_card(ROWS.head(3).assign(seconds=[2.0, 0.0, 3.0]))
    many = ROWS.head(2).assign(n=[1500, 12000])
    assert "n = 1,500 to 12,000 pictures" in metric_card(many)
    # without groups every row has looked for itself
    assert " · 7.5 s\n" in metric_card(ROWS.drop(columns="group").assign(measured_by="one"))
    seeds = ROWS.assign(seeds=["3", "1", "3", "2"], measured_by="one")
    assert ", seeds 3 | 1 | 2 · " in metric_card(seeds)
    before = ROWS.copy()
    metric_card(ROWS)
    pd.testing.assert_frame_equal(ROWS, before)


def test_instruments_come_in_the_order_of_the_rows():
    mixed = pd.concat([ROWS.tail(1), ROWS.head(1), ROWS.tail(1).assign(metric="distance", n=7)])
    first, second, _ = metric_card(mixed).splitlines()
    assert first.startswith("CLIP score, distance: measured by a clip · n = 7 to 1,398 pictures of")
    assert second == (
        "ESR-1: measured by a judge · n = 80 pictures of 20 prompts, seeds 1, 2 · 2.0 s"
    )


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (["ESR-1"], "bootstrap over prompts"),
        (["FID"], "jackknife over prompts"),
        (["KID"], "jackknife over prompts"),
        (["KID", "FID"], "jackknife over prompts"),
        (["KID", "NER-0.5"], "bootstrap over prompts (FID, KID: jackknife over prompts)"),
        (["PSR-1", "FID"], "bootstrap over prompts (FID, KID: jackknife over prompts)"),
    ],
)
def test_the_interval_is_that_of_the_metrics(metrics, says):
    rows = pd.concat([ROWS.head(1).assign(metric=metric) for metric in metrics])
    assert metric_card(rows).splitlines()[-1] == f"Intervals: 95 %, {says}."


def test_every_note_stands_there_once():
    notes = ["few", None, "too " * 20 + "few", "few"]
    lines = metric_card(ROWS.assign(note=notes), 60).splitlines()
    assert lines[-3:] == ["Note: few", "Note: " + "too " * 12 + "too", "too " * 7 + "few"]
    assert "Note" not in metric_card(ROWS.assign(note=["", None, float("nan"), ""]))


def test_sets_have_another_interval_and_notes_stand_at_the_end():
    sets = ROWS.tail(1).assign(metric="FID", note="too few")
    assert metric_card(sets).endswith("Intervals: 95 %, jackknife over prompts.\nNote: too few")
    both = metric_card(pd.concat([ROWS, sets, sets]))
    assert "bootstrap over prompts (FID, KID: jackknife over prompts)." in both
    assert both.count("Note: too few") == 1


def test_no_line_is_wider_than_asked():
    assert max(map(len, metric_card(ROWS, 60).splitlines())) <= 60


def test_a_table_without_evidence_has_no_card():
    for table in (ROWS.drop(columns="n"), ROWS.drop(columns="measured_by"), ROWS.head(0)):
        with pytest.raises(EraseError, match="cannot be quoted"):
            metric_card(table)
    metric_card(ROWS[["metric", "n", "measured_by"]])
    for table, says in (
        (ROWS[["group"]], r"^the table lacks \['measured_by', 'metric', 'n'\]: a figure"),
        (ROWS.head(0), "^the table is empty: a figure"),
    ):
        with pytest.raises(EraseError, match=says):
            metric_card(table)


def test_it_stands_under_the_figure():
    figure, _ = plt.subplots(figsize=(8, 4), layout="constrained")
    assert under(figure, ROWS).get_supxlabel() == metric_card(ROWS, 144)
    assert foot(figure, "small print").get_supxlabel() == "small print"
    plt.close(figure)


def test_it_is_drawn_inside_the_figure_from_the_left():
    figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    with pytest.raises(EraseError):
        under(figure, ROWS.head(0))
    assert figure.get_supxlabel() == ""
    rows = ROWS.assign(note="so many words that the line has to be broken " * 8)
    assert under(figure, rows) is figure
    figure.canvas.draw()
    (text,) = [t for t in figure.texts if t.get_text() == metric_card(rows, 144)]
    box, renderer = figure.bbox, figure.canvas.get_renderer()
    drawn = text.get_window_extent(renderer)
    assert drawn.x0 == pytest.approx(0.01 * box.width, abs=2)
    assert drawn.x1 <= box.width and drawn.y0 >= 0
    assert drawn.y1 <= ax.get_tightbbox(renderer).y0  # the axes make room for it
    plt.close(figure)
