"""What the paper profile costs on one 24 GB GPU: hours and memory, estimated, not measured.

    python -m tools.benchmarks.cost        # both tables as Markdown

UNet evaluations are counted as by `erase_lib.run`, one sample once forward 1, its backward 2 more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from erase_lib.concepts import forms_of
from erase_lib.config import CLOSED_FORMS, METHODS, SCHEDULES, EraseConfig
from erase_lib.errors import EraseError, reason, unknown
from erase_lib.files import DATA
from erase_lib.models import trained_names
from tools.benchmarks.gpu_check import SD

MEASURED, OURS = DATA / "results" / "memory.json", ("ours", "SD v1.4")
CARD, TFLOPS, SHARE, STEPS = "RTX 3090 class", 71.0, 0.35, 50  # guided steps of a picture


class Stage(NamedTuple):
    """A row of the plan: evaluations of an erasure, or pictures to draw."""

    stage: str
    evaluations: float = 0
    pictures: int = 0
    assumed: str = "card, tflops, share"


@cache
def parts() -> dict[str, Any]:
    """UNet, VAE and text encoder of Stable Diffusion v1.4's shapes, without memory (meta)."""
    with torch.device("meta"):
        return {
            "UNet": UNet2DConditionModel(in_channels=4, out_channels=4, **SD["unet"]),
            "VAE": AutoencoderKL(latent_channels=4, **SD["vae"]),
            "text encoder": CLIPTextModel(CLIPTextConfig(**SD["text"])),
        }


def _flops(call: Callable[..., Any], *shapes: tuple[int, ...]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(*(torch.zeros(shape, device="meta") for shape in shapes))
    return counter.get_total_flops()


@cache
def unet_flops() -> int:
    """Operations, of which a multiply-add is 2, of the UNet on a latent 4 × 64 × 64, 77 tokens."""
    return _flops(parts()["UNet"], (1, 4, 64, 64), (1,), (1, 77, 768))


@cache
def decoder_flops() -> int:
    """The same of the VAE's decoder, from a latent 4 × 64 × 64 to a picture 3 × 512 × 512."""
    return _flops(parts()["VAE"].decode, (1, 4, 64, 64))


def erasing_evaluations(method: str, config: EraseConfig) -> float:
    """Evaluations of a whole run of `method` (`config.method` is not looked at), the expectation
    over bins, targets and candidates, as `Run` counts them.

    published: sampling to a bin below S is S − 1 a latent on average; π's step does L2's share
    again. replay: each trajectory once; π is taken to choose among all alike, as it does at first.
    Raises `EraseError` for an unknown method and a search that spends by what it learns.
    """
    c, p = config.settled(embedded=True), config.preserve_batch
    if method in CLOSED_FORMS:
        return 0.0
    if method not in METHODS:
        raise unknown("method", method, (*METHODS, *CLOSED_FORMS))
    banked = c.schedule == "replay" and c.preserve_at == "own"
    learns = c.search == "exhaustive" or (banked and c.search in ("movement", "nearest"))
    if method == "eap" and learns:
        raise EraseError(f"search {c.search!r} cannot be counted beforehand: choose random")
    fixed = len(c.preserved) if c.search == "fixed" else c.candidates
    n = {"eap": fixed, "age": c.candidates}.get(method, 1)
    searched = n > 1 and (method == "age" or c.search in ("gumbel", "gumbel_full"))
    kept = {"esd": 0, "age": c.batch if searched else p}.get(method, p)
    frozen = 3 if searched and c.search == "gumbel_full" else 1
    goal = 1 if method == "ca" else 2
    if c.schedule == "published":
        to_bin = c.sampling_steps - 1
        update = (to_bin + 3) * (c.batch + kept) + goal * c.batch + kept
        return float(c.steps * (update + searched * p * (to_bin + frozen + 3)))
    update = 3 * (c.batch + kept) + frozen * kept + (goal * c.batch if method == "age" else 0)
    t, forms = len(c.targets), sum(len(forms_of(word, c.styles, word)) for word in c.targets)
    # of L1's goal the trajectory has predicted the target's part, or all of an anchor's
    banks = (2 if method == "age" else 1 + goal) * forms * drawn(1, 1, c.steps, t)
    if banked and kept:  # one concept alone has a trajectory of each of its training prompts
        size = n if n > 1 else len(forms_of(c.neutral, c.styles, c.targets[0]))
        banks += 2 * t * drawn(size, kept, c.steps, t)
    return float(c.steps * update + c.sampling_steps * banks)


def drawn(n: int, k: int, updates: int, targets: int = 1) -> float:
    """How many of one target's n things are expected to be drawn at least once, when an update
    draws one of the targets and k of its things, with replacement."""
    return n * (1 - (1 - (1 - (1 - 1 / n) ** k) / targets) ** updates)


def authors_evaluations(config: EraseConfig) -> int:
    """The same of EAP's own code, where π's step does as much as θ's: 2 (2 (S − 1) + 3 frozen +
    6 trained) an update, 214 at S = 50 (Bui et al. 2024, code)."""
    return config.steps * 2 * (2 * (config.sampling_steps - 1) + 3 + 6)


def paper_plan() -> list[Stage]:
    """Runs that erase five concepts at once, and the pictures that one method's numbers need:
    published are 500 a class, 4 splits, 4703 prompts, COCO-30k and 5 artists (Bui et al. 2024)."""
    paper = partial(EraseConfig.from_profile, "paper", targets=[f"class {i}" for i in range(5)])
    plan = [
        Stage(f"erase, one run: {m}, {s}", round(erasing_evaluations(m, paper(schedule=s))))
        for s in SCHEDULES
        for m in METHODS
    ]
    plan.append(Stage("erase, one run: eap, its authors' code", authors_evaluations(paper())))
    steps = f"card, tflops, share, {STEPS} steps"
    return plan + [
        Stage("objects: 10 classes × 500 × 4 splits", pictures=20_000, assumed=steps),
        Stage("objects, original model: 10 × 500", pictures=5_000, assumed=steps),
        Stage("nudity: I2P", pictures=4_703, assumed=steps),
        Stage("FID: COCO-30k", pictures=30_000, assumed=steps),
        Stage("styles: 5 artists × 500", pictures=2_500, assumed=steps + ", 500 each, one run"),
    ]


def estimate(
    plan: Iterable[Stage], tflops: float = TFLOPS, share: float = SHARE, card: str = CARD
) -> pd.DataFrame:
    """Evaluations and hours of each stage: operations / (`tflops` · 10¹² · `share`).

    Assumed are the card's dense bfloat16 throughput (71 TFLOP/s with float32 accumulation for an
    RTX 3090, 24 GB) and the share of it that is reached. A picture costs 2 · `STEPS` evaluations
    and the decoder; detectors are not in it. Raises `EraseError` for a number out of range.
    """
    if not (0 < tflops < math.inf and 0 < share <= 1):
        raise EraseError(f"tflops {tflops}, share {share}: expected above 0, a share up to 1")
    table = pd.DataFrame(plan, columns=Stage._fields)
    table["evaluations"] += 2 * STEPS * table["pictures"]
    flops = table["evaluations"] * float(unet_flops()) + table["pictures"] * float(decoder_flops())
    table.insert(3, "hours", flops / (tflops * 1e12 * share * 3600))
    return table.assign(card=card, tflops=tflops, share=share)


def memory_estimate(train_method: str) -> pd.DataFrame:
    """Gigabytes (10⁹ bytes) that training holds: part, gb, basis, and their sum.

    Counted from shapes: weights in bfloat16, float32 copies of what is trained, their gradients and
    Adam's two moments. Activations are those of `benchmarks.memory`, NaN and not in the sum where
    it has none; CUDA's own memory is not in it. Raises `EraseError` for an unknown `train_method`
    and a damaged file of measurements.
    """
    unet = parts()["UNet"]
    trained = sum(unet.get_parameter(n).numel() for n in trained_names(unet, train_method))
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in parts().items()}
    sizes = {f"{name}, bfloat16": 2 * n for name, n in counts.items()}
    sizes |= {"student, float32": 4 * trained, "gradients": 4 * trained, "Adam": 8 * trained}
    rows = [(name, size / 1e9, "counted") for name, size in sizes.items()]
    try:
        found = json.loads(MEASURED.read_text("utf-8"))
        ours = [r for r in found["rows"] if (r["arrangement"], found["shapes"]) == OURS]
        mb = {r["train_method"]: r["activations_mb"] for r in ours}
        how = f"measured ({found['device']}), gradient checkpointing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EraseError(f"{MEASURED} cannot be read ({reason(error)}): copy it anew") from None
    how, whole = (how, "sum") if train_method in mb else ("not measured", "without activations")
    total = sum(sizes.values()) / 1e9 + mb.get(train_method, 0) / 1e3
    rows += [("activations", mb.get(train_method, math.nan) / 1e3, how), ("all", total, whole)]
    return pd.DataFrame(rows, columns=["part", "gb", "basis"])


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, three digits of what is not whole."""
    rows = [list(table), ["---"] * table.shape[1], *table.to_numpy(object).tolist()]
    texts = [[f"{x:.3g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in texts)


def main() -> None:
    """Print hours, then memory of what is trained for objects (xattn) and nudity (noxattn)."""
    memory = [memory_estimate(m).assign(train_method=m) for m in ("xattn", "noxattn")]
    tables = markdown(estimate(paper_plan())), markdown(pd.concat(memory))
    print("Estimates, not measurements.", *tables, sep="\n\n")


if __name__ == "__main__":
    main()
