"""The same sweep on a local cluster: Dask with a worker killed in the middle, and Ray."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from erase_lib.errors import EraseError
from erase_lib.sweep import run
from erase_lib.sweep.cli import sweep


def test_dask_workers_share_a_sweep_and_one_is_killed(book, tmp_path, logs, wait_for):
    distributed = pytest.importorskip("distributed")
    out = tmp_path / "out"
    cases = {"cases": [{"number": n, "wait": 4.0 if n < 2 else 0.0} for n in range(5)]}
    killed = []

    def kill_one():
        wait_for(lambda: sum("started" in log for log in logs(out).values()) == 2)
        record = json.loads(next(out.glob(f"*/{run.RECORD}")).read_text())
        os.kill(record["worker"], signal.SIGKILL)
        killed.append(record["worker"])

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        killer = threading.Thread(target=kill_one)
        killer.start()
        found = sweep(
            book, cases, out, backend="dask", scheduler=cluster.scheduler_address, progress=False
        )
        killer.join()
    assert killed and (found["status"] == "done").all() and len(found) == 5
    workers = {json.loads((out / name / run.RECORD).read_text())["worker"] for name in found["id"]}
    assert os.getpid() not in workers and killed[0] not in workers
    assert all(log.count("finished") == 1 for log in logs(out).values())


def test_a_cluster_that_is_not_there_is_one_line(book, tmp_path):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    settings = {"backend": "dask", "progress": False}
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        for address in ("nowhere", "tcp://127.0.0.1:1"):
            with pytest.raises(EraseError, match=f"dask.*{address}"):
                sweep(book, {}, tmp_path / "out", scheduler=address, **settings)


def test_a_local_ray_runs_a_sweep(book, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    found = sweep(
        book, {"grid": {"number": [0, 1, 13]}}, out, workers=2, backend="ray", progress=False
    )
    assert found["status"].tolist() == ["done", "done", "failed"]
    workers = {json.loads((out / name / run.RECORD).read_text())["worker"] for name in found["id"]}
    assert os.getpid() not in workers
