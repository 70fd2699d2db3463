"""What a sweep costs: one worker against two, its own time per run, and a thousand runs.

    python -m tools.benchmarks.sweep workers     # 8 equal erasures, three arrangements of two cores
    python -m tools.benchmarks.sweep overhead    # 20 trivial runs against kernels started by hand
    python -m tools.benchmarks.sweep thousand    # 1,000 trivial runs by two workers

Each prints a table; nothing else should run on the machine. Ratios are of one run of this script.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import nbformat
import pandas as pd
import psutil
from jupyter_client.manager import start_new_kernel

from erase_lib.sweep.cli import sweep

ROOT = Path(__file__).resolve().parents[2]
ERASE = ROOT / "notebooks" / "run_erase.ipynb"
EQUAL = {"fixed": {"profile": "smoke", "steps": 20}, "grid": {"seed": list(range(8))}}
ARRANGEMENTS = {"1 worker x 1 thread": (1, 1), "2 x 1": (2, 1), "1 x 2": (1, 2)}


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def trivial(folder: Path) -> Path:
    """A notebook that computes nothing."""
    cells = [
        nbformat.v4.new_code_cell(
            'number: int = 0\noutput: str = "x"', metadata={"tags": ["parameters"]}
        ),
        nbformat.v4.new_code_cell("print(number)"),
    ]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, folder / "trivial.ipynb")
    return folder / "trivial.ipynb"


def workers(folder: Path) -> pd.DataFrame:
    """Wall seconds of 8 equal erasures under each arrangement of two cores."""
    for threads in (1, 2):  # the originals are cached for each number of threads
        sweep(ERASE, {"fixed": EQUAL["fixed"]}, folder / f"{threads}", 1, threads, progress=False)
    rows = []
    for name, (processes, threads) in ARRANGEMENTS.items():
        out = folder / name.replace(" ", "")
        spent = timed(partial(sweep, ERASE, EQUAL, out, processes, threads, progress=False))
        rows.append({"arrangement": name, "runs": 8, "seconds": spent})
    table = pd.DataFrame(rows)
    return table.assign(speedup=table["seconds"].iloc[0] / table["seconds"])


def a_kernel() -> None:
    """What any executed notebook pays: a kernel's start, one cell, its end."""
    manager, client = start_new_kernel(kernel_name="python3")
    client.execute_interactive("print(0)", output_hook=lambda message: None)
    client.stop_channels()
    manager.shutdown_kernel()


def overhead(folder: Path, runs: int = 20) -> pd.DataFrame:
    """Seconds a run of a trivial sweep, above those of a kernel started by hand."""
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    kernels = sum(timed(a_kernel) for _ in range(runs)) / runs
    spec = {"grid": {"number": list(range(runs))}}
    each = timed(lambda: sweep(trivial(folder), spec, folder / "out", progress=False)) / runs
    return pd.DataFrame([{"runs": runs, "kernel": kernels, "run": each, "above": each - kernels}])


@contextmanager
def watched(seconds: float = 5.0) -> Iterator[list[dict[str, float]]]:
    """Memory and open files of this process and all below it, looked at every few seconds."""
    samples: list[dict[str, float]] = []
    ended, me = threading.Event(), psutil.Process()

    def look() -> None:
        while not ended.wait(seconds):
            try:
                rest = me.children(recursive=True)
                memory = sum(p.memory_info().rss for p in rest) / 1e6
            except psutil.NoSuchProcess:
                continue
            own = {"own_mb": me.memory_info().rss / 1e6, "own_files": me.num_fds()}
            samples.append(
                own | {"below_mb": memory, "below": len(rest), "at": time.perf_counter()}
            )

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def thousand(folder: Path, runs: int = 1000) -> pd.DataFrame:
    """A thousand runs: time, failures, and what grows."""
    spec, out = {"grid": {"number": list(range(runs))}}, folder / "out"
    book, found = trivial(folder), []
    with watched() as samples:
        spent = timed(lambda: found.append(sweep(book, spec, out, 2, 1, progress=False)))
    seen = pd.DataFrame(samples)
    files = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    again = timed(lambda: sweep(book, spec, out, 2, 1, progress=False))
    row = {"runs": runs, "seconds": spent, "again": again, "megabytes": sum(files) / 1e6}
    row |= {"failed": int((found[0]["status"] != "done").sum()), "files": len(files)}
    for name in ("own_mb", "own_files", "below_mb", "below"):
        row |= {f"{name} first": seen[name].iloc[0], f"{name} last": seen[name].iloc[-1]}
    return pd.DataFrame([row])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["workers", "overhead", "thousand"])
    with tempfile.TemporaryDirectory() as name:
        found = {"workers": workers, "overhead": overhead, "thousand": thousand}
        table = found[parser.parse_args().what](Path(name))
    print(table.round(2).T.to_string() if len(table) == 1 else table.round(2).to_string())
