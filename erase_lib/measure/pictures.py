"""Pictures: drawn once and kept by what they are, not by who asked; or read from a folder."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from erase_lib.concepts import EMOJI
from erase_lib.diffusion import generate
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError, reason, unwritable
from erase_lib.files import DATA, alone, whole
from erase_lib.models import Pipeline, fingerprint, precision

CACHE = DATA.parent / "runs" / "cache"
PART = 64  # pictures in a file: what is lost when a run is cut off
HELD = 32  # parts of a sequence in memory; the rest is read when it is looked at


class Pictures(Sequence[Image.Image]):
    """Pictures in parts that lie in files: thirty thousand of them need no room in memory."""

    def __init__(self, parts: list[Path | list[Image.Image]], n: int) -> None:
        self.parts, self.n = parts, n
        self.part = lru_cache(HELD)(self._read)

    def _read(self, k: int) -> list[Image.Image]:
        part = self.parts[k]
        if isinstance(part, list):
            return part
        if (found := _read(part)) is None:
            raise EraseError(f"{part} is gone or damaged: run again, it is then drawn anew")
        return found

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...
    @overload
    def __getitem__(self, place: slice) -> list[Image.Image]: ...
    def __getitem__(self, place: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(place, slice):
            return [self[i] for i in range(self.n)[place]]
        i = range(self.n)[place]
        return self.part(i // PART)[i % PART]


def draw(
    pipe: Pipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = 30,
    guidance_scale: float = 4.0,
    folder: Path | None = None,
    progress: bool = True,
    erasure: Erasure | None = None,
    keep: bool = True,
) -> Pictures:
    """What `generate` draws, with an erasure or without, read from the cache when the same has been
    drawn before.

    The same means: weights (their fingerprints, the erasure's tensors), dtype, device, threads,
    prompts, seeds, steps and guidance scale. The pipeline is as it was loaded: the fingerprint of
    an edited one is no proof. Kept in `folder` (None: `CACHE`) in parts of `PART` pictures, or
    drawn anew and not kept. A damaged file is a warning and drawn again; one that cannot be
    written is a warning, with an erasure an `EraseError`, as is an erasure of another base model.
    """
    prompts, seeds = list(prompts), [int(seed) for seed in seeds]
    if erasure is not None:
        erasure.check(pipe)

    def new(part: slice) -> list[Image.Image]:
        with erasure.applied(pipe) if erasure else nullcontext():
            return generate(
                pipe, prompts[part], seeds[part], steps, guidance_scale, progress=progress
            )

    parts = [slice(a, a + PART) for a in range(0, len(prompts), PART)]
    if not keep:
        every = new(slice(None))
        return Pictures([every[part] for part in parts], len(prompts))
    weights = [fingerprint(part) for part in (pipe.unet, pipe.vae, pipe.text_encoder)]
    weights += [erasure.digest()] if erasure else []
    machine = [str(precision(pipe)), str(pipe.device), torch.get_num_threads(), torch.__version__]
    found: list[Path | list[Image.Image]] = []
    for part in parts:
        asked = [prompts[part], seeds[part], steps, guidance_scale]
        key = hashlib.sha256(json.dumps([weights, machine, *asked]).encode()).hexdigest()[:24]
        path, drawn = (folder or CACHE) / f"{key}.npz", None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with alone(path.with_suffix(".lock"), wait=True):  # who comes second reads, not draws
                if _read(path) is None:
                    _write(path, drawn := new(part))
            found.append(path)
        except OSError as error:
            if erasure is not None:  # hours of pictures that nothing can keep
                raise unwritable(path.parent, error) from None
            warnings.warn(f"pictures not cached in {path.parent} ({reason(error)})", stacklevel=2)
            found.append(drawn or new(part))
    return Pictures(found, len(prompts))


def _write(path: Path, pictures: list[Image.Image]) -> None:
    with whole(path) as (temporary,), open(temporary, "wb") as file:
        np.savez_compressed(file, pictures=np.stack([np.asarray(p) for p in pictures]))


def _read(path: Path) -> list[Image.Image] | None:
    """The pictures in a file of the cache; None if there is none, or, with a warning, it is
    damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return [Image.fromarray(array) for array in file["pictures"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        warnings.warn(f"{path} is damaged ({reason(error)}): drawn again", stacklevel=3)
        return None


def picture_tensor(pictures: Sequence[Image.Image] | Tensor, size: int = 64) -> Tensor:
    """PIL pictures or a float tensor `(n, 3, h, w)` in [−1, 1], as float32 `(n, 3, size, size)`."""
    if isinstance(pictures, Tensor):
        out = pictures.detach().float()
        if out.ndim != 4 or out.shape[1] != 3:
            raise EraseError(
                f"pictures have shape {tuple(out.shape)}; expected (n, 3, height, width)"
            )
        if out.shape[-2:] != (size, size):
            out = F.interpolate(out, (size, size), mode="bicubic", antialias=True)
        return out.clamp(-1, 1)
    arrays = [np.zeros((0, size, size, 3), np.uint8)]
    for picture in pictures:
        white = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
        if flat.size != (size, size):
            flat = flat.resize((size, size), Image.Resampling.BICUBIC)
        arrays.append(np.asarray(flat)[None])
    return torch.from_numpy(np.concatenate(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def read_folder(folder: str | Path) -> list[Image.Image]:
    """Every PNG and JPEG of a folder, by name. Raises `EraseError` for none, and a damaged one."""
    paths = sorted(
        p for p in Path(folder).glob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg")
    )
    if not paths:
        raise EraseError(f"reference {folder} holds no PNG or JPEG: give a folder of pictures")
    found = []
    for path in paths:
        try:
            found.append(Image.open(path).convert("RGB"))
        except OSError as error:
            raise EraseError(f"picture {path} is damaged ({reason(error)}): remove it") from None
    return found


def real_pictures(prompts: pd.DataFrame) -> list[Image.Image] | None:
    """The data set's picture of each prompt's concept and style; None where one is not of it."""
    table = pd.read_parquet(EMOJI / "pictures.parquet").set_index(["concept", "style"])["png"]
    wanted = list(zip(prompts["concept"], prompts["style"], strict=True))
    if not set(wanted) <= set(table.index):
        return None
    return [Image.open(io.BytesIO(table[pair])).convert("RGB") for pair in wanted]
