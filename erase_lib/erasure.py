"""Erasure: the edited tensors of one run, with its config and history; applied, saved, loaded,
exported."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from erase_lib.config import EraseConfig
from erase_lib.errors import EraseError
from erase_lib.models import Pipeline, fingerprint, in_place


@dataclass
class Erasure:
    """Only the edited tensors (float32, by the UNet's parameter names), and how they came about."""

    tensors: dict[str, Tensor]
    config: EraseConfig
    base: str
    """Fingerprint of the UNet it belongs to."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One dict an update: losses, evaluations, the concepts chosen, π of the target."""

    @contextmanager
    def applied(self, pipe: Pipeline) -> Iterator[Pipeline]:
        """Within the block the pipeline draws erased pictures; afterwards it is as it was.

        Raises `EraseError` when the erasure was made for another base model.
        """
        self.check(pipe)
        device, dtype = pipe.device, pipe.unet.dtype
        tensors = {
            name: torch.nn.Parameter(tensor.to(device, dtype), requires_grad=False)
            for name, tensor in self.tensors.items()
        }
        with in_place(pipe.unet, tensors):
            yield pipe

    def check(self, pipe: Pipeline) -> None:
        """Raise `EraseError` unless names, shapes and fingerprint fit the pipeline's UNet."""
        shapes = {name: p.shape for name, p in pipe.unet.named_parameters()}
        for name, tensor in self.tensors.items():
            if shapes.get(name) != tensor.shape:
                raise EraseError(
                    f"this erasure edits {name} {tuple(tensor.shape)}, which the loaded model lacks"
                    ": load the base model it was made for"
                )
        if self.base != (found := fingerprint(pipe.unet)):
            raise EraseError(
                f"this erasure was made for base model {self.base}, the loaded one is {found}:"
                " load the base model it was made for"
            )

    def save(self, folder: str | Path) -> Path:
        """Write erased.safetensors, config.json, history.csv; each renamed in when whole."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}
            temporary = folder / "erased.safetensors.tmp"
            save_file(tensors, temporary)
            os.replace(temporary, folder / "erased.safetensors")
            rows = [{k: v for k, v in row.items() if k != "pi"} for row in self.history]
            replace_text(folder / "history.csv", pd.DataFrame(rows).to_csv(index=False))
            settings = {"config": self.config.to_dict(), "base": self.base}
            replace_text(folder / "config.json", json.dumps(settings, indent=2))
        except (OSError, SafetensorError) as error:
            raise EraseError(
                f"cannot write to {folder} ({error}): free space or choose another"
            ) from None
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Erasure:
        """Read what `save` wrote. Raises `EraseError` for a missing or damaged file."""
        folder = Path(folder)
        for name in ("erased.safetensors", "config.json"):
            if not (folder / name).is_file():
                raise EraseError(
                    f"{folder / name} is missing: expected a folder written by Erasure.save"
                )
        try:
            tensors = load_file(folder / "erased.safetensors")
            settings = json.loads((folder / "config.json").read_text())
            config = EraseConfig.from_dict(settings["config"])
        except EraseError:
            raise
        except Exception as error:  # safetensors and json each raise their own kinds
            raise EraseError(f"erasure in {folder} is damaged ({error}): run it again") from None
        history = folder / "history.csv"
        rows = pd.read_csv(history).to_dict("records") if history.is_file() else []
        return cls(tensors, config, settings["base"], rows)

    def export(self, pipe: Pipeline, folder: str | Path) -> Path:
        """Write a whole stock pipeline with the erased UNet, which plain diffusers loads."""
        folder = Path(folder)
        temporary = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        with self.applied(pipe):
            pipe.save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        return folder


def replace_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
