"""Kill -9 at random moments of a sweep, and see that nothing differs from the one never killed.

    python tests/kills.py --kills 30

Each trial is a sweep of two erasures (run_erase in its smoke profile) by two workers, killed again
and again: the sweep itself, a worker or a notebook's kernel in turn. A kill that comes too late
does not count. In the end weights and history must be those of an undisturbed sweep, byte for
byte, and so must the metrics but for the seconds; what was finished is not done again.
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

import psutil

ROOT = Path(__file__).resolve().parent.parent
CALL = [sys.executable, "-m", "erase_lib.sweep.cli", str(ROOT / "notebooks" / "run_erase.ipynb")]
CALL += ["-p", "profile=smoke", "-p", "steps=20", "-p", "seed=0,1", "--workers", "2", "--out"]
VICTIMS = {"sweep": "erase_lib.sweep", "worker": "popen_loky", "kernel": "ipykernel"}


def results(out: Path) -> dict[str, bytes]:
    """What must not differ, of every run."""
    found = {}
    for folder in sorted(path.parent for path in out.glob("*/run.json")):
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics.pop("erasing_seconds")
        for row in metrics["metrics"]:
            row.pop("seconds")
        files = {
            name: (folder / name).read_bytes() for name in ("erased.safetensors", "history.csv")
        }
        assert json.loads((folder / "run.json").read_text())["status"] == "done"
        files["metrics.json"] = json.dumps(metrics).encode()
        found |= {f"{folder.name}/{name}": data for name, data in files.items()}
    assert len(found) == 6
    return found


def done(out: Path) -> dict[str, str]:
    """When each finished run was begun."""
    records = [json.loads(path.read_text()) for path in out.glob("*/run.json")]
    return {r["id"]: r["started"] for r in records if r["status"] == "done"}


def kill(out: Path, victim: str, after: float) -> bool:
    """Start the sweep, and after so many seconds kill part of it; whether that met a live one."""
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*CALL, str(out)], **nowhere) as process:
        time.sleep(after)
        met = False
        if process.poll() is None:
            family = psutil.Process(process.pid)
            for one in [family, *family.children(recursive=True)]:
                if one.is_running() and VICTIMS[victim] in " ".join(one.cmdline()):
                    one.send_signal(signal.SIGKILL)
                    met = True
                    break
        process.wait()
    return met


def trial(out: Path, kills: int, seconds: float, rng: random.Random) -> dict[str, int]:
    """Kill and resume until all is done; how many of each kind were killed."""
    met = dict.fromkeys(VICTIMS, 0)
    while sum(met.values()) < kills and len(done(out)) < 2:
        victim, before = rng.choice(list(VICTIMS)), done(out)
        met[victim] += kill(out, victim, rng.uniform(0.1, 1.0) * seconds)
        after = done(out)
        assert before == {name: after.get(name) for name in before}, (victim, before, after)
    subprocess.run([*CALL, str(out)], check=True, capture_output=True)
    return met


def main(kills: int, each: int = 3, seed: int = 0) -> None:
    """Raises AssertionError, or CalledProcessError, when a resumed sweep is not the same."""
    os.environ["OMP_NUM_THREADS"] = "1"
    rng, begin, left = random.Random(seed), time.monotonic(), kills
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([*CALL, str(folder / "whole")], check=True, capture_output=True)
        seconds, wanted = time.monotonic() - begin, results(folder / "whole")
        for number in range(10 * kills):
            out = folder / f"trial-{number}"
            met = trial(out, min(each, left), seconds, rng)
            found = results(out)
            assert found == wanted, [name for name in wanted if found[name] != wanted[name]]
            left -= sum(met.values())
            tmp = [path.name for path in out.rglob("*.tmp")]
            print(f"trial {number}: the same after {met}, left over: {tmp}", flush=True)
            if left == 0:
                return
    raise AssertionError(f"{left} kills met nothing alive")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.kills, seed=given.seed)
