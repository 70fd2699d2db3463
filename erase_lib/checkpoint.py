"""The whole state of a run in one file, so that a run that was cut off goes on where it was.

The last two are kept: a damaged one costs the updates since the one before it, not the run.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from erase_lib.config import EraseConfig
from erase_lib.errors import EraseError, reason
from erase_lib.files import whole

FILE, PREVIOUS = "checkpoint.safetensors", "previous.safetensors"


@dataclass
class State:
    """Everything a run goes on from, between two updates."""

    tensors: dict[str, Tensor]
    """By part and name, `part/name`: student, Adam's moments, π, banks, the generator."""
    values: dict[str, Any]
    """What JSON holds: history, evaluations, the candidates' words."""

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part, by the rest of their names."""
        start = f"{name}/"
        return {k.removeprefix(start): t for k, t in self.tensors.items() if k.startswith(start)}


def write(folder: str | Path, config: EraseConfig, base: str, state: State) -> None:
    """Write the state as `checkpoint.safetensors`, renamed in when whole; the one before it stays
    as `previous.safetensors`.

    Raises `EraseError` when it cannot be written; the older checkpoints then stay.
    """
    folder = Path(folder)
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.tensors.items()}
    run = {"config": config.to_dict(), "base": base, "values": state.values}
    text = json.dumps(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / FILE) as (temporary,):
            save_file(tensors, temporary, {"run": text, "crc32": checksum(text, tensors)})
            if (folder / FILE).exists():  # a kill here leaves the previous one, which `read` finds
                os.replace(folder / FILE, folder / PREVIOUS)
    except (OSError, SafetensorError) as error:
        raise EraseError(f"no checkpoint in {folder} ({reason(error)}): free space") from None


def read(folder: str | Path, config: EraseConfig, base: str) -> State | None:
    """The last state in the folder, on the CPU, or None when there is none.

    A damaged one is a warning, and the one before it is taken. Raises `EraseError` when that is
    damaged or missing too, and for a state of another config or base model.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise EraseError(f"checkpoint {folder} is a file: give a folder")
    paths = [path for name in (FILE, PREVIOUS) if (path := Path(folder) / name).is_file()]
    for i, path in enumerate(paths):
        try:
            run, tensors = _load(path)
        except Exception as error:  # safetensors, json and a missing key each raise their own kinds
            damage = f"{path} is damaged ({reason(error)})"
            if i + 1 == len(paths):
                raise EraseError(f"{damage}: delete {folder} to start anew") from None
            warnings.warn(f"{damage}: the run goes on from the one before it", stacklevel=3)
            continue
        _match(path, run, config, base)
        if i:
            os.replace(path, paths[0])  # or the next write would put the damaged one in its place
        return State(tensors, run["values"])
    return None


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if metadata["crc32"] != checksum(metadata["run"], tensors):
        raise ValueError("its checksum is wrong")
    run = json.loads(metadata["run"])
    return {name: run[name] for name in ("config", "base", "values")}, tensors


def _match(path: Path, run: dict[str, Any], config: EraseConfig, base: str) -> None:
    for name, value in config.to_dict().items():
        if (there := run["config"].get(name)) != value:
            raise EraseError(
                f"{path} is of another run, with {name} {there!r} instead of {value!r}:"
                " choose another folder, or delete it to start anew"
            )
    if run["base"] != base:
        raise EraseError(
            f"{path} is of base model {run['base']}, the loaded one is {base}: load that model, or"
            " choose another folder"
        )


def checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """CRC-32 of a text and of the bytes of CPU tensors: safetensors itself checks sizes only."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def adam_tensors(optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    """Adam's step counts and moments, by `parameter/name`."""
    states = optimiser.state_dict()["state"]
    return {f"{i}/{name}": t for i, state in states.items() for name, t in state.items()}


def load_adam(optimiser: torch.optim.Adam, tensors: dict[str, Tensor]) -> None:
    """Put back what `adam_tensors` gave."""
    states: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        i, name = key.split("/")
        states[int(i)][name] = tensor
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": dict(states), "param_groups": groups})
