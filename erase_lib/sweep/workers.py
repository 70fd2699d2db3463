"""Where the runs of a sweep are done: processes of this machine, or a cluster of Dask or Ray, by
its own calls, for joblib's backend for Dask hangs when a run kills its worker three times, and its
backend for Ray ends the sweep when one worker is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool

from erase_lib.errors import EraseError, reason
from erase_lib.sweep.run import Case, Settings, execute, fail

Cases = Sequence[Case]
Records = Generator[dict[str, Any], None, None]
# of joblib's, when a sweep is ended: what is done is kept all the same
warnings.filterwarnings("ignore", r"\d+ tasks ", UserWarning, "joblib")


def follow(parent: int) -> None:
    """At the start of a worker: when its parent ends, however, it and the kernels it started end
    too. Ctrl-C reaches all of a terminal's processes: the parent answers it, and ends this one."""
    import psutil  # at use: a plan needs none

    def watch() -> None:
        while os.getppid() == parent and psutil.pid_exists(parent):  # the latter for Windows
            time.sleep(0.2)
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        os._exit(1)

    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def connecting(backend: str, scheduler: str | None) -> Iterator[None]:
    """Raises `EraseError` when the backend is not installed, or nothing answers at `scheduler`."""
    try:
        yield
    except ImportError:
        raise EraseError(f"{backend} is missing: pip install 'erase-lib[{backend}]'") from None
    except (OSError, ValueError) as error:  # a lost connection and a timeout are OSErrors
        raise EraseError(f"no {backend} cluster at {scheduler} ({reason(error)})") from None


def on_processes(settings: Settings, cases: Cases, workers: int, _: str | None) -> Records:
    """joblib's processes. One's death takes all with it: their runs have failed, others go on."""
    left = {case.id: case for case in cases}
    settings = replace(settings, parent=os.getpid())
    while left:
        before = len(left)
        try:
            # one run a task: batches of them would leave workers idle at the end
            how: dict[str, Any] = {"return_as": "generator_unordered", "batch_size": 1}
            how |= {"initializer": follow, "initargs": (settings.parent,)}
            parallel = joblib.Parallel(workers, **how)
            work = joblib.delayed(execute)
            for record in parallel(work(settings, case) for case in list(left.values())):
                del left[record["id"]]
                yield record
        except BrokenProcessPool as error:
            for case in list(left.values()):
                if case.record().get("sweep") == settings.sweep:
                    del left[case.id]  # begun, or done before its record came back
                    yield fail(case, "the worker's process died (killed, or out of memory)")
            if len(left) == before:
                raise EraseError(f"workers die before they begin ({reason(error)})") from None


def on_dask(settings: Settings, cases: Cases, workers: int, scheduler: str | None) -> Records:
    """Dask: a dead worker's runs go on at another, as often as the cluster allows."""
    own = {} if scheduler else {"n_workers": workers, "threads_per_worker": 1}
    with connecting("dask", scheduler):
        from distributed import Client, as_completed

        client = Client(scheduler, **own)
    with client:
        with connecting("dask", scheduler):
            client.wait_for_workers(1, timeout=60)
        futures = client.map(partial(execute, settings), cases, pure=False)
        waiting = {future.key: case for future, case in zip(futures, cases, strict=True)}
        for future, result in as_completed(futures, with_results=True, raise_errors=False):
            if future.status == "cancelled":
                raise EraseError("the Dask scheduler was lost: run the sweep again")
            lost = future.status == "error"
            yield fail(waiting[future.key], f"lost: {reason(result[1])}") if lost else result


def on_ray(settings: Settings, cases: Cases, workers: int, scheduler: str | None) -> Records:
    """Ray: a dead worker's runs go on at another, three times."""
    with connecting("ray", scheduler):
        import ray

        ray.init(scheduler, num_cpus=None if scheduler else workers, log_to_driver=False)
    try:
        remote = ray.remote(execute)
        waiting = {remote.remote(settings, case): case for case in cases}
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting))
            case = waiting.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:
                yield fail(case, f"lost: {reason(error)}")
    finally:
        ray.shutdown()


# each yields the cases' records as their runs end; a lost run counts as failed
BACKENDS = {"loky": on_processes, "dask": on_dask, "ray": on_ray}
