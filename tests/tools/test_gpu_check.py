"""The GPU check on a toy and a CPU: the same code, and its verdicts."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch

from tools.benchmarks.gpu_check import faults, main


def test_toy_on_a_cpu(capsys):
    assert main(["--tiny", "--device", "cpu", "--updates", "2"]) == 0
    out = capsys.readouterr().out
    assert "gpu-check: all is well" in out
    rows = [line.split() for line in out.splitlines() if "float" in line]
    kinds = [["float32", "False"], ["bfloat16", "False"], ["bfloat16", "True"]]
    assert [row[1:3] for row in rows] == kinds


REFUSED = {
    "--device cpu": "--tiny",
    "--tiny --device cpu --updates 1": "--updates is 1",
    "--tiny --device gpu": "'gpu'",
    "": "CUDA",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_nothing_to_check_is_one_line_and_status_2(capsys, monkeypatch, arguments):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert not out and REFUSED[arguments] in err and err.count("\n") == 1


def test_faults_are_named():
    good = {"l1": [1.0, 1.1, 0.9], "finite": [True] * 3, "teacher_kept": [True] * 3}
    assert faults(pd.DataFrame(good)) == []
    for name, values, words in (
        ("l1", [1.0, 1.4, 1.0], "40%"),
        ("l1", [1.0, float("nan"), 1.0], ""),
        ("finite", [True, False, True], "infinite"),
        ("teacher_kept", [True, True, False], "teacher"),
    ):
        (found,) = faults(pd.DataFrame(good | {name: values}))
        assert words in found


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_other_families_and_a_table_in_a_file(family, capsys, tmp_path):
    given = ["--tiny", "--device", "cpu", "--updates", "2", "--family", family]
    assert main([*given, "--out", str(tmp_path / "gpu.json")]) == 0, capsys.readouterr().out
    told = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert [row["family"] for row in told["rows"]] == [family] * 3
    assert all(row["teacher_kept"] and row["finite"] for row in told["rows"])
