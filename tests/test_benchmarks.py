"""The benchmark of speed runs, and counts what the erasure counts."""

from __future__ import annotations

import json

from benchmarks import speed


def test_one_row_in_a_process_of_its_own(tmp_path, capsys):
    out = tmp_path / "speed.json"
    speed.main(["--rows", "uce", "--profile", "smoke", "--out", str(out)])
    found = json.loads(out.read_text())
    (row,) = found["rows"]
    assert row["name"] == "uce" and row["evaluations"] == 0 and row["updates"] == 1
    assert row["seconds"] > 0 and row["peak_mb"] > 100
    assert "uce" in capsys.readouterr().out
