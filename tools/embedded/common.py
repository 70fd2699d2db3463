"""What every training of the embedded model shares: pictures, captions, schedules, checkpoints,
progress."""

from __future__ import annotations

import io
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from erase_lib.files import whole
from tools.embedded.pictures import ROOT, SOURCES

DATA = ROOT / "data"
WORK = ROOT / "build" / "model"  # ignored by git: checkpoints and intermediate weights
STYLES = tuple(SOURCES)
Show = Callable[[Path], object]  # what a training calls with each picture file that it has written
# A few steps of every stage, each a keyword of its `train`: they run all of its code and teach
# nothing.
SMOKE: dict[str, dict[str, Any]] = {
    "vae": {"steps": 8, "batch": 8, "concepts": 12},
    "clip": {"steps": 4, "pairs": 16, "words": 32, "known": 300, "vocabulary": 1500}
    | {"concepts": 12},
    "unet": {"steps": 4, "batch": 8, "channels": (32, 64), "sampling": 2, "concepts": 12},
    "redraw": {"depths": (2,), "concepts": 12},
    "decoder": {"steps": 4, "batch": 8, "concepts": 12},
    "judge": {"steps": 4, "batch": 16, "concepts": 12},
}


def read_pictures(concepts: int | None = None) -> tuple[pd.DataFrame, Tensor]:
    """The table of the data set and its pictures as uint8 `(n, 3, 64, 64)`; four a concept.

    Only the first `concepts` of the alphabet, if given: for a smoke run.
    """
    table = pd.read_parquet(DATA / "emoji" / "pictures.parquet")
    table = table[table["concept"].isin(table["concept"].unique()[:concepts])]
    arrays = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in table["png"]]
    return table, torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def to_float(pictures: Tensor) -> Tensor:
    """uint8 pictures as float in [−1, 1]."""
    return pictures.float() / 127.5 - 1


def captions(row: Any, rng: random.Random | None = None) -> list[str]:
    """Nine captions of one picture: with and without style, with a keyword, the keyword alone."""
    name, style, rng = row.concept, row.style, rng or random.Random(0)
    keyword = rng.choice(row.keywords.split(", ")) if row.keywords else name
    return [
        f"a {name} in {style} style",
        f"a {name} in {style} style",
        f"{name} in {style} style",
        f"a {style} emoji of a {name}",
        f"a picture of a {name} in {style} style",
        f"a {name}, {keyword}, in {style} style",
        f"a {keyword} in {style} style",
        f"a {name}",
        name,
    ]


def shift(pictures: Tensor, pixels: int, g: torch.Generator) -> Tensor:
    """The batch moved by up to `pixels` in both directions, the border filled with white."""
    dx, dy = (int(v) for v in torch.randint(0, 2 * pixels + 1, (2,), generator=g))
    padded = F.pad(pictures, (pixels,) * 4, value=1.0)
    return padded[..., dy : dy + pictures.shape[-2], dx : dx + pictures.shape[-1]]


def cosine_rate(step: int, steps: int, peak: float, hold: float = 0.3, warmup: int = 100) -> float:
    """Learning rate: linear warm-up, a plateau until `hold` of the run, then a cosine to zero."""
    progress = step / steps
    decay = (
        1.0 if progress < hold else 0.5 * (1 + math.cos(math.pi * (progress - hold) / (1 - hold)))
    )
    return peak * min(1.0, (step + 1) / warmup) * decay


def generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step: a run killed anywhere continues as if it had not been."""
    return torch.Generator().manual_seed(seed * 10_000_000 + step)


def autocast() -> torch.autocast:
    """bfloat16 where the processor has matrix tiles for it (AMX); without them float32 is the
    faster one (measured: .59 s a UNet step against .77)."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported())


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write to a temporary name, then rename: a half-written checkpoint is never read as whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as (temporary,):
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last whole checkpoint, or None. Only tensors and numbers: `weights_only` refuses code."""
    return torch.load(path, weights_only=True) if path.exists() else None


def resume(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """The step to go on from, 0 without a checkpoint; model and optimiser take its state."""
    state = load_checkpoint(path)
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"]


def keep(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """The checkpoint that `resume` reads, after `step` steps."""
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    save_checkpoint(path, state)


def descend(loss: Tensor, model: nn.Module, optimiser: torch.optim.Optimizer, rate: float) -> None:
    """One update at this learning rate, the gradient's norm clipped to 1."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


def amend_config(path: Path, **settings: Any) -> None:
    """Add settings to a config.json, and drop diffusers' note of the folder it was read from."""
    config = json.loads(path.read_text()) | settings
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2))


class Progress:
    """One line every `every` seconds: step, time left, and the running means of the losses."""

    def __init__(self, name: str, start: int, steps: int, every: float = 30.0) -> None:
        self.name, self.first, self.steps, self.every = name, start, steps, every
        self.begin = self.last = time.time()
        self.means: dict[str, float] = {}

    def __call__(self, step: int, **values: float) -> None:
        for key, value in values.items():
            self.means[key] = 0.98 * self.means.get(key, value) + 0.02 * value
        now = time.time()
        if now - self.last < self.every and step + 1 < self.steps:
            return
        self.last = now
        left = (now - self.begin) / max(step + 1 - self.first, 1) * (self.steps - step - 1)
        shown = " ".join(f"{key} {value:.4f}" for key, value in self.means.items())
        print(f"{self.name} {step + 1}/{self.steps} {left / 60:.1f} min left {shown}", flush=True)


def grid(
    pictures: Tensor, columns: int, path: Path, scale: int = 1, show: Show | None = None
) -> None:
    """Save pictures `(n, 3, h, w)` in [−1, 1] as one PNG with `columns` a row, and show it."""
    n, _, h, w = pictures.shape
    rows = n // columns
    sheet = pictures[: rows * columns].reshape(rows, columns, 3, h, w).permute(0, 3, 1, 4, 2)
    array = ((sheet.reshape(rows * h, columns * w, 3).clamp(-1, 1) + 1) * 127.5).round()
    image = Image.fromarray(array.byte().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)
    if show:
        show(path)
