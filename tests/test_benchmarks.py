"""The benchmark of speed: a row in a process of its own, and what it counts."""

from __future__ import annotations

import json

import pytest

from benchmarks import speed
from erase_lib import EraseConfig, erase, load_pipeline


def test_one_row_in_a_process_of_its_own(tmp_path, capsys):
    out = tmp_path / "speed.json"
    speed.main(["--rows", "uce", "--profile", "smoke", "--out", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    assert row["name"] == "uce" and row["evaluations"] == 0 and row["updates"] == 1
    assert row["seconds"] > 0 and row["peak_mb"] > 100
    assert "uce" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["eap", "eap, published schedule"])
def test_a_row_counts_what_the_erasure_counts(name):
    row = speed.measure(name, "church", "smoke")
    config = EraseConfig.from_profile("smoke", targets=["church"], **speed.ROWS[name] | speed.SMOKE)
    spent = erase(load_pipeline(), config, progress=False).history[-1]["evaluations"]
    share = row["updates"] / 2
    assert row["evaluations"] == spent * share and row["timed_updates"] == 2
    assert share == (2 if "published" in name else 1)  # extrapolated to the profile's own four
