"""Kill -9 at random moments of a sweep, and see that nothing differs from the one never killed.

    python tests/kills.py --kills 30

Each trial is a sweep over 06_erase in its smoke profile, killed several times, the sweep or the
notebook's kernel in turn, and started again each time. In the end its weights and history must be
those of an undisturbed sweep, byte for byte, and so must its metrics but for the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CALL = [sys.executable, "-m", "erase_lib.sweep", str(ROOT / "notebooks" / "06_erase.ipynb")]
CALL += ["-p", "profile=smoke", "-p", "steps=20", "--threads", "1", "--out"]


def results(out: Path) -> dict[str, bytes]:
    """What must not differ."""
    (folder,) = (path.parent for path in out.glob("*/run.json"))
    metrics = json.loads((folder / "metrics.json").read_text())
    for row in metrics["metrics"]:
        row.pop("seconds")
    found = {name: (folder / name).read_bytes() for name in ("erased.safetensors", "history.csv")}
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
    return found | {"metrics.json": json.dumps(metrics).encode()}


def below(pid: int) -> list[int]:
    """Processes whose parent is `pid`: the kernel of a sweep."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout
    rows = [line.split() for line in listing.splitlines()[1:]]
    return [int(child) for child, parent in rows if int(parent) == pid]


def kill(out: Path, after: float, kernel: bool) -> int:
    """Start the sweep and kill it, or its kernel, after so many seconds; its exit status."""
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*CALL, str(out)], **nowhere) as process:
        time.sleep(after)
        for victim in below(process.pid) if kernel else [process.pid]:
            os.kill(victim, signal.SIGKILL)
        return process.wait()


def trial(out: Path, kills: int, seconds: float, rng: random.Random) -> list[str]:
    """Kill and resume; what each kill met."""
    met = []
    for i in range(kills):
        kernel = i % 2 == 1
        status = kill(out, rng.uniform(0.1, 1.0) * seconds, kernel)
        met.append(f"{'kernel' if kernel else 'sweep'} ended with {status}")
    subprocess.run([*CALL, str(out)], check=True, capture_output=True)
    return met


def main(kills: int, each: int = 5, seed: int = 0) -> None:
    """Raises AssertionError, or CalledProcessError, when a resumed sweep is not the same."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.monotonic()
        subprocess.run([*CALL, str(folder / "whole")], check=True, capture_output=True)
        seconds, wanted = time.monotonic() - begin, results(folder / "whole")
        for number, first in enumerate(range(0, kills, each)):
            out = folder / f"trial-{number}"
            met = trial(out, min(each, kills - first), seconds, rng)
            found = results(out)
            assert found == wanted, [name for name in wanted if found[name] != wanted[name]]
            left = [path.name for path in out.rglob("*.tmp")]
            print(f"trial {number}: the same after {len(met)} kills ({'; '.join(met)}) {left}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.kills, seed=given.seed)
