"""What an erasure costs on one 24 GB GPU, by family: hours and memory, estimated, not measured.

    python -m tools.benchmarks.cost        # the tables as Markdown

Evaluations are counted as by `erase_lib.train.Run`, one sample once forward 1, its backward 2 more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from erase_lib.concepts import forms_of
from erase_lib.config import CLIMBING, CLOSED_FORMS, METHODS, MOVING, EraseConfig
from erase_lib.errors import EraseError, reason, unknown
from erase_lib.families import SD, StableDiffusion, denoiser, encoders, family
from erase_lib.files import DATA
from erase_lib.models import Pipeline, latent_shape, trained_names
from tools.benchmarks.shapes import SHAPES, random_family

MEASURED, OURS = DATA / "results" / "memory.json", ("ours", "SD v1.4")
CARD, TFLOPS, SHARE, STEPS = "RTX 3090 class", 71.0, 0.35, 50  # guided steps of a picture
# GiB that others estimate for xattn: bfloat16, checkpointing, batch 4, activations among them
KNOWN = {"sdxl": 15.7, "sd3": 8.8, "flux": 40.0}


PARTS = ["part", "gb", "basis"]


class Stage(NamedTuple):
    """A row of the plan: evaluations of an erasure, or pictures to draw."""

    stage: str
    evaluations: float = 0
    pictures: int = 0
    assumed: str = "card, tflops, share"


@cache
def pipeline(name: str = "sd") -> Pipeline:
    """A family's pipeline at its published shapes, without memory (meta)."""
    if name not in SHAPES:
        raise unknown("family", name, SHAPES)
    with torch.device("meta"):
        return random_family(name, SHAPES[name])


def _flops(call: Callable[[], Any]) -> int:
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@cache
def model_flops(name: str = "sd") -> int:
    """Operations, of which a multiply-add is 2, of the denoiser on one latent of its own size and a
    prompt of 77 tokens of each text encoder that reads them."""
    pipe = pipeline(name)
    with torch.no_grad(), torch.device("meta"):
        given = (
            torch.zeros(1, *latent_shape(pipe)),
            torch.zeros(1),
            family(pipe).encode(pipe, ["x"]),
        )
    return _flops(lambda: family(pipe).forward(pipe, *given, 1.0))


@cache
def decoder_flops(name: str = "sd") -> int:
    """The same of the autoencoder's decoder, from a latent to a picture."""
    pipe = pipeline(name)
    return _flops(lambda: pipe.vae.decode(torch.zeros(1, *latent_shape(pipe))))


def erasing_evaluations(method: str, config: EraseConfig, kind: StableDiffusion = SD) -> float:
    """Evaluations of a whole run of `method` (`config.method` is not looked at), the expectation
    over bins, targets and candidates, as `Run` counts them.

    published: sampling from noise to a bin takes (S − 1)(S + 2) / 2S steps on average (anew, and of
    a flow, (S − 1) / 2), each `kind.guided` evaluations of a latent; π's step does all again, but
    for L1's backward. replay: each trajectory once, of
    2 a step; π is taken to choose among all alike, as it does at first.
    Raises `EraseError` for an unknown method and a search that spends by what it learns.
    """
    c, p = config.settled(embedded=True), config.preserve_batch
    if method in CLOSED_FORMS:
        return 0.0
    if method not in METHODS:
        raise unknown("method", method, (*METHODS, *CLOSED_FORMS))
    banked = c.schedule == "replay" and c.preserve_at == "own"
    learns = c.search == "exhaustive" or (banked and c.search in (*MOVING, "nearest"))
    if method == "eap" and learns:
        raise EraseError(f"search {c.search!r} cannot be counted beforehand: choose random")
    few = {"fixed": len(c.preserved), "pgd": 1}
    n = {"eap": few.get(c.search, c.candidates), "age": c.candidates}.get(method, 1)
    searched = n > 1 and (method == "age" or c.search in CLIMBING)
    searched |= method == "eap" and c.search == "pgd"
    kept = {"esd": 0, "age": c.batch if searched else p}.get(method, p)
    frozen = 3 if searched and c.search in ("gumbel_full", "pgd") else 1
    goal = 1 if method == "ca" else 2 + bool(c.erase_from)
    if c.schedule != "replay":
        late = c.schedule == "published" and not kind.flow
        to_bin = kind.guided * (c.sampling_steps - 1) / 2
        to_bin *= (c.sampling_steps + 2) / c.sampling_steps if late else 1
        update = (to_bin + 3) * (c.batch + kept) + goal * c.batch + kept
        again = (to_bin + goal + 1) * c.batch + (to_bin + frozen + 3) * kept
        return float(c.steps * (update + searched * again))
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


def authors_evaluations(config: EraseConfig) -> float:
    """The same of EAP's own code, which at every 50th step, of θ' or π, also draws two pictures of
    each target, of S − 1 guided steps: 259 instead of 219.84 an update at S = 50 and five targets
    (Bui et al. 2024, code)."""
    pictures = 2 * len(config.targets) * 2 * (config.sampling_steps - 1)
    return erasing_evaluations("eap", config) + config.steps * 2 / 50 * pictures


def paper_plan(name: str = "sd") -> list[Stage]:
    """Runs that erase five concepts at once, and the pictures that one method's numbers need:
    published are 500 a class, 4 splits, 4703 prompts, COCO-30k and 5 artists (Bui et al. 2024)."""
    paper = partial(EraseConfig.from_profile, "paper", targets=[f"class {i}" for i in range(5)])
    kind = family(pipeline(name))
    plan = [
        Stage(f"erase, one run: {m}, {s}", round(erasing_evaluations(m, paper(schedule=s), kind)))
        for s in ("published", "replay")
        for m in METHODS
    ]
    saving = round(authors_evaluations(paper()))
    plan.append(Stage("erase, one run: eap, its authors' code, which saves pictures", saving))
    steps = f"card, tflops, share, {STEPS} steps"
    return plan + [
        Stage("objects: 10 classes × 500 × 4 splits", pictures=20_000, assumed=steps),
        Stage("objects, original model: 10 × 500", pictures=5_000, assumed=steps),
        Stage("nudity: I2P", pictures=4_703, assumed=steps),
        Stage("FID: COCO-30k", pictures=30_000, assumed=steps),
        Stage("styles: 5 artists × 500", pictures=2_500, assumed=steps + ", 500 each, one run"),
    ]


def estimate(
    plan: Iterable[Stage],
    tflops: float = TFLOPS,
    share: float = SHARE,
    card: str = CARD,
    name: str = "sd",
) -> pd.DataFrame:
    """Evaluations and hours of each stage: operations / (`tflops` · 10¹² · `share`).

    Assumed are the card's dense bfloat16 throughput (71 TFLOP/s with float32 accumulation for an
    RTX 3090, 24 GB) and the share of it that is reached. A picture costs `STEPS` guided steps, of
    2 evaluations or FLUX's 1, and the decoder; detectors are not in it. Raises `EraseError` for a
    number out of range.
    """
    if not (0 < tflops < math.inf and 0 < share <= 1):
        raise EraseError(f"tflops {tflops}, share {share}: expected above 0, a share up to 1")
    table = pd.DataFrame(plan, columns=Stage._fields)
    table["evaluations"] += family(pipeline(name)).guided * STEPS * table["pictures"]
    each = float(model_flops(name)), float(decoder_flops(name))
    flops = table["evaluations"] * each[0] + table["pictures"] * each[1]
    table.insert(3, "hours", flops / (tflops * 1e12 * share * 3600))
    return table.assign(card=card, tflops=tflops, share=share)


def trained(train_method: str, name: str = "sd") -> int:
    """How many parameters `train_method` trains."""
    model = denoiser(pipeline(name))
    return sum(model.get_parameter(n).numel() for n in trained_names(model, train_method))


def memory_estimate(train_method: str, name: str = "sd") -> pd.DataFrame:
    """Gigabytes (10⁹ bytes) on the accelerator: part, gb, basis, and two sums.

    Counted from shapes: weights in bfloat16, float32 copies of what is trained, their gradients and
    Adam's two moments. While it trains the autoencoder and the text encoders wait on the CPU; while
    prompts are encoded the latter are there, but neither gradients nor activations. Activations are
    those of `benchmarks.memory`, NaN and not in the sum where it has none; CUDA's own memory is not
    in it. Raises `EraseError` for an unknown `train_method` or family and a damaged file of
    measurements.
    """
    pipe, n = pipeline(name), trained(train_method, name)
    texts = sum(_count(encoder) for encoder, _ in encoders(pipe))
    kept = {"denoiser, bfloat16": 2 * _count(denoiser(pipe)), "student, float32": 4 * n}
    kept |= {"Adam": 8 * n}
    try:
        found = json.loads(MEASURED.read_text("utf-8"))
        ours = [r for r in found["rows"] if (r["arrangement"], found["shapes"]) == OURS]
        mb = {("sd", r["train_method"]): r["activations_mb"] for r in ours}
        how = f"measured ({found['device']}), gradient checkpointing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EraseError(f"{MEASURED} cannot be read ({reason(error)}): copy it anew") from None
    active = mb.get((name, train_method), math.nan) * 1e6
    how, whole = ("not measured", "without activations") if math.isnan(active) else (how, "sum")
    training = sum(kept.values()) + 4 * n + (0 if math.isnan(active) else active)
    rows = [(part, float(size), "counted") for part, size in kept.items()]
    rows += [("gradients", 4 * n, "counted"), ("activations", active, how)]
    rows += [
        ("while it trains", training, whole),
        ("text encoders, bfloat16", 2 * texts, "counted"),
    ]
    rows += [("while prompts are encoded", sum(kept.values()) + 2 * texts, "sum")]
    return pd.DataFrame([(part, size / 1e9, basis) for part, size, basis in rows], columns=PARTS)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def families(train_method: str = "xattn") -> pd.DataFrame:
    """A row a family: evaluations of a guided step, tera-operations of one, hours of the published
    run by eap and of 1,000 pictures, parameters trained (10⁶), gigabytes, and `KNOWN` in those."""
    rows = []
    for name in SHAPES:
        plan = [s for s in paper_plan(name) if s.stage.startswith("erase, one run: eap, ")]
        hours = estimate([*plan[:2], Stage("draw", pictures=1000)], name=name)["hours"].tolist()
        gb = memory_estimate(train_method, name).set_index("part")["gb"]
        row = {
            "family": name,
            "train_method": train_method,
            "guided": family(pipeline(name)).guided,
        }
        row |= {"tflop": model_flops(name) / 1e12}
        row |= dict(
            zip(("eap published, h", "eap replay, h", "1,000 pictures, h"), hours, strict=True)
        )
        row |= {"trained, 10⁶": trained(train_method, name) / 1e6}
        row |= {
            f"{part}, GB": gb[part] for part in ("while it trains", "while prompts are encoded")
        }
        rows.append(row | {"known, GB": KNOWN.get(name, math.nan) * 2**30 / 1e9})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, three digits of what is not whole."""
    rows = [list(table), ["---"] * table.shape[1], *table.to_numpy(object).tolist()]
    texts = [[f"{x:.3g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in texts)


def main() -> None:
    """Print hours, memory of what is trained for objects (xattn) and nudity (noxattn), families."""
    memory = [memory_estimate(m).assign(train_method=m) for m in ("xattn", "noxattn")]
    tables = estimate(paper_plan()), pd.concat(memory), families()
    print("Estimates, not measurements.", *map(markdown, tables), sep="\n\n")


if __name__ == "__main__":
    main()
