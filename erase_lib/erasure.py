"""The edited tensors of one run, with config and history: applied, saved, loaded, exported."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from erase_lib.config import EraseConfig
from erase_lib.errors import EraseError, reason, unwritable
from erase_lib.files import as_path, whole, whole_folder
from erase_lib.hold import in_place, plain
from erase_lib.models import Pipeline, fingerprint, quiet, using

FILES = ("erased.safetensors", "config.json", "history.csv")


@dataclass
class Erasure:
    """Only the edited tensors (float32, by the UNet's parameter names), and how they came about."""

    tensors: dict[str, Tensor]
    config: EraseConfig
    base: str
    """Fingerprint of the UNet it belongs to."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One dict an update: losses, evaluations, the concepts chosen, π of the target."""
    strength: float = 1.0
    """How many times as far as its run the edit goes; see `scaled`."""
    partial: bool = False
    """Whether its run was stopped before its last update."""

    @contextmanager
    def applied(self, pipe: Pipeline) -> Iterator[Pipeline]:
        """Within the block the pipeline draws erased pictures; afterwards it is as it was.

        Until then it is `held`: another thread waits. Raises `EraseError` when the erasure was made
        for another base model.
        """
        with using(pipe, "an erasure applied"):
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
        shapes = {name: p.shape for name, p in plain(pipe.unet).named_parameters()}
        for name, tensor in self.tensors.items():
            if shapes.get(name) != tensor.shape:
                raise EraseError(
                    f"this erasure edits {name} {tuple(tensor.shape)}, which the loaded model lacks"
                    ": load the base model it was made for"
                )
        if self.base != (found := fingerprint(pipe.unet)):
            half = pipe.unet.dtype == torch.float16  # which rounds other bits than bfloat16
            raise EraseError(
                f"this erasure was made for base model {self.base}, the loaded one is {found}: load"
                f" the base model it was made for{', in bfloat16 or float32' if half else ''}"
            )

    def scaled(self, pipe: Pipeline, strength: float) -> Erasure:
        """The same edit `strength` times as far: θ + strength · (θ' − θ); 0 is the original.

        Raises `EraseError` for a strength that is not finite, and as `check`.
        """
        if not math.isfinite(strength):
            raise EraseError(f"strength is {strength}: expected a finite number, such as 0.8")
        with using(pipe, "reading its weights"):
            self.check(pipe)
            base = dict(plain(pipe.unet).named_parameters())
        tensors = {
            name: torch.lerp(base[name].detach().to(t), t, strength)
            for name, t in self.tensors.items()
        }
        return replace(self, tensors=tensors, strength=self.strength * strength)

    def digest(self) -> str:
        """Short hash of the edited tensors: two erasures with the same draw the same pictures."""
        found = hashlib.sha256()
        for name in sorted(self.tensors):
            found.update(name.encode())
            found.update(self.tensors[name].detach().cpu().float().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def save(self, folder: str | Path) -> Path:
        """Write erased.safetensors, config.json and history.csv, renamed in when all are whole.

        Raises `EraseError` when they cannot be written; files of an older erasure then stay.
        """
        folder = as_path(folder)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}
        rows = [{k: v for k, v in row.items() if k != "pi"} for row in self.history]
        settings: dict[str, Any] = {"config": self.config.to_dict(), "base": self.base}
        settings |= {"strength": self.strength, "partial": self.partial}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with whole(*(folder / name for name in FILES)) as (weights, config, history):
                save_file(tensors, weights)
                config.write_text(json.dumps(settings, indent=2), encoding="utf-8")
                pd.DataFrame(rows).to_csv(history, index=False)
        except (OSError, SafetensorError) as error:
            raise unwritable(folder, error) from None
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Erasure:
        """Read what `save` wrote. Raises `EraseError` for a missing or damaged file."""
        folder = as_path(folder)
        weights, config, history = (folder / name for name in FILES)
        for path in (weights, config):
            if not path.is_file():
                raise EraseError(f"{path} is missing: expected a folder written by Erasure.save")
        try:
            tensors = load_file(weights)
            settings = json.loads(config.read_text(encoding="utf-8"))
            known, base = EraseConfig.from_dict(settings["config"]), str(settings["base"])
            strength, partial = float(settings.get("strength", 1)), bool(settings.get("partial"))
            text = history.read_text(encoding="utf-8").strip() if history.is_file() else ""
            table = pd.read_csv(StringIO(text)) if text else None
        except EraseError:
            raise
        except Exception as error:  # safetensors, json and pandas each raise their own kinds
            raise EraseError(
                f"erasure in {folder} is damaged ({reason(error)}): run it again"
            ) from None
        rows = [] if table is None else table.to_dict("records")
        return cls(tensors, known, base, rows, strength, partial)

    def export(self, pipe: Pipeline, folder: str | Path) -> Path:
        """Write a whole stock pipeline with the erased UNet, which plain diffusers loads.

        An older export under the same name is replaced once the new one is whole. Raises
        `EraseError` when that fails, and for a folder that holds anything but an export.
        """
        folder, source = as_path(folder), getattr(pipe, "name_or_path", None)
        if source and folder.resolve() == Path(source).resolve():
            raise EraseError(f"{folder} holds the model that is being edited: choose another")
        if folder.exists() and not _replaceable(folder):
            raise EraseError(f"{folder} exists and is not an exported model: choose another")
        try:
            with whole_folder(folder) as temporary, self.applied(pipe), quiet():
                pipe.save_pretrained(temporary)
                # or stock would read the text encoder alone in half precision
                config = temporary / "text_encoder" / "config.json"
                stored = json.loads(config.read_text("utf-8")) | {"dtype": "float32"}
                config.write_text(json.dumps(stored, indent=2), "utf-8")
        except EraseError:
            raise
        except Exception as error:  # diffusers, tokenizers and safetensors raise their own kinds
            raise unwritable(folder, error) from None
        return folder


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `erase`: its `erasure` is what was done, marked `partial`."""

    def __init__(self, erasure: Erasure) -> None:
        done = f"{len(erasure.history)} of {erasure.config.steps} updates"
        super().__init__(f"{done} are done and kept: sys.last_value.erasure has them")
        self.erasure = erasure


def _replaceable(folder: Path) -> bool:
    """Whether it is an empty folder, or an export."""
    return folder.is_dir() and (
        (folder / "model_index.json").is_file() or not any(folder.iterdir())
    )
