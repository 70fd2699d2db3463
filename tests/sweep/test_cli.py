"""Sweeps of small notebooks, in processes and on clusters; what is wrong is one line."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import kills
import pandas as pd
import pytest
from joblib.externals.loky.process_executor import BrokenProcessPool

from erase_lib.errors import EraseError
from erase_lib.files import alone, handled, uninterrupted
from erase_lib.sweep import cli, run, workers
from erase_lib.sweep.cli import main, plan, sweep
from erase_lib.sweep.table import collect

SPEC = {"cases": [{"number": n, "wait": 3.0 if n < 2 else 0.0} for n in range(5)]}
SWEEP = [sys.executable, "-m", "erase_lib.sweep.cli"]


@pytest.fixture
def arguments(book, out):
    return [str(book), "--out", str(out)]


def test_a_failure_is_recorded_and_the_others_go_on(arguments, out, capsys, logs):
    assert main([*arguments, "-p", "number=13,1"]) == 1
    said = capsys.readouterr()
    assert "1 of 2" in said.out and "ValueError: unlucky" in said.err
    found = pd.read_csv(out / "results.csv").set_index("number")
    assert found["status"].to_dict() == {13: "failed", 1: "done"}
    failed = found.loc[13]
    assert failed["error"] == "ValueError: unlucky" and failed["cell"] == 3
    trace = json.loads((out / failed["id"] / run.RECORD).read_text())["traceback"]
    assert 'raise ValueError("unlucky")' in trace and "\x1b" not in trace
    assert "unlucky" in (out / failed["id"] / run.EXECUTED).read_text()
    assert main([*arguments, "-p", "number=13,1,2", "--only-failed"]) == 1
    begun = {name: log.count("started") for name, log in logs().items()}
    assert begun == {failed["id"]: 2, found.loc[1, "id"]: 1}


@pytest.mark.slow
def test_two_workers_share_the_cores_and_survive_the_death_of_one(book, out, logs, kill_a_worker):
    (out.parent / "grid.yaml").write_text(json.dumps(SPEC))
    call = [*SWEEP, book, "--out", out, "--workers", "2", "--grid", out.parent / "grid.yaml"]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as process:
        kill_a_worker()
        errors = process.stderr.read()
    assert process.returncode == 1 and "process died" in errors
    found = pd.read_csv(out / "results.csv")
    died = found["status"] == "failed"
    assert 1 <= died.sum() <= 2
    assert (found[~died]["kernel_threads"] == max(1, joblib.cpu_count() // 2)).all()
    assert (found[~died]["spins"] == int(os.environ.get("GOMP_SPINCOUNT", 10_000))).all()
    assert all(log.count("finished") <= 1 for log in logs().values())
    assert (sweep(book, SPEC, out, workers=2)["status"] == "done").all()


def test_a_sweep_that_was_killed_goes_on(arguments, out, logs, wait_for):
    call = [*SWEEP, *arguments, "-p", "number=0,1", "-p", "wait=3"]
    with subprocess.Popen(call) as process:
        wait_for(lambda: ["started"] in logs().values())
        process.kill()
    assert "unfinished" in set(collect(out)["status"])
    again = subprocess.run(call, capture_output=True, text=True)
    assert again.returncode == 0 and "broke off" in again.stderr
    assert [log[-1] for log in logs().values()] == ["finished"] * 2


def test_two_sweeps_cannot_use_one_folder(book, out, numbers):
    out.mkdir()
    with alone(out / "lock"), pytest.raises(EraseError, match=f"process {os.getpid()}"):
        sweep(book, numbers(0), out)
    with alone(out / "lock") as before:
        assert before == "", "who has let go"


@pytest.mark.usefixtures("without_kernels")
def test_a_folder_that_cannot_be_made_is_said(arguments, book, out, capsys, numbers):
    case, _ = plan(book, numbers(0, 1), out)
    out.mkdir()
    case.folder.touch()  # a file where the run's folder should be
    assert main([*arguments, "-p", "number=0,1"]) == 1
    said = capsys.readouterr()
    assert f"unfinished: {case.id}: cannot write" in said.err and "1 of 2" in said.out
    assert main(["collect", str(out)]) == 0, "a file is no run"


def test_workers_that_die_at_once_end_the_sweep(book, out, monkeypatch, numbers):
    def broken(*arguments, **options):
        raise BrokenProcessPool("no memory")

    monkeypatch.setattr(workers.joblib, "Parallel", broken)
    with pytest.raises(EraseError, match="no memory"):
        sweep(book, numbers(0, 1), out)


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_sweep_is_ended_by_one_line(arguments, capsys, monkeypatch, number, status):
    kind = getattr(signal, number)
    before = signal.signal(kind, signal.default_int_handler)  # ignored, under nohup

    def ended(words):
        try:
            signal.raise_signal(kind)
        finally:
            signal.raise_signal(kind)  # another does not cut short how it ends

    monkeypatch.setattr(cli, "started", ended)
    try:
        assert main(arguments) == status
        assert signal.getsignal(kind) is signal.default_int_handler
    finally:
        signal.signal(kind, before)
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_ignored_stays_so_and_what_is_whole_is_finished_first(tmp_path):
    order = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled(lambda number, _: order.append(number)):
            signal.raise_signal(signal.SIGHUP)  # nohup
            with uninterrupted():
                signal.raise_signal(signal.SIGTERM)
                order.append("whole")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert order == ["whole", signal.SIGTERM]


@pytest.mark.slow
def test_ended_in_any_way_it_ends_its_workers_and_goes_on(notebook, tmp_path):
    cell = 'number: int = 0\noutput: str = "x"'
    stubborn = "\nfor _ in range(12):\n    try:\n        time.sleep(0.1)\n"
    stubborn += "    except KeyboardInterrupt:\n        pass"
    book = notebook(cell.replace("output", "wait: float = 0.5\noutput"), stubborn)
    assert kills.endings(book, tmp_path / "out", 4, random.Random(0), 3) == 4


WRONG = {
    "-p number=x": "number is 'x'",
    "--backend dusk": "'dask'",
    "--workers 0": "workers is 0",
    "--workers 100000": "workers is 100000: expected 1 to 512",
    "--cell-timeout 99999999999": "cell_timeout is 99999999999",
    "--most 1 -p number=1,2": "2 runs: expected at most 1",
    "-p number=99999999999999999999": "number is '99999999999999999999' (str)",
    "--scheduler tcp://here:1": "--backend",
    "--grid grid.yaml": "grid is 5",
}


@pytest.mark.parametrize("given", WRONG)
def test_bad_input_is_one_line(arguments, out, capsys, monkeypatch, given):
    monkeypatch.chdir(out.parent)
    Path("grid.yaml").write_text("grid: 5\n")
    assert main([*arguments, *given.split()]) == 2
    error = capsys.readouterr().err
    assert WRONG[given] in error and error.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize("given", ["NAME", "collect NAME", "BOOK --out NAME", "--grid NAME"])
def test_a_name_too_long_is_one_line(book, capsys, monkeypatch, given):
    monkeypatch.chdir(book.parent)
    words = given.replace("NAME", "x" * 400).replace("BOOK", book.name).split()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "File name too long" in error and error.count("\n") == 1


@pytest.mark.usefixtures("without_kernels")
def test_every_path_may_begin_at_home(book, capsys, monkeypatch):
    (book.parent / "here").mkdir()
    monkeypatch.chdir(book.parent / "here")
    monkeypatch.setenv("HOME", str(book.parent))
    Path("../g.yaml").write_text("notebook: ~/book.ipynb\n")
    assert main(["--grid=~/g.yaml", "--out=~/o", "--publish=~/p"]) == 0
    assert main(["~/book.ipynb", "--out=~/o", "--dry-run"]) == main(["collect", "~/o"]) == 0
    assert not list(Path().iterdir()) and Path("../o/results.csv").is_file()
    assert sorted(path.name for path in Path("../p").iterdir()) == ["g.csv", "g.json", "g.yaml"]
    for option in ("--grid", "--out", "--publish"):
        for wrong in ("", "~no such user/x"):
            capsys.readouterr()
            assert main([str(book), f"{option}={wrong}"]) == 2
            assert f"{wrong!r} is no path" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_sweep_whose_stderr_is_closed_runs(arguments, out):
    call = f"exec {shlex.join([*SWEEP, *arguments, '-p'])} "
    done = subprocess.run(f"{call} number=0 2>&-", shell=True, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "1 of 1 runs done" in done.stdout
    done = subprocess.run(f"{call} number=x 2>&-", shell=True, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "number is 'x'" in done.stdout


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_only_the_runs_that_do_not_fit(notebook, small_disk, capsys):
    save = "\n(Path(output) / 'pictures').write_bytes(bytes(400_000 if number < 4 else 0))"
    book, out = notebook(more=save), small_disk / "out"
    arguments = [str(book), "--out", str(out), "-p", "number=0,1,2,3"]
    assert main(arguments) in (1, 2)
    assert "No space left on device" in capsys.readouterr().err
    done = {p.parent for p in out.glob("*/run.json") if '"done"' in p.read_text()}
    assert len(done) == 2 and not list(out.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    assert main(arguments) == 0
    assert (pd.read_csv(out / "results.csv")["status"] == "done").all()
    begun = {path.parent for path in out.glob("*/log") if path.read_text().count("started") == 1}
    assert done <= begun


@pytest.mark.usefixtures("without_kernels")
def test_a_dry_run_prints_the_plan_and_runs_nothing(arguments, book, out, capsys, numbers):
    file = out.parent / "grid.yaml"
    file.write_text("fixed: {wait: 9}\ngrid: {number: [0, 1]}\n")
    # the command line replaces what the file says
    arguments += ["--grid", str(file), "-p", "wait=0", "-p", "number=1,2,3", "--dry-run"]
    assert main(arguments) == 0 and not out.exists()
    assert "3 runs, 0 of them done" in capsys.readouterr().out
    sweep(book, numbers(1), out)
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "3 runs, 1 of them done" in said and "minutes left" in said


def test_a_sweep_starts_at_once_and_without_what_windows_lacks():
    code = "import sys; sys.modules |= dict.fromkeys(['fcntl', 'resource', 'pwd', 'termios'])\n"
    code += "import erase_lib.sweep.cli; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"papermill", "nbformat", "torch"} & set(loaded)


def worker(folder):
    return run.read_json(folder / run.RECORD)["worker"]


@pytest.mark.slow
def test_dask_workers_share_a_sweep_and_one_is_killed(book, out, logs, kill_a_worker):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None)
    with ThreadPoolExecutor() as beside, cluster:
        killed = beside.submit(kill_a_worker)
        found = sweep(book, SPEC, out, backend="dask", scheduler=cluster.scheduler_address)
    assert found["status"].tolist() == ["done"] * 5
    assert {os.getpid(), killed.result()}.isdisjoint(worker(out / name) for name in found["id"])
    assert all(log.count("finished") == 1 for log in logs().values())


def test_a_cluster_that_is_not_there_is_one_line(book, out):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        for address in ("nowhere", "tcp://127.0.0.1:1"):
            with pytest.raises(EraseError, match=f"dask.*{address}"):
                sweep(book, {}, out, scheduler=address, backend="dask")


def test_a_backend_that_is_not_installed_is_named(book, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EraseError, match="ray.*pip install"):
        sweep(book, {}, out, backend="ray")


def test_a_local_ray_runs_a_sweep(book, out, numbers):
    pytest.importorskip("ray")
    found = sweep(book, numbers(0, 1, 13), out, workers=2, backend="ray")
    assert found["status"].tolist() == ["done", "done", "failed"]
    assert os.getpid() not in {worker(out / name) for name in found["id"]}
