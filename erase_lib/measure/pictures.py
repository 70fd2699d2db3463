"""Pictures drawn once: kept by what they are, not by who asked."""

from __future__ import annotations

import hashlib
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
import torch
from PIL import Image

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
        if (found := read(part)) is None:
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
    seed: Sequence[int],
    steps: int = 30,
    guidance_scale: float = 4.0,
    folder: Path = CACHE,
    progress: bool = True,
    erasure: Erasure | None = None,
) -> Pictures:
    """What `generate` draws, with an erasure or without, read from the cache when the same has been
    drawn before.

    The same means: weights (their fingerprints, the erasure's tensors), dtype, device, threads,
    prompts, seeds, steps and guidance scale. The pipeline is as it was loaded: the fingerprint of
    an edited one is no proof. Kept in parts of `PART` pictures. A damaged file is a warning and
    drawn again; one that cannot be written is a warning, with an erasure an `EraseError`, as is
    an erasure of another base model.
    """
    parts = [fingerprint(part) for part in (pipe.unet, pipe.vae, pipe.text_encoder)]
    if erasure is not None:
        erasure.check(pipe)
        parts.append(erasure.digest())
    machine = [str(precision(pipe)), str(pipe.device), torch.get_num_threads(), torch.__version__]
    found: list[Path | list[Image.Image]] = []
    for a in range(0, len(prompts), PART):
        some, seeds = list(prompts[a : a + PART]), list(seed[a : a + PART])
        key = json.dumps([parts, machine, some, seeds, steps, guidance_scale])
        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
        found.append(_part(pipe, some, seeds, steps, guidance_scale, path, progress, erasure))
    return Pictures(found, len(prompts))


def _part(
    pipe: Pipeline,
    prompts: list[str],
    seed: list[int],
    steps: int,
    guidance_scale: float,
    path: Path,
    progress: bool,
    erasure: Erasure | None,
) -> Path | list[Image.Image]:
    """One file of pictures, drawn if it is not there; or the pictures if it cannot be written."""
    found: list[Image.Image] | None = None

    def new() -> list[Image.Image]:
        with erasure.applied(pipe) if erasure else nullcontext():
            return generate(pipe, prompts, seed, steps, guidance_scale, progress=progress)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path.with_suffix(".lock"), wait=True):  # who comes second reads, not draws
            if (found := read(path)) is None:
                found = new()
                with whole(path) as (temporary,), open(temporary, "wb") as file:
                    np.savez_compressed(file, pictures=np.stack([np.asarray(p) for p in found]))
            return path
    except OSError as error:
        if erasure is not None:  # hours of pictures that nothing can keep
            raise unwritable(path.parent, error) from None
        warnings.warn(f"pictures not cached in {path.parent} ({reason(error)})", stacklevel=3)
    return found or new()


def read(path: Path) -> list[Image.Image] | None:
    """The pictures in a file of the cache; None if there is none, or, with a warning, it is
    damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return [Image.fromarray(array) for array in file["pictures"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        warnings.warn(f"{path} is damaged ({reason(error)}): drawn again", stacklevel=4)
        return None
