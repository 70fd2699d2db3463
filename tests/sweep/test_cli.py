"""Sweeps of small notebooks, from the command line and as a call; what is wrong is one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import joblib
import pandas as pd
import pytest
from joblib.externals.loky.process_executor import BrokenProcessPool

from erase_lib.errors import EraseError
from erase_lib.files import alone
from erase_lib.sweep import run, workers
from erase_lib.sweep.cli import main, plan, select, sweep
from erase_lib.sweep.table import collect

SWEEP = [sys.executable, "-m", "erase_lib.sweep.cli"]


def test_a_failure_is_recorded_and_the_others_go_on(book, tmp_path, capsys, logs):
    out = tmp_path / "out"
    arguments = [str(book), "--out", str(out)]
    assert main([*arguments, "-p", "number=13,1"]) == 1
    said = capsys.readouterr()
    assert "1 of 2 runs done" in said.out and "ValueError: unlucky" in said.err
    found = pd.read_csv(out / "results.csv").set_index("number")
    assert found["status"].to_dict() == {13: "failed", 1: "done"}
    assert found.loc[13, "error"] == "ValueError: unlucky" and found.loc[13, "cell"] == 3
    record = json.loads((out / found.loc[13, "id"] / run.RECORD).read_text())
    assert (
        'raise ValueError("unlucky")' in record["traceback"] and "\x1b" not in record["traceback"]
    )
    assert "unlucky" in (out / found.loc[13, "id"] / run.EXECUTED).read_text()
    assert main([*arguments, "-p", "number=13,1,2", "--only-failed"]) == 1
    assert {name: log.count("started") for name, log in logs(out).items()} == {
        found.loc[13, "id"]: 2,
        found.loc[1, "id"]: 1,
    }


def test_two_workers_share_the_cores_and_survive_the_death_of_one(book, tmp_path, logs, wait_for):
    out = tmp_path / "out"
    cases = [{"number": n, "wait": 6.0 if n < 2 else 0.0} for n in range(5)]
    call = [*SWEEP, str(book), "--out", str(out), "--workers", "2", "--grid", "grid.yaml"]
    (tmp_path / "grid.yaml").write_text(json.dumps({"cases": cases}))
    with subprocess.Popen(call, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: sum("started" in log for log in logs(out).values()) == 2)
        record = json.loads(next(out.glob(f"*/{run.RECORD}")).read_text())
        os.kill(record["worker"], signal.SIGKILL)
        errors = process.stderr.read()
    assert process.returncode == 1 and "process died" in errors
    found = pd.read_csv(out / "results.csv")
    died = found["status"] == "failed"
    assert (
        1 <= died.sum() <= 2
        and (found[~died]["kernel_threads"] == max(1, joblib.cpu_count() // 2)).all()
        and (found[~died]["spins"] == int(os.environ.get("GOMP_SPINCOUNT", 10_000))).all()
    )
    assert all(log.count("finished") <= 1 for log in logs(out).values())
    found = sweep(book, {"cases": cases}, out, workers=2, progress=False)
    assert (found["status"] == "done").all()


def test_a_sweep_that_was_killed_goes_on(book, tmp_path, logs, wait_for):
    out = tmp_path / "out"
    call = [*SWEEP, str(book), "--out", str(out), "-p", "number=0,1", "-p", "wait=3"]
    with subprocess.Popen(call) as process:
        wait_for(lambda: any(log == ["started"] for log in logs(out).values()))
        process.kill()
    assert "unfinished" in set(collect(out)["status"])
    again = subprocess.run(call, capture_output=True, text=True)
    assert again.returncode == 0 and "broke off" in again.stderr
    assert all(log[-1] == "finished" for log in logs(out).values()) and len(logs(out)) == 2


def test_two_sweeps_cannot_use_one_folder(book, tmp_path, numbers):
    out = tmp_path / "out"
    out.mkdir()
    holder = (
        "import sys, time\nfrom pathlib import Path\nfrom erase_lib.files import alone\n"
        "with alone(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    call = [sys.executable, "-c", holder, str(out / "lock")]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(EraseError, match=f"in use.*process {process.pid}"):
            sweep(book, numbers(0), out, progress=False)
        process.kill()
    with alone(out / "lock") as before:  # the dead one's lock is free, and says whose it was
        assert f"process {process.pid}" in before
    with alone(out / "lock") as before:
        assert before == ""


def test_a_folder_that_cannot_be_made_is_said(book, tmp_path, capsys, numbers):
    out = tmp_path / "out"
    cases = plan(book, numbers(0, 1), out)
    out.mkdir()
    cases[0].folder.touch()  # a file where the run's folder should be
    assert main([str(book), "--out", str(out), "-p", "number=0,1"]) == 1
    said = capsys.readouterr()
    assert f"unfinished: {cases[0].id}: cannot write to" in said.err and "1 of 2 runs" in said.out


def test_only_failed_keeps_what_it_has_not_come_to(book, tmp_path, numbers):
    out = tmp_path / "out"
    sweep(book, numbers(13, 1), out, progress=False)
    cases = plan(book, numbers(13, 1, 2), out)
    settings = run.Settings(book, "next")
    assert [case.values["number"] for case in select(cases, settings, only_failed=True)] == [13]
    assert [case.values["number"] for case in select(cases, settings, only_failed=False)] == [13, 2]
    forced = run.Settings(book, "next", force=True)
    assert [case.values["number"] for case in select(cases, forced, only_failed=True)] == [13]
    assert select(cases, forced, only_failed=False) == cases
    assert cases[0].record()["error"] == "ValueError: unlucky"  # until it runs again


def test_workers_that_die_at_once_end_the_sweep(book, tmp_path, monkeypatch, numbers):
    def broken(*arguments, **options):
        raise BrokenProcessPool("no memory")

    monkeypatch.setattr(workers.joblib, "Parallel", broken)
    with pytest.raises(EraseError, match="no memory"):
        sweep(book, numbers(0, 1), tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "nubmer=1"], "'number'"),
        (["-p", "number=x"], "number is 'x'"),
        (["--backend", "dusk"], "'dask'"),
        (["--workers", "0"], "workers is 0"),
        (["--scheduler", "tcp://here:1"], "--backend"),
        (["--grid", "grid.yaml"], "grid is 5"),
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


def test_a_full_disk_costs_only_the_runs_that_do_not_fit(
    notebook, small_disk, tmp_path, capsys, logs
):
    disk, enlarge = small_disk
    save = "\n(Path(output) / 'pictures').write_bytes(bytes(400_000 if number < 4 else 0))"
    book, out = notebook(more=save), disk / "out"
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


def test_a_dry_run_prints_the_plan_and_runs_nothing(book, tmp_path, capsys, numbers):
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


def test_a_sweep_starts_without_torch_and_without_what_windows_lacks():
    code = "import sys; import erase_lib.files\n"
    code += "sys.modules |= dict.fromkeys(['fcntl', 'resource', 'pwd', 'termios'])\n"
    code += "import erase_lib.sweep; light = list(sys.modules)\n"
    code += "import erase_lib.sweep.cli; print(*light, '|', *sys.modules)"
    call = [sys.executable, "-c", code]
    light, _, whole = subprocess.check_output(call, text=True).partition("|")
    assert not {"papermill", "nbformat", "torch"} & set(light.split()), "a kernel would wait"
    assert not {"papermill", "nbformat", "torch"} & set(whole.split())
    rooms = {name for name in whole.split() if re.match(r"erase_lib\.(?!sweep)", name)}
    assert rooms <= {f"erase_lib.{name}" for name in ("files", "errors", "config", "concepts")}
