"""Does an erasure run on this GPU? `make gpu-check`: seconds and memory at Stable Diffusion's size.

The weights are random and of the shapes of Stable Diffusion v1.4, or with --family of SDXL, SD 3 or
FLUX.1, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from erase_lib.config import EraseConfig
from erase_lib.diffusion import generate
from erase_lib.errors import EraseError
from erase_lib.families import denoiser
from erase_lib.files import as_path, whole
from erase_lib.models import Pipeline, pick_device
from erase_lib.train import erase
from tools import one_line
from tools.benchmarks.shapes import SHAPES, random_family


def measure(pipe: Pipeline, config: EraseConfig) -> dict[str, Any]:
    """One row of the table: a short erasure and a picture from it, timed and checked.

    Columns: precision, recompute (gradient checkpointing), seconds (an update, without the first,
    which warms up), peak_gib (NaN on a CPU), l1 (of the first update), finite, teacher_kept.
    """
    cuda = pipe.device.type == "cuda"
    before = {n: t.to("cpu", copy=True) for n, t in denoiser(pipe).state_dict().items()}
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a loss was NaN stands in the table
        erasure = erase(pipe, config, [lambda _: times.append(time.perf_counter())])
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else math.nan
    with erasure.applied(pipe):
        generate(pipe, [config.targets[0]], steps=2, progress=False)
    losses = [row[name] for row in erasure.history for name in ("l1", "l2", "l2_search")]
    return {
        "precision": str(denoiser(pipe).dtype).removeprefix("torch."),
        "recompute": config.gradient_checkpointing,
        "seconds": (times[-1] - times[1]) / (len(times) - 2) if len(times) > 2 else math.nan,
        "peak_gib": peak,
        "l1": losses[0] if losses else math.nan,
        "finite": len(erasure.history) == config.steps and all(map(math.isfinite, losses)),
        "teacher_kept": _equal(before, denoiser(pipe).state_dict()),
    }


def _equal(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], tensor.cpu()) for name, tensor in after.items())


def check(device: str, tiny: bool, updates: int = 4, family: str = "sd") -> pd.DataFrame:
    """Rows of `measure`: float32 for reference, then bfloat16 without and with recomputation."""
    pipe = random_family(family, None if tiny else SHAPES[family]).to(pick_device(device))
    settings = {"sampling_steps": 4, "nearest": 12, "candidates": 6} if tiny else {}
    table = []
    for dtype, recompute in (
        (torch.float32, False),
        (torch.bfloat16, False),
        (torch.bfloat16, True),
    ):
        config = EraseConfig.from_profile(
            "paper",
            targets=["church"],
            steps=updates,
            gradient_checkpointing=recompute,
            **settings,
        )
        for part in (p for p in pipe.components.values() if isinstance(p, nn.Module)):
            nn.Module.to(part, dtype)  # diffusers' own `to` warns of parts that these do not have
        table.append({"family": family} | measure(pipe, config))
    return pd.DataFrame(table)


def faults(table: pd.DataFrame, tolerance: float = 0.25) -> list[str]:
    """What is wrong with the table, a line each; none when the GPU can be used."""
    found = []
    if not table["finite"].all():
        found.append("a loss is NaN or infinite")
    if not table["teacher_kept"].all():
        found.append("the teacher's weights changed")
    apart = (table["l1"] / table["l1"].iloc[0] - 1).abs().max(skipna=False)
    if not apart <= tolerance:
        found.append(f"bfloat16 and float32 differ by {apart:.0%} in the first L1")
    return found


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and the verdict. 0: usable · 1: a fault was found · 2: nothing to check."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 ... or, with --tiny, cpu")
    parser.add_argument("--tiny", action="store_true", help="a toy of a few thousand weights")
    parser.add_argument("--updates", type=int, default=4, help="updates a row, at least 2")
    parser.add_argument("--family", choices=SHAPES, default="sd", help="whose shapes")
    parser.add_argument("--out", type=Path, help="a JSON file for the table, such as gpu.json")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.device.startswith("cuda") and not torch.cuda.is_available():
            raise EraseError(
                f"no CUDA GPU found by torch {torch.__version__}: run this on a machine with one"
                " and a CUDA build of torch, or try --tiny --device cpu"
            )
        place = pick_device(chosen.device)
        if place.type == "cpu" and not chosen.tiny:
            raise EraseError("on a CPU this takes hours: use a GPU, or add --tiny")
        if chosen.updates < 2:
            raise EraseError(f"--updates is {chosen.updates}: expected 2 or more; one warms up")
    except EraseError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else str(place)
    whose = "a toy" if chosen.tiny else f"{chosen.family}'s shapes"
    print(f"{name}, torch {torch.__version__}, {whose}")
    table = check(chosen.device, chosen.tiny, chosen.updates, chosen.family)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    if chosen.out:
        told = {"device": name, "torch": torch.__version__, "rows": table.to_dict("records")}
        with whole(as_path(chosen.out)) as (temporary,):
            temporary.write_text(json.dumps(told, indent=2), "utf-8")
    found = faults(table)
    print("gpu-check: " + ("; ".join(found) if found else "all is well"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
