"""The default erasure against that of another commit, in pairs on the same machine.

    python -m tools.benchmarks.paired a374cc0              # five pairs, in turn
    python -m tools.benchmarks.paired HEAD~1 --pairs 3

Each run is a process of its own, of one thread; what counts is its CPU seconds within `erase`, for
other work on the machine slows both but not alike. The other commit is checked out into a temporary
worktree and must have the same public `erase` (before 0.2.0 with its argument progress).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats

from tools import one_line
from tools.benchmarks import ROOT

RUN = """
import inspect, json, sys, time
from erase_lib import EraseConfig, erase, load_pipeline
pipe = load_pipeline(device="cpu")
old = "progress" in inspect.signature(erase).parameters
quiet = {"progress": False} if old else {"callbacks": []}
erase(pipe, EraseConfig(targets=("church",), steps=1, sampling_steps=1), **quiet)  # warm up
begin = time.process_time()
erasure = erase(pipe, EraseConfig(targets=("church",), steps=int(sys.argv[1])), **quiet)
print(json.dumps([time.process_time() - begin, erasure.history[-1]["evaluations"]]))
"""


def once(tree: Path, steps: int) -> tuple[float, int]:
    """CPU seconds and evaluations of the default erasure by the code in `tree`."""
    given = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-W", "ignore", "-c", RUN, str(steps)]
    done = subprocess.run(call, cwd=tree, env=given, stdout=subprocess.PIPE, text=True, check=True)
    seconds, evaluations = json.loads(done.stdout.splitlines()[-1])
    return seconds, evaluations


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Print a pair a line, then the mean ratio with its 95 % interval (t over the pairs)."""
    parser = argparse.ArgumentParser(prog="tools.benchmarks.paired", description=__doc__)
    parser.add_argument("commit", help="what to compare with")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args(arguments)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(other), given.commit], check=True)
        try:
            for _ in range(given.pairs):
                before, now = once(other, given.steps), once(ROOT, given.steps)
                ratios.append(before[0] / now[0])
                print(f"{before[0]:.1f} s, {before[1]} evaluations · {now[0]:.1f} s, {now[1]}")
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
    wide = stats.t.ppf(0.975, len(ratios) - 1) * stats.sem(ratios) if len(ratios) > 1 else np.nan
    mean = np.mean(ratios)
    print(f"{mean:.2f} × [{mean - wide:.2f}, {mean + wide:.2f}] of {given.commit}, n={len(ratios)}")


if __name__ == "__main__":
    sys.exit(main())
