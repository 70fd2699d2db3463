"""Eight pictures on an idle machine and beside other work, by how OpenMP's threads wait.

    python -m tools.benchmarks.threads

Rows: one thread, and all of them with GOMP_SPINCOUNT unset, 0 and 10000 (what the package sets).
Columns: wall seconds idle, and beside two busy loops a core. Threads that spin while they wait for
one that is not running keep it from running.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd

from tools import one_line
from tools.benchmarks import ROOT

DRAW = """
import json, os, time
if os.environ.get("GOMP_SPINCOUNT") == "unset":
    del os.environ["GOMP_SPINCOUNT"]
import torch  # before the package sets its own
from erase_lib import generate, load_pipeline
pipe, prompts = load_pipeline(device="cpu"), ["a church", "a dog"] * 4
generate(pipe, prompts, steps=2, progress=False)
begin = time.perf_counter()
generate(pipe, prompts, steps=30, progress=False)
print(json.dumps(time.perf_counter() - begin))
"""
CORES = os.cpu_count() or 1
ROWS = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "GOMP_SPINCOUNT unset": {"GOMP_SPINCOUNT": "unset"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
}


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    spin = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(spin) for _ in range(loops)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def seconds(given: dict[str, str]) -> float:
    """Wall seconds of the pictures in a process of its own."""
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")}
    call = [sys.executable, "-W", "ignore", "-c", DRAW]
    done = subprocess.run(
        call, cwd=ROOT, env=env | given, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Print the median of `--times` runs of every row, the rows in turn."""
    parser = argparse.ArgumentParser(prog="tools.benchmarks.threads", description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args(arguments).times
    table = {}
    for column, loops in (("idle", 0), (f"beside {2 * CORES} busy loops", 2 * CORES)):
        with busy(loops):
            found = [{name: seconds(given) for name, given in ROWS.items()} for _ in range(times)]
        table[column] = {name: statistics.median(row[name] for row in found) for name in ROWS}
    print(pd.DataFrame(table).round(1).to_string())


if __name__ == "__main__":
    sys.exit(main())
