"""What one erasure costs: seconds, UNet evaluations and memory of every method, side by side.

    python -m tools.benchmarks.speed --out speed.json   # every row, each in its own process
    python -m tools.benchmarks.speed --rows eap esd

A whole run of the published schedule takes minutes. Its updates are alike but for how far they
sample, a random number of steps: `PUBLISHED` of them are timed, and its seconds and evaluations
extrapolated to as many updates as the others have. It sees one latent and one preserved concept an
update, as published; once with the published 50 sampling steps, once with as many as the others.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from erase_lib import EraseConfig, erase, load_pipeline
from erase_lib.files import whole
from tools import one_line
from tools.benchmarks import in_a_process, peak_memory

PUBLISHED = 20  # updates of the published schedule that are timed
SCHEDULE = {
    "method": "eap",
    "schedule": "published",
    "search": "gumbel",
    "candidates": 50,
    "preserve_at": "own",
    "batch": 1,
    "preserve_batch": 1,
    "steps": PUBLISHED,
}
SMOKE = {"steps": 2, "sampling_steps": 4, "candidates": 6}
ROWS: dict[str, dict[str, Any]] = {
    "eap, published schedule": SCHEDULE | {"sampling_steps": 50},
    "eap, published, fewer sampling steps": SCHEDULE,
    "eap": {"method": "eap"},
    "eap, published search": {"method": "eap", "search": "gumbel", "candidates": 50}
    | {"preserve_at": "own"},
    "eap, random": {"method": "eap", "search": "random"},
    "esd": {"method": "esd"},
    "esd_neutral": {"method": "esd_neutral"},
    "ca": {"method": "ca", "anchors": ["house"]},
    "age": {"method": "age", "candidates": 50},
    "uce": {"method": "uce"},
    "rece": {"method": "rece"},
    "speed": {"method": "speed"},
    "eap_closed": {"method": "eap_closed"},
}


def measure(name: str, target: str, profile: str) -> dict[str, Any]:
    """One erasure in this process. `seconds` are of `erase` alone, `peak_mb` of the process."""
    given = ROWS[name] | (SMOKE if profile == "smoke" else {})
    config = EraseConfig.from_profile(profile, targets=[target], **given)
    pipe = load_pipeline()
    erase(pipe, EraseConfig.from_profile("smoke", targets=[target], steps=1), [])  # warm up
    ends: list[float] = []
    begin = time.perf_counter()
    erasure = erase(pipe, config, [lambda run: ends.append(time.perf_counter())])
    seconds, spent = time.perf_counter() - begin, erasure.history[-1]["evaluations"]
    updates = len(erasure.history)
    row = {"name": name, "timed_updates": updates, "updates": updates}
    if config.schedule == "published":
        row["updates"] = EraseConfig.from_profile(profile, targets=[target]).steps
        seconds += (row["updates"] - updates) * (ends[-1] - ends[1]) / (updates - 1)
        spent = round(spent * row["updates"] / updates)
    return row | {
        "seconds": round(seconds, 2),
        "evaluations": spent,
        "evaluations_an_update": round(spent / row["updates"], 1),
        "peak_mb": round(peak_memory() / 1e6),
    }


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Measure the rows asked for; print the table and write it."""
    parser = argparse.ArgumentParser(prog="tools.benchmarks.speed", description=__doc__)
    parser.add_argument("--out", type=Path, help="a JSON file, written anew after every row")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--target", default="church")
    parser.add_argument("--profile", default="course", choices=["smoke", "course"])
    parser.add_argument("--here", action="store_true", help="in this process, one row, as JSON")
    chosen = parser.parse_args(arguments)
    if chosen.here:
        print(json.dumps(measure(chosen.rows[0], chosen.target, chosen.profile)))
        return
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    machine |= {"target": chosen.target, "profile": chosen.profile}
    rows: list[dict[str, Any]] = []
    for name in chosen.rows:
        asked = ["--here", "--rows", name, "--target", chosen.target, "--profile", chosen.profile]
        rows.append(in_a_process("tools.benchmarks.speed", asked))
        print(rows[-1], file=sys.stderr)
        if chosen.out:
            with whole(chosen.out) as (path,):
                path.write_text(json.dumps(machine | {"rows": rows}, indent=1) + "\n")
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
