"""The student's edition of every notebook runs headlessly in smoke, and leaves its results.

With their solutions the notebooks are run for the book (tests/course/test_book.py).
"""

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
def test_concept_sensitivity(tmp_path):
    result = run("02_concept_sensitivity", tmp_path, targets=["dog"], predictors=["distance", "kv"])
    assert {row["predictor"] for row in result["agreement"]} == {"distance", "kv"}
    for row in result["predictors"] + result["neutral"]:
        assert row["low"] <= row["value"] <= row["high"] and row["groups"] == 5
    pairs = pd.read_parquet(tmp_path / "pairs.parquet")
    assert pairs["judge"].isna().sum() == 2 * 3  # two pictures of three neutral concepts
    for name in ("spectrum", "bars", "strip", "predictors", "bars_weapons", "bars_noto_style"):
        assert (tmp_path / f"{name}.png").stat().st_size > 100


@pytest.mark.slow
def test_the_map_of_concepts(tmp_path):
    result = run("03_embedding_map", tmp_path, target="dog", projection="tsne")
    spaces = {row["space"] for row in result["spaces"]}
    assert {"text", "pictures", "text, PCA", "pictures, UMAP"} <= spaces
    assert all(-1 <= row["value"] <= 1 for row in result["spaces"])
    assert (tmp_path / "map.html").stat().st_size > 1e6  # it needs no network
    for name in ("map_text", "map_pictures", "maps", "spaces", "strip"):
        assert (tmp_path / f"{name}.png").stat().st_size > 100


@pytest.mark.slow
def test_the_method_from_its_equations(tmp_path):
    result = run("04_the_method", tmp_path)
    assert result["profile"] == "smoke"


@pytest.mark.slow
def test_one_erasure_explained(tmp_path):
    result = run("05_erase", tmp_path, method="eap", lam=1.0)
    assert result["updates"] == 4 and result["strength"] == 1
    for row in result["metrics"]:
        assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.slow
def test_an_evaluation_and_what_is_said_of_a_folder_that_is_none(tmp_path):
    result = run("06_evaluate", tmp_path, suite="theme", dtype="float32", match=0.5)
    rows = {(r["group"], r["metric"], r["model"]): r for r in result["metrics"]}
    assert rows["implicit", "NER-0.8", "erased"]["n"] == 4
    assert "weapon, 8 concepts" in rows["implicit", "NER-0.3", "original"]["measured_by"]
    for row in rows.values():
        assert row["low"] <= row["value"] <= row["high"] and row["measured_by"] and row["seeds"]
    names = [f"{name}_{tmp_path.name}.png" for name in ("levels", "pictures")]
    for name in (*names, "thresholds.png", "theme_pictures.parquet", "theme_rows.csv"):
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


@pytest.mark.slow
def test_methods_side_by_side(tmp_path):
    result = run("07_compare", tmp_path, live=["eap_closed"])
    assert result["runs"] >= 40 and "eap_closed" in result["strengths"]
    found = {(r["setting"], r["group"], r["metric"]): r for r in result["levels"]}
    assert found["esd", "target", "ESR-1"]["splits"] == 4
    for row in result["levels"] + result["differences"]:
        assert row["low"] <= row["value"] <= row["high"]
    assert all(0 < r["p"] <= r["q"] <= 1 for r in result["differences"])
    for name in ("plane", "levels", "differences", "side_by_side"):
        assert (tmp_path / f"{name}.png").stat().st_size > 100
