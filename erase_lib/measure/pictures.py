"""Pictures: drawn once and kept by what they are, not by who asked; or read from a folder."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from erase_lib.concepts import EMOJI
from erase_lib.diffusion import generate, noise
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError, reason, unwritable
from erase_lib.families import Pipeline, denoiser, encoders
from erase_lib.files import DATA, alone, sought, whole, whole_table
from erase_lib.hold import held, plain
from erase_lib.models import precision, using

CACHE = DATA.parent / "runs" / "cache"
PART = 64  # pictures in a file: what is lost when a run is cut off
HELD = 32  # parts of a sequence in memory; the rest is read when it is looked at
UNSEEN = ("training", "gradient_checkpointing", "name_or_path")  # in its pictures, of a model
Images = Sequence[Image.Image]
# a bar of its own, or a function that is told the share that is done, and may raise to end it
Told: TypeAlias = bool | Callable[[float], object]


class Pictures(Images):
    """Pictures in parts that lie in files: thirty thousand of them need no room in memory."""

    def __init__(self, parts: list[Path | list[Any]], n: int, size: Any = None) -> None:
        self.parts, self.n, self.size = parts, n, size
        self.part = lru_cache(HELD)(self._read)

    def _read(self, k: int) -> list[Image.Image]:
        part = self.parts[k]
        n = min(PART, self.n - k * PART)
        found = part if isinstance(part, list) else _read(part, n, self.size)
        if found is None:
            raise EraseError(f"{part} is gone or damaged: run again, it is then drawn anew")
        return found

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, place: Any) -> Any:
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
    progress: Told = True,
    erasure: Erasure | None = None,
    keep: bool = True,
) -> Pictures:
    """What `generate` draws, with an erasure or without, from the cache when the same (weights
    and settings of the pipeline, device, threads, prompts, seeds, steps, guidance scale) has been
    drawn. Kept in `folder` (None: `CACHE`) in parts of `PART` pictures, or not. A damaged file is a
    warning and drawn again; one that cannot be written is a warning, with an erasure an
    `EraseError`, as are another base model and another number of seeds than of prompts."""
    prompts, seeds = list(prompts), list(seeds)
    if len(seeds) != len(prompts):
        raise EraseError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one for each")
    if erasure is not None:
        erasure.check(pipe)

    def new(asked: tuple[list[str], list[int], int, float], told: Told) -> list[Image.Image]:
        with erasure.applied(pipe) if erasure else nullcontext():
            return generate(pipe, *asked, progress=told)

    parts = [slice(a, a + PART) for a in range(0, len(prompts), PART)]
    if not keep:
        every = new((prompts, seeds, steps, guidance_scale), progress)
        return Pictures([every[part] for part in parts], len(prompts))
    made, tokens = _made_of(pipe, prompts)
    given: list[Any] = [made, erasure.digest() if erasure else ""]
    given += [str(precision(pipe)), str(pipe.device), torch.get_num_threads(), torch.__version__]
    found: list[Path | list[Image.Image]] = []
    size = [pipe.vae_scale_factor * n for n in noise(pipe, 0, torch.Generator()).shape[-2:]]
    for k, part in enumerate(parts):
        told = portion(progress, k, len(parts))
        asked = prompts[part], seeds[part], steps, guidance_scale
        key = hashlib.sha256(json.dumps([*given, tokens[part], *asked]).encode()).hexdigest()[:24]
        path, drawn = (folder or CACHE) / f"{key}.npz", None
        try:
            if _read(path, len(prompts[part]), size) is None:  # what is there needs no lock
                path.parent.mkdir(parents=True, exist_ok=True)
                # who comes second reads, not draws; the pipeline first, for others hold it and draw
                with held(denoiser(pipe), "drawing"), alone(path.with_suffix(".lock"), wait=True):
                    if _read(path, len(prompts[part]), size) is None:
                        drawn = new(asked, told)
                        arrays = [np.asarray(picture) for picture in drawn]
                        with whole(path) as (temporary,), open(temporary, "wb") as file:
                            np.savez_compressed(file, pictures=arrays, key=key)
            found.append(path)
        except OSError as error:
            if erasure is not None:  # hours of pictures that nothing can keep
                raise unwritable(path.parent, error) from None
            warnings.warn(f"pictures not cached in {path.parent} ({reason(error)})", stacklevel=2)
            found.append(drawn or new(asked, told))
        if callable(told):
            told(1.0)  # what is read from the cache too
    return Pictures(found, len(prompts), size)


def portion(progress: Told, k: int, n: int) -> Told:
    """`progress` for the k-th of n equal parts of a work."""
    return (lambda done: progress((k + done) / n)) if callable(progress) else progress


def _made_of(pipe: Pipeline, prompts: list[str]) -> tuple[str, list[list[int]]]:
    """What pictures hang on: a hash of every weight and setting of a pipeline's parts, and the
    tokens that each prompt is for it."""
    digest, texts = hashlib.sha256(), encoders(pipe)
    with using(pipe, "reading its weights"):
        parts = denoiser(pipe), pipe.vae, *(encoder for encoder, _ in texts)
        models = [plain(part) for part in parts]
        found = [p.config for p in (pipe.scheduler, *models[:2], pipe.image_processor)]
        # FreeU, tiling and another kind of attention are attributes; a word may be several tokens
        found += [vars(module) for part in models for module in part.modules()]
        found += [tokenizer.get_added_vocab() for _, tokenizer in texts]
        for name, tensor in (pair for part in models for pair in part.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().flatten().view(torch.uint8).numpy())
        read = texts[0][1]
        how = {"max_length": read.model_max_length, "padding": "max_length"}
        tokens = read(prompts, truncation=True, **how).input_ids if prompts else []
    told = [{k: v for k, v in of.items() if k[:1] != "_" and k not in UNSEEN} for of in found]
    kind: Any = {"default": lambda v: v.tolist() if hasattr(v, "tolist") else type(v).__name__}
    digest.update(json.dumps(told, skipkeys=True, **kind).encode())
    return digest.hexdigest(), tokens


def _read(path: Path, n: int, size: Any = None) -> list[Image.Image] | None:
    """The n pictures, of that size, of a file; None without one or, warned, if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays, key = file["pictures"], str(file["key"]) if "key" in file else path.stem
        wanted = (n, *(size or arrays.shape[1:3]), 3)
        if arrays.shape != wanted or arrays.dtype != np.uint8 or key != path.stem:
            raise ValueError(f"{arrays.shape} {arrays.dtype} of {key}: expected {wanted} uint8")
        return [Image.fromarray(array) for array in arrays]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # numpy, zip and zlib each raise their own kinds
        warnings.warn(f"{path} is damaged ({reason(error)}): drawn again", stacklevel=3)
        return None


def in_batches(items: Any, size: int) -> Iterator[Any]:
    """Slices of `size` items, of a tensor or a sequence."""
    return (items[a : a + size] for a in range(0, len(items), size))


def picture_tensor(pictures: Images | Tensor, size: int = 64) -> Tensor:
    """PIL pictures or a float tensor `(n, 3, h, w)` in [−1, 1], as float32 `(n, 3, size, size)`."""
    if isinstance(pictures, Tensor):
        out = pictures.detach().float()
        if out.ndim != 4 or out.shape[1] != 3:
            raise EraseError(f"pictures have shape {tuple(out.shape)}; expected (n, 3, h, w)")
        if out.shape[-2:] != (size, size):
            out = F.interpolate(out, (size, size), mode="bicubic", antialias=True)
        return out.clamp(-1, 1)
    arrays = [np.zeros((0, size, size, 3), np.uint8)]
    for picture in pictures:
        white = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
        arrays.append(np.asarray(flat.resize((size, size), Image.Resampling.BICUBIC))[None])
    return torch.from_numpy(np.concatenate(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def read_folder(folder: str | Path) -> list[Image.Image]:
    """Every PNG and JPEG of a folder, by name. Raises `EraseError` for none, and a damaged one."""
    kinds = (".png", ".jpg", ".jpeg")
    paths = sorted(path for path in sought(folder).glob("*") if path.suffix.lower() in kinds)
    if not paths:
        raise EraseError(f"reference {folder} holds no PNG or JPEG: give a folder of pictures")
    found = []
    for path in paths:
        try:
            found.append(Image.open(path).convert("RGB"))
        except Exception as error:  # Pillow raises SyntaxError and its own kinds too
            raise EraseError(f"picture {path} is damaged ({reason(error)}): remove it") from None
    return found


def real_pictures(prompts: pd.DataFrame) -> list[Image.Image] | None:
    """The data set's picture of each prompt's concept and style; None where one is not of it."""
    table = whole_table(EMOJI / "pictures.parquet").set_index(["concept", "style"])["png"]
    wanted = list(zip(prompts["concept"], prompts["style"], strict=True))
    if not set(wanted) <= set(table.index):
        return None
    return [Image.open(io.BytesIO(table[pair])).convert("RGB") for pair in wanted]
