"""What every training of the embedded model shares: pictures, captions, schedules, checkpoints,
progress."""

from __future__ import annotations

import io
import json
import math
import pickle
import random
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from erase_lib.errors import EraseError, reason
from erase_lib.files import whole, writing
from tools.embedded.pictures import PICTURES, ROOT, SIZE, SOURCES

DATA = ROOT / "data"
WORK = ROOT / "build" / "model"  # ignored by git: checkpoints and intermediate weights
STYLES = tuple(SOURCES)
SEEN = 64  # pixels of what CLIP and the judge look at
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


def read_pictures(concepts: int | None = None, size: int = SIZE) -> tuple[pd.DataFrame, Tensor]:
    """The table of the data set and its pictures as uint8 `(n, 3, size, size)`; four a concept.

    Only the first `concepts` of the alphabet, if given: for a smoke run. Smaller ones are means of
    squares of pixels. Raises `EraseError` for a size that does not divide theirs.
    """
    if size < 1 or SIZE % size:
        raise EraseError(f"pictures of {size} pixels: expected {SIZE}, or a part such as {SEEN}")
    table = pd.read_parquet(PICTURES)
    table = table[table["concept"].isin(table["concept"].unique()[:concepts])]
    arrays = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in table["png"]]
    pictures = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    if size == SIZE:
        return table, pictures
    return table, F.avg_pool2d(pictures.float(), SIZE // size).round().byte()


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
    dx, dy = torch.randint(0, 2 * pixels + 1, (2,), generator=g).tolist()
    padded = F.pad(pictures, (pixels,) * 4, value=1.0)
    return padded[..., dy : dy + pictures.shape[-2], dx : dx + pictures.shape[-1]]


def cosine_rate(step: int, steps: int, peak: float, hold: float = 0.3, warmup: int = 100) -> float:
    """Learning rate: linear warm-up, a plateau until `hold` of the run, then a cosine to zero."""
    progress = step / steps
    decay = (
        1.0 if progress < hold else 0.5 * (1 + math.cos(math.pi * (progress - hold) / (1 - hold)))
    )
    return peak * min(1.0, (step + 1) / warmup) * decay


def generator(seed: int, step: int, device: str = "cpu") -> torch.Generator:
    """The random numbers of one step: a run killed anywhere continues as if it had not been."""
    return torch.Generator(device).manual_seed(seed * 10_000_000 + step)


def autocast(device: str = "cpu") -> torch.autocast:
    """bfloat16 on a GPU, and where the processor multiplies in it (AMX: a UNet step of .59 s with,
    .77 without; AVX-512 BF16: .40 and .65); elsewhere float32 is the faster one."""
    quick = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu" or quick)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write to a temporary name, then rename: a half-written checkpoint is never read as whole.

    Raises `EraseError` when it cannot be written; the one before it stays.
    """
    with writing(path, RuntimeError):  # a full disk is torch's RuntimeError
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as (temporary,):
            torch.save(state, temporary)


def load_checkpoint(path: Path, device: str = "cpu") -> dict[str, Any] | None:
    """The last whole checkpoint, or None. Only tensors and numbers: `weights_only` refuses code.

    Raises `EraseError` for a damaged one.
    """
    if not path.exists():
        return None
    try:
        return torch.load(path, weights_only=True, map_location=device)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise EraseError(
            f"{path} is damaged ({reason(error)}): delete it, and its part is trained anew"
        ) from None


def load_latents(work: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The latents of every picture, with the channels' means and deviations (`vae.save_latents`).

    Raises `EraseError` before there are any.
    """
    saved = load_checkpoint(path := work / "latents.pt", device)
    if saved is None:
        raise EraseError(f"{path} is missing: train the VAE first, python -m tools.embedded.vae")
    return saved


PARTS = ("model", "optimiser", "average")  # what a checkpoint holds, in this order


def resume(path: Path, *trained: Any) -> int:
    """The step to go on from, 0 without a checkpoint; model, optimiser and the running average, if
    there is one, take its state."""
    state = load_checkpoint(path)
    if state is None:
        return 0
    for name, part in zip(PARTS, trained, strict=False):
        part.load_state_dict(state[name])
    return state["step"]


def keep(path: Path, step: int, *trained: Any) -> None:
    """The checkpoint that `resume` reads, after `step` steps."""
    parts = {name: part.state_dict() for name, part in zip(PARTS, trained, strict=False)}
    save_checkpoint(path, parts | {"step": step})


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int, most: float = 0.99) -> None:
    """Move the running average towards the weights, every fifth step; at first it moves faster."""
    if step % 5 == 0:
        part = 1 - min(most, (1 + step) / (50 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), part)


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
    """The steps of a training, and one line every `every` seconds: step, time left, and the
    running means of the losses.

    Iterate over it for the steps from `start` on. There are `steps` in all; or, given `seconds`,
    as many as that time allows: `steps` is then what the pace so far makes of it. `done`: how many
    there have been.
    """

    def __init__(
        self, name: str, start: int, steps: int, every: float = 30.0, seconds: float | None = None
    ) -> None:
        self.name, self.steps, self.every = name, steps, every
        self.first = self.done = start
        self.begin = self.last = self.kept = time.time()
        self.seconds, self.over = seconds, False
        self.means: dict[str, Any] = {}

    def __iter__(self) -> Iterator[int]:
        while not self.over and (self.seconds is not None or self.done < self.steps):
            if self.seconds is not None:
                share = max((time.time() - self.begin) / self.seconds, 1e-3)
                whole = int(max(self.done - self.first, 1) / share)
                self.steps = max(self.done + 2, self.first + whole)
            yield self.done
            self.done += 1

    def summary(self) -> dict[str, float]:
        """Steps in all, the seconds of this sitting, and the running means."""
        means = {key: round(float(value), 4) for key, value in self.means.items()}
        return {"steps": self.done, "seconds": round(time.time() - self.begin, 1)} | means

    def due(self, step: int, every: int) -> bool:
        """Is a checkpoint due after this step: after every so many, or each minute by the clock,
        and after the last."""
        if self.seconds is None:
            return (step + 1) % every == 0 or step + 1 == self.steps
        now = time.time()
        self.over = now - self.begin >= self.seconds
        if not self.over and now - self.kept < 60:
            return False
        self.kept = now
        return True

    def __call__(self, step: int, **values: Any) -> None:
        for key, value in values.items():
            self.means[key] = 0.98 * self.means.get(key, value) + 0.02 * value
        now = time.time()
        if now - self.last < self.every and step + 1 < self.steps and not self.over:
            return
        self.last = now
        left = (now - self.begin) / max(step + 1 - self.first, 1) * (self.steps - step - 1)
        shown = " ".join(f"{key} {float(value):.4f}" for key, value in self.means.items())
        print(f"{self.name} {step + 1}/{self.steps} {left / 60:.1f} min left {shown}", flush=True)


def grid(
    pictures: Tensor, columns: int, path: Path, scale: int = 1, show: Show | None = None
) -> None:
    """Save pictures `(n, 3, h, w)` in [−1, 1] as one PNG with `columns` a row, and show it."""
    n, _, h, w = pictures.shape
    rows = n // columns
    sheet = pictures[: rows * columns].reshape(rows, columns, 3, h, w).permute(0, 3, 1, 4, 2)
    array = ((sheet.reshape(rows * h, columns * w, 3).clamp(-1, 1) + 1) * 127.5).round()
    image = Image.fromarray(array.byte().cpu().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)
    if show:
        show(path)
