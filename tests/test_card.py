"""The metric card says all that is needed to quote a number."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from erase_lib import EraseError
from erase_lib.card import foot, metric_card, under

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


def test_it_stands_under_the_figure():
    figure, _ = plt.subplots(figsize=(8, 4), layout="constrained")
    assert under(figure, ROWS).get_supxlabel() == metric_card(ROWS, 144)
    assert foot(figure, "small print").get_supxlabel() == "small print"
    plt.close(figure)
