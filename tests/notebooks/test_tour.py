"""Two of the student's edition in a kernel, as a student has them: unanswered, in smoke.

The others run unanswered on a model of somebody's own (test_own_model.py), and with their solutions
for the book (tests/course/test_book.py)."""

from __future__ import annotations

import json

import pandas as pd
import papermill
import pytest
from student import run


def test_quickstart(tmp_path):
    result = run("01_quickstart", tmp_path, method="esd", target="dog")
    assert [result[name] for name in ("profile", "method", "target")] == ["smoke", "esd", "dog"]
    rows = {(r["metric"], r["model"]): r for r in result["metrics"]}
    assert rows["ESR-1", "erased"]["n"] == 4
    for row in rows.values():
        assert row["low"] <= row["value"] <= row["high"]
    for name in ("before_after.png", "erasure/erased.safetensors", "erasure/config.json"):
        assert (tmp_path / name).stat().st_size > 100


@pytest.mark.slow
def test_an_evaluation_that_also_asks_what_is_only_hidden(tmp_path):
    metrics = run("06_evaluate", tmp_path, suite="attacks", lam=1.0)["metrics"]
    rows = {(r["group"], r["metric"], r["model"]): r for r in metrics}
    assert rows["target", "ESR-1 judge+eye", "erased"]["n"] == 4
    for model in ("original", "erased", "unknown", "twin"):
        assert rows["null text", "recovered", model]["n"] == 2


@pytest.mark.slow
def test_an_evaluation_and_what_is_said_of_a_folder_that_is_none(tmp_path):
    result = run("06_evaluate", tmp_path, suite="theme", dtype="float32", match=0.5)
    rows = {(r["group"], r["metric"], r["model"]): r for r in result["metrics"]}
    assert rows["implicit", "NER-0.8", "erased"]["n"] == 4
    assert "weapon, 8 concepts" in rows["implicit", "NER-0.3", "original"]["measured_by"]
    for row in rows.values():
        assert row["low"] <= row["value"] <= row["high"] and row["measured_by"] and row["seeds"]
    drawn = ("levels_eap_closed.png", "pictures_eap_closed.png", "thresholds.png")
    for name in (*drawn, "theme_pictures.parquet", "theme_rows.csv"):
        assert (tmp_path / name).stat().st_size > 100
    # the run again, with one that is none beside it: the good one is measured, the status is bad
    runs = [str(tmp_path), str(tmp_path / "none")]
    with pytest.raises(papermill.PapermillExecutionError, match="1 of 2 runs were not evaluated"):
        run("06_evaluate", tmp_path, suite="theme", dtype="float32", runs=runs)
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert list(again["not evaluated"]) == runs[1:]
    same = ("group", "metric", "model", "value", "low", "high")
    before, after = (pd.DataFrame(r["metrics"])[list(same)] for r in (result, again))
    pd.testing.assert_frame_equal(before, after)
