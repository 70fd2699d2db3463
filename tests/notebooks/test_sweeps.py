"""What a sweep runs, and the table of its runs."""

from __future__ import annotations

import pandas as pd
import pytest
from student import ROOT, run

from erase_lib import Erasure
from erase_lib.measure import STRENGTHS
from erase_lib.sweep.cli import main


@pytest.mark.slow
def test_a_swept_erasure_and_the_table_of_its_runs(tmp_path):
    out, target = tmp_path / "out", tmp_path / "results"
    arguments = ["--grid", str(ROOT / "notebooks/params/smoke.yaml"), "--out", str(out)]
    assert main([*arguments, "--workers", "2", "--publish", str(target)]) == 0
    runs = pd.read_csv(target / "smoke.csv")
    assert (
        len(runs) == 4
        and (runs["status"] == "done").all()
        and set(runs["method"]) == {"esd", "eap"}
    )
    assert (runs["ESR-1 erased n"] == 8).all() and (runs["PSR-1 near erased n"] == 6).all()
    for name in runs["id"]:
        for file in ("before_after.png", "erased.safetensors", "history.csv", "executed.ipynb"):
            assert (out / name / file).stat().st_size > 100
    result = run("13_many_runs", tmp_path, table=str(target / "smoke.csv"))
    assert result["runs"] == 4 and result["failed"] == 0
    assert {row["setting"] for row in result["differences"]} == {"eap"}
    for row in result["means"] + result["differences"]:
        assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.slow
def test_an_erasure_measured_where_it_first_erases(tmp_path):
    given = {"method": "eap", "lam_kv": 1.0, "dtype": "float32", "moments": [2]}
    result = run("run_erase", tmp_path, match=0.5, match_pictures=1, **given)
    # four updates erase nothing, at no strength
    assert result["strength"] == STRENGTHS[-1] and result["reached"] is False
    assert Erasure.load(tmp_path).strength == result["strength"]
    assert 0 <= result["percentile 2"] <= 100 and -1 <= result["delta near"] <= 1
    assert result["delta mean"] <= result["delta worst"] <= 1
