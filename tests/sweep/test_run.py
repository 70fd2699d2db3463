"""Sweeps of small notebooks: what is run, what is kept, and what happens when something breaks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pandas as pd
import pytest
from joblib.externals.loky.process_executor import BrokenProcessPool
from test_grid import notebook

from erase_lib.errors import EraseError
from erase_lib.files import alone
from erase_lib.measure import read_table
from erase_lib.sweep import run as batch
from erase_lib.sweep import workers
from erase_lib.sweep.cli import main, plan, select, sweep
from erase_lib.sweep.table import collect, gather, publish

CELL = """
number: int = 0  # which run this is
wait: float = 0.0  # seconds
output: str = "runs/x"
"""
BODY = """
import json, os, time
from pathlib import Path
with open(Path(output) / "log", "a") as log:
    log.write("started\\n")
time.sleep(wait)
if number == 13:
    raise ValueError("unlucky")
if number == 99:
    os._exit(1)
row = {"metric": "ESR-1", "model": "erased", "value": number / 2, "low": 0.0, "high": 1.0, "n": 4}
result = {"kernel_threads": int(os.environ["OMP_NUM_THREADS"]), "metrics": [row]}
(Path(output) / "metrics.json").write_text(json.dumps(result))
with open(Path(output) / "log", "a") as log:
    log.write("finished\\n")
"""
SWEEP = [sys.executable, "-m", "erase_lib.sweep.cli"]


@pytest.fixture
def book(tmp_path):
    return notebook(tmp_path, CELL, BODY)


def numbers(*values):
    return {"grid": {"number": list(values)}}


def logs(out):
    return {path.parent.name: path.read_text().split() for path in out.glob("*/log")}


def test_a_sweep_fills_a_table_and_skips_what_is_done(book, tmp_path):
    out = tmp_path / "out"
    found = sweep(book, numbers(0, 1), out, threads=1, progress=False)
    assert found["status"].tolist() == ["done", "done"] and found["number"].tolist() == [0, 1]
    assert found["ESR-1 erased"].tolist() == [0.0, 0.5] and set(found["ESR-1 erased n"]) == {4}
    assert (found["seconds"] > 0).all() and found["error"].isna().all()
    assert (found["torch"] == batch.version("torch")).all()
    for name in found["id"]:
        assert (out / name / batch.EXECUTED).is_file()
        assert re.search(r"^20.*Executing Cell 4", (out / name / batch.LOG).read_text(), re.M)
        assert not (out / name / "executing.ipynb").exists()
    more = sweep(book, numbers(0, 1, 2), out, threads=1, progress=False)
    assert len(more) == 3 and all(log == ["started", "finished"] for log in logs(out).values())
    (out / more["id"][2] / "checkpoint").mkdir()  # would answer for a run that is forced
    sweep(book, numbers(2), out, threads=1, force=True, progress=False)
    assert not (out / more["id"][2] / "checkpoint").exists()
    assert all(log == ["started", "finished"] for log in logs(out).values())


def test_the_table_is_rebuilt_from_the_folders(book, tmp_path):
    out = tmp_path / "out"
    first = sweep(book, numbers(0, 1), out, progress=False)
    for file in ("results.parquet", "results.csv"):
        (out / file).unlink()
    again = collect(out).set_index("id").loc[first["id"]].reset_index()
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), collect(out))
    name = first["id"][0]
    (out / name / "metrics.json").write_text('{"metr')
    assert "damaged" in collect(out).set_index("id").loc[name, "error"]
    with pytest.raises(EraseError, match="holds no runs"):
        collect(tmp_path / "empty")


def test_the_same_run_has_the_same_folder_in_every_grid(book, tmp_path):
    (one,) = plan(book, numbers(1), tmp_path)
    (two,) = plan(book, {"cases": [{"number": "1", "wait": 0}]}, tmp_path)
    assert one.id == two.id and one.id.startswith("1-")
    assert len(plan(book, numbers(1, "1", 1.0, 2), tmp_path)) == 2
    (other,) = plan(notebook(tmp_path, CELL, BODY + "\n1"), numbers(1), tmp_path)
    assert other.id != one.id


def test_a_failure_is_recorded_and_the_others_go_on(book, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(book), "--out", str(out)]
    assert main([*arguments, "-p", "number=13,1"]) == 1
    said = capsys.readouterr()
    assert "1 of 2 runs done" in said.out and "ValueError: unlucky" in said.err
    found = pd.read_csv(out / "results.csv").set_index("number")
    assert found["status"].to_dict() == {13: "failed", 1: "done"}
    assert found.loc[13, "error"] == "ValueError: unlucky" and found.loc[13, "cell"] == 3
    record = json.loads((out / found.loc[13, "id"] / batch.RECORD).read_text())
    assert (
        'raise ValueError("unlucky")' in record["traceback"] and "\x1b" not in record["traceback"]
    )
    assert "unlucky" in (out / found.loc[13, "id"] / batch.EXECUTED).read_text()
    assert main([*arguments, "-p", "number=13,1,2", "--only-failed"]) == 1
    assert {name: log.count("started") for name, log in logs(out).items()} == {
        found.loc[13, "id"]: 2,
        found.loc[1, "id"]: 1,
    }


def test_a_dead_kernel_and_a_hanging_cell_are_failures(book, tmp_path):
    spec = {"cases": [{"number": 99}, {"wait": 60.0}, {"number": 1}]}
    found = sweep(book, spec, tmp_path / "out", cell_timeout=4, progress=False)
    assert found["status"].tolist() == ["failed", "failed", "done"]
    assert "Dead" in found["error"][0] and "Timeout" in found["error"][1]
    assert found["cell"].tolist()[:2] == [3, 3], found[["cell", "error"]]


def test_two_workers_share_the_cores_and_survive_the_death_of_one(book, tmp_path):
    out = tmp_path / "out"
    cases = [{"number": n, "wait": 6.0 if n < 2 else 0.0} for n in range(5)]
    call = [*SWEEP, str(book), "--out", str(out), "--workers", "2", "--grid", "grid.yaml"]
    (tmp_path / "grid.yaml").write_text(json.dumps({"cases": cases}))
    with subprocess.Popen(call, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: sum("started" in log for log in logs(out).values()) == 2)
        record = json.loads(next(out.glob(f"*/{batch.RECORD}")).read_text())
        os.kill(record["worker"], signal.SIGKILL)
        errors = process.stderr.read()
    assert process.returncode == 1 and "process died" in errors
    found = pd.read_csv(out / "results.csv")
    died = found["status"] == "failed"
    assert (
        1 <= died.sum() <= 2
        and (found[~died]["kernel_threads"] == max(1, joblib.cpu_count() // 2)).all()
    )
    assert all(log.count("finished") <= 1 for log in logs(out).values())
    found = sweep(book, {"cases": cases}, out, workers=2, progress=False)
    assert (found["status"] == "done").all()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_a_sweep_that_was_killed_goes_on(book, tmp_path):
    out = tmp_path / "out"
    call = [*SWEEP, str(book), "--out", str(out), "-p", "number=0,1", "-p", "wait=3"]
    with subprocess.Popen(call) as process:
        wait_for(lambda: any(log == ["started"] for log in logs(out).values()))
        process.kill()
    assert "unfinished" in set(collect(out)["status"])
    again = subprocess.run(call, capture_output=True, text=True)
    assert again.returncode == 0 and "broke off" in again.stderr
    assert all(log[-1] == "finished" for log in logs(out).values()) and len(logs(out)) == 2


def test_two_sweeps_cannot_use_one_folder(book, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    holder = (
        "import sys, time\nfrom pathlib import Path\nfrom erase_lib.lock import alone\n"
        "with alone(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    call = [sys.executable, "-c", holder, str(out / "lock")]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(EraseError, match=f"in use by process {process.pid} on .* since"):
            sweep(book, numbers(0), out, progress=False)
        process.kill()
    with alone(out / "lock") as before:  # the dead one's lock is free, and says whose it was
        assert f"process {process.pid}" in before
    with alone(out / "lock") as before:
        assert before == ""


def test_a_run_that_another_process_is_at_is_waited_for(book, tmp_path):
    out = tmp_path / "out"
    (case,) = plan(book, {"fixed": {"wait": 3.0}}, out)
    call = [*SWEEP, str(book), "-p", "wait=3.0", "--out", str(out)]
    with subprocess.Popen(call):
        wait_for(lambda: logs(out))
        record = batch.execute(batch.Settings(book, "another sweep"), case)
    assert record["status"] == "done"
    assert logs(out)[case.id] == ["started", "finished"]


def test_a_forced_run_replaces_only_what_is_older_than_its_sweep(book, tmp_path):
    (case,) = plan(book, numbers(0), tmp_path / "out")
    first = batch.execute(batch.Settings(book, "first"), case)
    forced = batch.Settings(book, "second", force=True)
    second = batch.execute(forced, case)
    assert second["sweep"] == "second" and second["started"] >= first["started"]
    (case.folder / "mark").touch()
    assert batch.execute(forced, case) == second and (case.folder / "mark").exists()
    (case.folder / batch.RECORD).write_text("{}")  # a clear that was cut off
    batch.execute(forced, case)
    assert not (case.folder / "mark").exists()


def test_what_another_commit_left_half_done_is_begun_anew(book, tmp_path):
    (case,) = plan(book, numbers(0), tmp_path / "out")
    (case.folder / "checkpoint").mkdir(parents=True)
    left = {"status": "running", "sweep": "old", "git_commit": "one"}
    batch.write(case.folder / batch.RECORD, left)
    assert batch.execute(batch.Settings(book, "new", commit="one"), case)["status"] == "done"
    assert (case.folder / "checkpoint").exists()  # the same code goes on from it
    batch.write(case.folder / batch.RECORD, left)
    batch.execute(batch.Settings(book, "new", commit="two"), case)
    assert not (case.folder / "checkpoint").exists()


def test_workers_of_a_killed_sweep_begin_nothing_under_another(book, tmp_path):
    out = tmp_path / "out"
    first, second = plan(book, numbers(0, 1), out)
    batch.execute(batch.Settings(book, "new"), first)
    (out / batch.OWNER).write_text("new")
    orphan = batch.Settings(book, "old", force=True)
    for case in (first, second):
        assert batch.execute(orphan, case)["error"] == "another sweep has taken over"
    assert first.record()["sweep"] == "new" and logs(out).keys() == {first.id}


def test_a_folder_that_cannot_be_made_is_said(book, tmp_path, capsys):
    out = tmp_path / "out"
    cases = plan(book, numbers(0, 1), out)
    out.mkdir()
    cases[0].folder.touch()  # a file where the run's folder should be
    assert main([str(book), "--out", str(out), "-p", "number=0,1"]) == 1
    said = capsys.readouterr()
    assert f"unfinished: {cases[0].id}: cannot write to" in said.err and "1 of 2 runs" in said.out


def test_only_failed_keeps_what_it_has_not_come_to(book, tmp_path):
    out = tmp_path / "out"
    sweep(book, numbers(13, 1), out, progress=False)
    cases = plan(book, numbers(13, 1, 2), out)
    settings = batch.Settings(book, "next")
    assert [case.values["number"] for case in select(cases, settings, only_failed=True)] == [13]
    assert [case.values["number"] for case in select(cases, settings, only_failed=False)] == [13, 2]
    forced = batch.Settings(book, "next", force=True)
    assert [case.values["number"] for case in select(cases, forced, only_failed=True)] == [13]
    assert select(cases, forced, only_failed=False) == cases
    assert cases[0].record()["error"] == "ValueError: unlucky"  # until it runs again


def test_workers_that_die_at_once_end_the_sweep(book, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise BrokenProcessPool("no memory")

    monkeypatch.setattr(workers.joblib, "Parallel", broken)
    with pytest.raises(EraseError, match="workers die before they begin .*no memory"):
        sweep(book, numbers(0, 1), tmp_path / "out", progress=False)


def test_metrics_of_another_form_are_said_and_the_table_stands(tmp_path):
    texts = {"a": '{"metrics": {"acc": 1}}', "b": '{"status": "x", "n": 2}', "c": ""}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text('{"status": "done", "parameters": {"k": "v"}}')
        (tmp_path / name / "metrics.json").write_text(text)
    found = collect(tmp_path).set_index("id")
    assert (found["status"] == "done").all() and found.loc["b", "n"] == 2
    assert found["error"].notna().to_dict() == {"a": True, "b": False, "c": True}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "nubmer=1"], "unknown parameter 'nubmer': did you mean 'number'"),
        (["-p", "number=x"], "number is 'x'"),
        (["--backend", "dusk"], "unknown backend 'dusk': did you mean 'dask'"),
        (["--workers", "0"], "workers is 0"),
        (["--scheduler", "tcp://here:1"], "it needs --backend dask or ray"),
        (["--grid", "grid.yaml"], "grid is 5: expected a mapping"),
    ],
)
def test_bad_input_is_one_line(book, tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text("grid: 5\n")
    assert main([str(book), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, and a call that gives it more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield (
        folder,
        lambda: subprocess.run(["mount", "-o", "remount,size=9m", str(folder)], check=True),
    )
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_only_the_runs_that_do_not_fit(small_disk, tmp_path, capsys):
    disk, enlarge = small_disk
    save = "\n(Path(output) / 'pictures').write_bytes(bytes(400_000 if number < 4 else 0))"
    book, out = notebook(tmp_path, CELL, BODY + save), disk / "out"
    arguments = [str(book), "--out", str(out), "-p", "number=0,1,2,3"]
    assert main(arguments) in (1, 2)
    said = capsys.readouterr().err
    assert "No space left on device" in said
    whole = [path.parent.name for path in out.glob("*/run.json") if '"done"' in path.read_text()]
    assert len(whole) == 2 and not list(out.rglob("*.tmp"))
    enlarge()
    assert main(arguments) == 0
    assert (pd.read_csv(out / "results.csv")["status"] == "done").all()
    for name, log in logs(out).items():
        assert log[-1] == "finished" and (name not in whole or log.count("started") == 1)


def test_a_dry_run_prints_the_plan_and_runs_nothing(book, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(book), "--out", str(out), "-p", "number=1,2"]
    assert main([*arguments, "--dry-run"]) == 0 and not out.exists()
    assert "2 runs, 0 of them done" in capsys.readouterr().out
    sweep(book, numbers(1), out, progress=False)
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 runs, 1 of them done" in said and "minutes left" in said


def test_the_command_line_replaces_what_the_file_says(book, tmp_path, capsys):
    file = tmp_path / "grid.yaml"
    file.write_text("fixed: {wait: 9}\ngrid: {number: [0, 1]}\n")
    pairs = ["-p", "wait=0,1", "-p", "number=2"]
    assert main([str(book), "--grid", str(file), "--dry-run", *pairs]) == 0
    assert "2 runs" in capsys.readouterr().out


def test_tables_are_read_or_refused(tmp_path):
    for name, says in (("none.csv", "does not exist"), ("a.csv", "no column status")):
        (tmp_path / "a.csv").write_text("x\n1\n")
        with pytest.raises(EraseError, match=says):
            read_table(tmp_path / name)
    (tmp_path / "b.parquet").write_text("none")
    with pytest.raises(EraseError, match="b.parquet is no table"):
        read_table(str(tmp_path / "b.parquet"))


def test_a_grid_is_published_with_its_hours_and_versions(book, tmp_path):
    file = tmp_path / "named.yaml"
    file.write_text("grid: {number: [0, 1]}\n")
    target = tmp_path / "results"
    arguments = [str(book), "--grid", str(file), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--publish", str(target)]) == 0
    about = json.loads((target / "named.json").read_text())
    assert about["runs"] == 2 and about["torch"] == [batch.version("torch")]
    assert len(pd.read_csv(target / "named.csv")) == 2 and (target / file.name).is_file()
    assert Path(file).read_text() == (target / file.name).read_text()


def test_tables_that_the_runs_wrote_are_joined_with_the_runs_id_and_targets(tmp_path):
    out, written = tmp_path / "out", {"a": ["pairs", "effects"], "b": ["pairs"], "c": []}
    for i, (name, tables) in enumerate(written.items()):
        (out / name).mkdir(parents=True)
        for file in tables:
            rows = pd.DataFrame({"concept": ["dog", "cat"], "delta": [float(i), 0.5]})
            rows.to_parquet(out / name / f"{file}.parquet")
    runs = pd.DataFrame({"id": ["b", "a", "c"], "targets": ["church", "bus+car", "rose"]})
    (out / "d").mkdir()  # a run that is not in the table
    rows.to_parquet(out / "d" / "pairs.parquet")
    found = gather(runs, out)
    assert list(found) == ["effects.parquet", "pairs.parquet"]
    pairs = found["pairs.parquet"]
    assert pairs.columns.tolist() == ["id", "targets", "concept", "delta"]
    assert pairs["id"].tolist() == ["b", "b", "a", "a"]  # in the order of the runs
    assert pairs["targets"].tolist() == ["church"] * 2 + ["bus+car"] * 2
    assert pairs["delta"].tolist() == [1.0, 0.5, 0.0, 0.5]
    about = {"status": "done", "seconds": 1.0, "threads": 1, "git_commit": "x", "cell": None}
    runs = runs.assign(error=None, **about, **dict.fromkeys(batch.VERSIONS, "1"))
    publish(runs, out, tmp_path / "results", tmp_path / "named.json")
    again = pd.read_parquet(tmp_path / "results" / "named_pairs.parquet")
    # to three digits, as float32
    pd.testing.assert_frame_equal(again, pairs, check_dtype=False, rtol=1e-3)
