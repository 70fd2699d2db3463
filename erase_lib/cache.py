"""Pictures of the unedited model, drawn once: kept by what they are, not by who asked."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from erase_lib.diffusion import generate
from erase_lib.errors import reason
from erase_lib.files import whole
from erase_lib.lock import alone
from erase_lib.models import Pipeline, fingerprint, precision
from erase_lib.paths import DATA

CACHE = DATA.parent / "runs" / "cache"


def originals(
    pipe: Pipeline,
    prompts: Sequence[str],
    seed: Sequence[int],
    steps: int = 30,
    guidance_scale: float = 4.0,
    folder: Path = CACHE,
    progress: bool = True,
) -> list[Image.Image]:
    """What `generate` draws, read from the cache when the same has been drawn before.

    The same means: weights (their fingerprints), dtype, device, threads, prompts, seeds, steps and
    guidance scale. Only for the model as loaded: the fingerprint of an edited one is no proof. A
    damaged file is drawn again; one that cannot be written is a warning.
    """
    parts = [fingerprint(part) for part in (pipe.unet, pipe.vae, pipe.text_encoder)]
    machine = [str(precision(pipe)), str(pipe.device), torch.get_num_threads(), torch.__version__]
    key = json.dumps([parts, machine, list(prompts), list(seed), steps, guidance_scale])
    found: list[Image.Image] | None = None
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(path.with_suffix(".lock"), wait=True):  # who comes second reads, not draws
            if (found := read(path)) is None:
                found = generate(
                    pipe, list(prompts), seed, steps, guidance_scale, progress=progress
                )
                with whole(path) as (temporary,), open(temporary, "wb") as file:
                    np.savez_compressed(file, pictures=np.stack([np.asarray(p) for p in found]))
            return found
    except OSError as error:
        warnings.warn(f"pictures not cached in {folder} ({reason(error)})", stacklevel=2)
    return found or generate(pipe, list(prompts), seed, steps, guidance_scale, progress=progress)


def read(path: Path) -> list[Image.Image] | None:
    """The pictures in a file of the cache; None if there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return [Image.fromarray(array) for array in file["pictures"]]
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile):
        return None
