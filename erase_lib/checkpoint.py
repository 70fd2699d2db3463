"""A run's state in a file, so that a run that was cut off goes on where it was.

The last two are kept: a damaged one costs the updates since the one before it, not the run.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from erase_lib.doors import gate
from erase_lib.errors import EraseError, reason
from erase_lib.files import as_path, whole, writing

if TYPE_CHECKING:
    from erase_lib.train import Run

FILE, PREVIOUS = "checkpoint.safetensors", "previous.safetensors"


@gate
class Checkpoint:
    """A callback of `erase`: goes on from the state in `folder`, to the very same tensors and
    history on the same machine, and writes one there every `every` updates (0: a tenth of the run)
    and at the end. What cannot be written is a warning. Raises `EraseError` for a damaged state, or
    another run's."""

    def __init__(self, folder: str | Path, every: int = 0) -> None:
        if every < 0:
            raise EraseError(f"every is {every}: expected 0 (a tenth of the run) or more updates")
        self.folder, self.every, self.warn = as_path(folder), every, True

    def __call__(self, run: Run) -> None:
        done, steps = len(run.history), run.config.steps
        if not done:
            device = next(iter(run.student.values())).device
            if state := read(self.folder, run.config.to_dict(), run.base, device):
                try:
                    run.load_state_dict(state)
                except (KeyError, TypeError, RuntimeError) as error:  # another version wrote it
                    said = f"the state in {self.folder} is no longer read ({reason(error)})"
                    raise EraseError(f"{said}: delete it to start anew") from None
        elif done % (self.every or max(1, steps // 10)) == 0 or done == steps:
            try:
                write(self.folder, run.config.to_dict(), run.base, run.state_dict())
            except EraseError as error:
                if self.warn:
                    warnings.warn(f"{error}; the run goes on", stacklevel=3)
                self.warn = False


def write(folder: Path, config: dict[str, Any], base: str, state: Mapping[str, Any]) -> None:
    """Write the state, renamed in when whole; the one before it stays as `previous.safetensors`.
    Raises `EraseError` when it cannot be written; the older ones then stay."""
    tensors: dict[str, Tensor] = {}
    told = {"config": config, "base": base, "state": _apart(state, tensors)}
    try:
        text = json.dumps(told, default=methodcaller("item"))  # NumPy's numbers
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        what = f"no checkpoint in {folder}: the history holds no value"
        raise EraseError(f"{what} ({error})") from None
    with writing(folder, SafetensorError):
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / FILE) as (temporary,):
            save_checked(temporary, text, tensors)
            if (folder / FILE).exists():  # a kill here leaves the previous one, which `read` finds
                os.replace(folder / FILE, folder / PREVIOUS)


def read(
    folder: Path, config: dict[str, Any], base: str, device: str | torch.device = "cpu"
) -> Any | None:
    """The last state in the folder, on the device, or None when there is none. A damaged one is a
    warning, and the one before it is taken. Raises `EraseError` when that is damaged or missing
    too, and for a state of another config or base model."""
    if folder.is_file():
        raise EraseError(f"checkpoint {folder} is a file: give a folder")
    paths = [path for name in (FILE, PREVIOUS) if (path := folder / name).is_file()]
    for path in paths:
        try:
            text, tensors = load_checked(path)
            found = json.loads(text)
            moved = {name: tensor.to(device) for name, tensor in tensors.items()}
            state = _together(found["state"], moved)
        except Exception as error:  # safetensors, json and a missing key each raise their own kinds
            damage = f"{path} is damaged ({reason(error)})"
            if path == paths[-1]:
                raise EraseError(f"{damage}: delete {folder} to start anew") from None
            warnings.warn(f"{damage}: the run goes on from the one before it", stacklevel=4)
            continue
        there = found["config"] | {"base model": found["base"]}
        for name, value in (config | {"base model": base}).items():
            if (other := there.get(name)) != value:
                what = f"{path} is of another run, with {name} {other!r} instead of {value!r}"
                raise EraseError(f"{what}: choose another folder, or delete it to start anew")
        if path != paths[0]:
            # or the next write would put the damaged one in its place
            with suppress(OSError):  # on a disk that can only be read
                os.replace(path, paths[0])
        return state
    return None


def save_checked(path: Path, text: str, tensors: dict[str, Tensor]) -> None:
    """A safetensors file with a text in its metadata, after the `checksum` of both."""
    save_file(tensors, path, {"run": f"{checksum(text, tensors)} {text}"})


def load_checked(path: Path) -> tuple[str, dict[str, Tensor]]:
    """What `save_checked` wrote; "" for a file without metadata. `ValueError` for a wrong sum."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if metadata is None:
        return "", tensors
    crc, _, text = metadata["run"].partition(" ")
    if crc != checksum(text, tensors):
        raise ValueError("its checksum is wrong")
    return text, tensors


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of a text and CPU tensors' names, shapes and bytes: safetensors checks sizes only."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What JSON holds of nested values: each tensor goes to `tensors`, its name stays."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):  # in pairs: Adam's keys are numbers
        return {"pairs": [[key, _apart(part, tensors)] for key, part in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_apart(part, tensors) for part in value]
    return value


def _together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The way back from `_apart`; a tuple comes back as a list."""
    if isinstance(value, list):
        return [_together(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _together(part, tensors) for key, part in value["pairs"]}


class Progress:
    """A callback of `erase`: a bar of the updates, with both losses."""

    bar: tqdm | None = None

    def __call__(self, run: Run) -> None:
        c, done = run.config, len(run.history)
        if self.bar is None or not done:
            self.bar = tqdm(desc=f"erase ({c.method})", initial=done, total=c.steps)
        self.bar.update(done - self.bar.n)
        if done:
            self.bar.set_postfix({name: f"{run.history[-1][name]:.4f}" for name in ("l1", "l2")})
        if done == c.steps:
            self.bar.close()
