"""Handed-in notebooks: who solved what, and what their code can reach."""

import subprocess

import nbformat
import pandas as pd
import pytest

from course import grade
from course.plan import ROOT, notebook, tagged

NAME = "12_speed_and_memory"
CHECKS = [f"checks.n12.exercise{k}(None)" for k in (1, 2)]
SPILL = """
from pathlib import Path
import erase_lib
Path("spilled").touch()
(Path(erase_lib.__file__).parents[1] / "data" / "spilled").touch()
"""


def handed(path, *sources):
    code = nbformat.v4.new_code_cell
    cells = [code('output = "runs/x"', metadata={"tags": ["parameters"]})]
    cells += [code(source) for source in sources]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def listed():
    call = ["git", "-C", str(ROOT), "status", "--porcelain", "--ignored", "data", "notebooks"]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_two_students(tmp_path, capsys):
    right = next(cell.source for cell in notebook(NAME).cells if tagged(cell, "solution"))
    first = ["from course import checks", SPILL, right, "1 / 0", *CHECKS]
    second = ["from course import checks", "evaluations1 = 40", 'print("right")', *CHECKS[:1]]
    handed(tmp_path / "in" / "anna" / "mine.ipynb", *first)
    handed(tmp_path / "in" / "ben" / f"{NAME}.ipynb", *second)
    handed(tmp_path / "in" / "ben" / "other.ipynb", "print('hello')")
    (tmp_path / "in" / "carl").mkdir()
    (tmp_path / "in" / "carl" / "cut.ipynb").write_text("{")
    before = listed()
    assert grade.main([str(tmp_path / "in"), "--out", str(tmp_path / "grades.csv")]) == 0
    assert listed() == before, "a student's code writes into the checkout"
    assert not (tmp_path / "in" / "anna" / "spilled").exists()
    table = pd.read_csv(tmp_path / "grades.csv", dtype=str).fillna("")
    anna, ben, other, carl = table.to_dict("records")
    assert (anna["handed in"], anna["notebook"]) == ("anna/mine.ipynb", NAME)
    assert (anna["solved"], anna["of"], anna["note"]) == ("1", "3", "")
    # what a cell before it has left undone stops its own check alone
    assert [anna[k] for k in "123"] == ["right", "stopped: NameError", "no check"]
    assert [ben[k] for k in "123"] == ["not right", "no check", "no check"], "the course's checks"
    assert "none of its checks" in other["note"] and other["solved"] == ""
    assert "damaged" in carl["note"] and "anna" in capsys.readouterr().out


def test_what_does_not_end_is_stopped(tmp_path):
    path = handed(tmp_path / "a.ipynb", "while True: pass", *CHECKS)
    row = grade.row(path, "a.ipynb", "smoke", ROOT, limit=5)
    assert row["solved"] == 0 and row["note"] == "stopped after 5 s"
    assert row["1"] == "not run"


def test_an_empty_folder_is_one_line(tmp_path, capsys):
    assert grade.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "no notebooks" in said and said.count("\n") == 1
    with pytest.raises(SystemExit):
        grade.main([])
