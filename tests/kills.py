"""Kill -9 at random moments of a sweep, and see that nothing differs from the one never killed.

    python tests/kills.py --kills 30
    python tests/kills.py --kills 20 --of NOTEBOOK.ipynb

Each trial is a sweep of two erasures (run_erase in its smoke profile) by two workers, killed again
and again: the sweep itself, a worker or a notebook's kernel in turn. A kill that comes too late
does not count. In the end weights and history must be those of an undisturbed sweep, byte for
byte, and so must the metrics but for the seconds; what was finished is not done again.

With `--of` a notebook with a parameter `number`, which need not erase anything: the sweep itself is
ended, in turn by each of `ENDINGS`, and within 5 seconds its workers and their kernels are gone,
nothing new is begun, and it goes on where it was.
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
import uuid
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


# how a sweep may end, and its exit status then
ENDINGS = {signal.SIGTERM: 143, signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGHUP: 129}


def family(mark: str) -> list[psutil.Process]:
    """Every live process with this mark in its environment, whoever its parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            own = process.environ().get("KILLS") == mark
            if own and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def states(out: Path) -> dict[str, tuple[str, str]]:
    """Of each run that was begun, since when it is what."""
    found = {}
    for path in out.glob("*/run.json"):
        record = json.loads(path.read_text())
        found[path.parent.name] = record["started"], record["status"]
    return found


def end(call: list[str], out: Path, number: signal.Signals, after: float) -> dict[str, object]:
    """Start a sweep, end it so many seconds after its first run begins; what was seen then."""
    mark = uuid.uuid4().hex
    environment = os.environ | {"KILLS": mark}
    before = states(out)
    with subprocess.Popen(
        call, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while process.poll() is None and states(out) == before:
            time.sleep(0.02)
        time.sleep(after)
        living, met = len(family(mark)), process.poll() is None
        process.send_signal(number)
        begun, sent, gone = set(states(out)), time.monotonic(), 0.0
        while family(mark) and (gone := time.monotonic() - sent) < 30:
            time.sleep(0.05)
        said = process.communicate()[1]
    new = set(states(out)) - begun
    return {"met": met, "status": process.returncode, "said": said} | {
        "gone": round(gone, 2), "processes": living, "new": len(new)
    }  # fmt: skip


def endings(notebook: Path, out: Path, kills: int, rng: random.Random, seconds: float) -> int:
    """End a sweep of eight runs by two workers as often; how many met a live one, all checked."""
    call = [*CALL[:3], str(notebook), "-p", "number=0,1,2,3,4,5,6,7", "--workers", "2", "--out"]
    met = 0
    for number in ENDINGS:  # ignored in the background and under nohup, as would the sweeps then
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for turn in range(10 * kills):
        number, folder = list(ENDINGS)[turn % len(ENDINGS)], out / str(turn // 4)
        before = states(folder)
        seen = end([*call, str(folder)], folder, number, rng.uniform(0, seconds))
        if seen["met"] and seen["status"] != 0:  # 0: at that moment it was done
            met += 1
            print(f"{number.name}: {seen}", flush=True)
            assert seen["status"] == ENDINGS[number] and seen["gone"] < 5 and not seen["new"], seen
            lines = [line for line in str(seen["said"]).splitlines() if "broke off" not in line]
            # killed, it says nothing more; loky's own tracker cleans up after it and says so
            assert number == signal.SIGKILL or len(lines) == 1, lines
        now = states(folder)  # what was done has not been begun again
        assert all(now[name] == of for name, of in before.items() if of[1] == "done")
        if met == kills:
            break
    for folder in out.iterdir():  # and all of it goes on
        subprocess.run([*call, str(folder)], check=True, capture_output=True)
        assert [state for _, state in states(folder).values()] == ["done"] * 8
        assert not list(folder.rglob("*.tmp"))
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
    parser.add_argument("--of", type=Path, help="a notebook")
    given = parser.parse_args()
    if given.of:
        with tempfile.TemporaryDirectory() as name:
            assert endings(given.of, Path(name), given.kills, random.Random(given.seed), 6) > 0
    else:
        main(given.kills, seed=given.seed)
