"""One run in its folder: what makes it the same run, and what happens when something breaks."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pandas as pd
import pytest

from erase_lib.sweep import collect, run
from erase_lib.sweep.cli import plan, sweep


def test_a_sweep_fills_a_table_and_skips_what_is_done(book, out, logs, numbers):
    found = sweep(book, numbers(0, 1), out, threads=1)
    assert found["status"].tolist() == ["done", "done"] and found["number"].tolist() == [0, 1]
    assert found["ESR-1 erased"].tolist() == [0.0, 0.5] and set(found["ESR-1 erased n"]) == {4}
    assert (found["seconds"] > 0).all() and found["error"].isna().all()
    assert (found["torch"] == run.version("torch")).all()
    for name in found["id"]:
        assert (out / name / run.EXECUTED).is_file()
        assert re.search(r"^20.*Executing Cell 4", (out / name / run.LOG).read_text(), re.M)
    for file in ("results.parquet", "results.csv"):
        (out / file).unlink()
    again = collect(out).set_index("id").loc[found["id"]].reset_index()
    pd.testing.assert_frame_equal(found, again)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), collect(out))
    more = sweep(book, numbers(0, 1, 2), out, threads=1)
    assert len(more) == 3 and all(log == ["started", "finished"] for log in logs().values())
    sweep(book, numbers(2), out, threads=1, force=True)
    assert all(log == ["started", "finished"] for log in logs().values())


def test_a_run_hangs_on_what_is_computed_and_not_on_how_it_is_told(notebook, out, numbers):
    def name(*given, spec=None, **tagged):
        (case,) = plan(notebook(*given, **tagged), spec or numbers(1), out)
        return case.id

    assert name() == name(spec={"cases": [{"number": "1", "wait": 0}]})
    assert name().startswith("1-") and len(plan(notebook(), numbers(1, "1", 1.0, 2), out)) == 2
    cell = 'number: int = 0  # a hint\noutput: str = "x"'
    code = "\ndef f():\n    return 1"
    first = name(cell, code)
    told = cell.replace("a hint", "a better one")
    assert first == name(told, code.replace("return 1", '"What."\n    return (1)  # why'), "prose")
    assert first == name(cell, code, exercise="x = ...", solution="x = 1", check="check(x)")
    assert first != name(cell, code.replace("1", "2"))
    assert first != name(cell, code, slide="x = 1")
    assert name(cell, "\n%matplotlib inline") != name(cell, "\n%matplotlib agg")


def test_the_threads_of_a_kernel(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    before = dict(os.environ)
    with run.threads_of(3):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "3"
        assert os.environ["GOMP_SPINCOUNT"] == "5", "the user's own stays"
    assert dict(os.environ) == before


def test_a_dead_kernel_and_a_hanging_cell_are_failures(book, out):
    spec = {"cases": [{"number": 99}, {"wait": 60.0}, {"number": 1}]}
    found = sweep(book, spec, out, cell_timeout=4)
    assert found["status"].tolist() == ["failed", "failed", "done"]
    assert "Dead" in found["error"][0] and "Timeout" in found["error"][1]
    assert found["cell"].tolist()[:2] == [3, 3], found[["cell", "error"]]


def test_a_run_that_another_process_is_at_is_waited_for(book, out, logs, wait_for):
    (case,) = plan(book, {"fixed": {"wait": 3.0}}, out)
    call = [sys.executable, "-m", "erase_lib.sweep.cli", str(book), "-p", "wait=3.0", "--out"]
    with subprocess.Popen([*call, str(out)]):
        wait_for(lambda: logs())
        record = run.execute(run.Settings(book, "another sweep"), case)
    assert record["status"] == "done"
    assert logs()[case.id] == ["started", "finished"]


@pytest.mark.usefixtures("without_kernels")
def test_a_forced_run_replaces_only_what_is_older_than_its_sweep(book, out, logs, numbers):
    (case,) = plan(book, numbers(0), out)
    first = run.execute(run.Settings(book, "first"), case)
    forced = run.Settings(book, "second", force=True)
    second = run.execute(forced, case)
    assert second["sweep"] == "second" and second["started"] >= first["started"]
    (case.folder / "mark").touch()
    assert run.execute(forced, case) == second and (case.folder / "mark").exists()
    (case.folder / run.RECORD).write_text("{}")  # a clear that was cut off
    run.execute(forced, case)
    assert logs()[case.id] == ["started", "finished"] and (case.folder / "mark").exists()


WRITES = """
(Path(output) / "checkpoint" / "deep").mkdir(parents=True, exist_ok=True)
with open(Path(output) / "checkpoint" / "deep" / "steps", "a") as steps:
    steps.write("x")
if wait:
    raise ValueError("unlucky")
"""


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("how", ["forced", "of another commit", "killed, and of another commit"])
def test_a_new_run_removes_what_runs_wrote_and_nothing_else(notebook, out, tmp_path, how):
    book, failing = notebook(more=WRITES), how == "of another commit"
    (case,) = plan(book, {"fixed": {"wait": 0.1 * failing}}, out)
    folder, mine = case.folder, tmp_path / "mine"
    first = run.execute(run.Settings(book, "one", commit="one"), case)
    mine.mkdir()
    (mine / "picture").touch()
    (folder / "notes.txt").write_text("my notes")
    (folder / "link").symlink_to(mine)
    (folder / "checkpoint" / "loop").symlink_to(folder)
    if "killed" in how:
        run.write(folder / run.RECORD, first | {"status": "running"})
        (folder / run.WRITTEN).unlink()
    new = run.Settings(book, "two", commit="two", force=how == "forced")
    for _ in range(2):  # the second time it is done, or has failed
        record = run.execute(new, case)
        assert record.get("error") == ("ValueError: unlucky" if failing else None)
    assert (folder / "checkpoint" / "deep" / "steps").read_text() == "x" * (1 + failing)
    (place,) = folder.glob("killed-*") if "killed" in how else [folder]
    assert (place / "notes.txt").read_text() == "my notes"
    assert (place / "link" / "picture").exists() and (place / "checkpoint" / "loop").is_symlink()


CELLS = [5, ["a", 5], None]
CELLS = [{"cell_type": "code", "metadata": {}, "source": of} for of in CELLS]
CELLS += ["x", {"source": ""}, {"cell_type": "code", "metadata": [], "source": ""}]


@pytest.mark.parametrize("cell", CELLS)
def test_a_damaged_cell_is_one_line(book, out, refused, cell):
    run.write(book, run.read_json(book) | {"cells": [cell]})
    refused(run.computed, book, says="book.ipynb is damaged")


@pytest.mark.usefixtures("without_kernels")
def test_what_another_commit_left_half_done_is_begun_anew(book, out, numbers):
    (case,) = plan(book, numbers(0), out)
    (case.folder / "checkpoint").mkdir(parents=True)
    left = {"status": "running", "sweep": "old", "git_commit": "one"}
    run.write(case.folder / run.RECORD, left)
    assert run.execute(run.Settings(book, "new", commit="one"), case)["status"] == "done"
    assert (case.folder / "checkpoint").exists()  # the same code goes on from it
    run.write(case.folder / run.RECORD, left)
    run.execute(run.Settings(book, "new", commit="two"), case)
    assert not (case.folder / "checkpoint").exists()


@pytest.mark.usefixtures("without_kernels")
def test_workers_of_a_killed_sweep_begin_nothing_under_another(book, out, logs, numbers):
    first, second = plan(book, numbers(0, 1), out)
    run.execute(run.Settings(book, "new"), first)
    (out / run.OWNER).write_text("new")
    orphan = run.Settings(book, "old", force=True)
    for case in (first, second):
        assert run.execute(orphan, case)["error"] == "another sweep has taken over"
    assert first.record()["sweep"] == "new" and logs().keys() == {first.id}
