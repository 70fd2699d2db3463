"""The edited tensors of one run, with config and history: applied, saved, loaded, exported."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import StringIO
from operator import methodcaller
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from erase_lib import edits, export
from erase_lib.checkpoint import load_checked, save_checked
from erase_lib.config import ELSEWHERE, EraseConfig
from erase_lib.doors import gate
from erase_lib.errors import EraseError, reason
from erase_lib.families import Pipeline, denoiser, entries
from erase_lib.files import as_path, read_text, sought, whole, writing
from erase_lib.hold import in_place, plain
from erase_lib.models import DTYPES, fingerprint, using

FILES = ("erased.safetensors", "config.json", "history.csv")


@gate
@dataclass
class Erasure:
    """Only the edited tensors (float32, by the UNet's parameter names), and how they came about."""

    tensors: dict[str, Tensor]
    config: EraseConfig
    base: str  # fingerprint of the UNet it belongs to
    history: list[dict[str, Any]] = field(default_factory=list)
    """One dict an update: losses, evaluations, the concepts chosen, π of the target."""
    strength: float = 1.0  # how many times as far as its run the edit goes; see `scaled`
    partial: bool = False  # whether its run was stopped before its last update

    @contextmanager
    def applied(self, pipe: Pipeline) -> Iterator[Pipeline]:
        """Within the block the pipeline draws erased pictures; afterwards it is as it was. Until
        then it is `held`: another thread waits. Raises as `check`."""
        with using(pipe, "an erasure applied", draws=False):
            self.check(pipe)
            model = denoiser(pipe)
            moved = {n: t.to(model.device, model.dtype) for n, t in self.tensors.items()}
            with in_place(model, {n: nn.Parameter(t, False) for n, t in moved.items()}):
                yield pipe

    def check(self, pipe: Pipeline) -> None:
        """Raise `EraseError` unless names, shapes and fingerprint fit the pipeline's UNet."""
        model = denoiser(pipe)
        shapes = {name: p.shape for name, p in plain(model).named_parameters()}
        for name, tensor in self.tensors.items():
            if shapes.get(name) != tensor.shape:
                what = f"{name} {tuple(tensor.shape)}"
                raise EraseError(f"the loaded model has no {what}: load the erasure's base model")
        found, half = fingerprint(model), model.dtype == torch.float16
        if self.base != found and self.base != fingerprint(model, earlier=True):
            other = f"the loaded model is {found}, not {self.base}"
            # where it was saved before 0.2.0, float16 has rounded what it is known by
            hint = ", or this one in float32 if the erasure is old" if half else ""
            raise EraseError(f"{other}: load the erasure's base model{hint}")

    def scaled(self, pipe: Pipeline, strength: float) -> Erasure:
        """The same edit `strength` times as far: θ + strength · (θ' − θ); 0 is the original. Raises
        `EraseError` for a strength that is not finite, and as `check`."""
        if not abs(strength) < 1e38:  # beyond, or NaN
            raise EraseError(f"strength is {strength}: expected a finite number, such as 0.8")
        with using(pipe, "reading its weights", draws=False):
            self.check(pipe)
            base = dict(plain(denoiser(pipe)).named_parameters())
        of = self.tensors.items()
        tensors = {name: torch.lerp(base[name].detach().to(t), t, strength) for name, t in of}
        if not all(t.isfinite().all() for t in tensors.values()):
            raise EraseError(f"strength is {strength}: beyond what float32 holds, such as 0.8")
        return replace(self, tensors=tensors, strength=self.strength * strength)

    def plus(self, pipe: Pipeline, other: Erasure) -> Erasure:
        """Both edits on their one base, the same in either order: θ + (θ_a − θ) + (θ_b − θ) (task
        vectors, Ilharco et al. 2023). Two closed forms, W T_a and W T_b, follow one another, by the
        mean of both orders W (T_a T_b + T_b T_a) / 2: a sum would take twice what both take. Of
        three such it matters, at the third order, which two come first.

        The method is "other"; each row of the history says of which targets, method and strength it
        is. Raises `EraseError` for a target of both, and as `check`."""
        a, b = sorted((self, other), key=lambda erasure: erasure.config.targets)
        config = EraseConfig((*a.config.targets, *b.config.targets), ELSEWHERE, styles=())
        with using(pipe, "reading its weights", draws=False):
            b.check(pipe)
            model, moved = denoiser(pipe), export.differences(a, pipe)
            tensors = {n: t.cpu().float() for n, t in (a.tensors | b.tensors).items()}
            tensors |= {n: tensors[n] + moved[n] for n in moved.keys() & b.tensors.keys()}
            changes = export.matrices(a, pipe), export.matrices(b, pipe)  # T − 1, where both have
            for entry, x, y in zip(entries(model), *changes, strict=False):
                r = x + y + (x @ y + y @ x) / 2
                new = {n: w.double() @ r + w.double() for n, w in entry.weights.items()}
                tensors |= {n: w.float().cpu() for n, w in new.items()}
            history, partial = a._told() + b._told(), a.partial or b.partial
            return Erasure(tensors, config, fingerprint(model), history, partial=partial)

    def _told(self) -> list[dict[str, Any]]:
        """The history, each row with what it is of: target, method and strength."""
        about = {"target": "|".join(self.config.targets), "method": self.config.method}
        rows = (about | row for row in self.history or [{}])
        return [row | {"strength": row.get("strength", 1.0) * self.strength} for row in rows]

    def digest(self) -> str:
        """Short hash of the edited tensors: two erasures with the same draw the same pictures."""
        found = hashlib.sha256()
        for name in sorted(self.tensors):
            found.update(name.encode())
            found.update(self.tensors[name].detach().cpu().float().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def save(self, folder: str | Path) -> Path:
        """Write erased.safetensors, which holds all but π, with a checksum; and config.json and
        history.csv, which say the same for people. They are renamed in when all are whole. Raises
        `EraseError` when they cannot be written; files of an older erasure then stay."""
        folder = as_path(folder)
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in self.tensors.items()}
        rows = [{k: v for k, v in row.items() if k != "pi"} for row in self.history]
        told = {"version": 2, "config": self.config.to_dict(), "base": self.base}
        told |= {"strength": self.strength, "partial": self.partial, "history": rows}
        paths = [folder / name for name in FILES]
        if not paths[0].exists() and (other := next(filter(Path.exists, paths), None)):
            raise EraseError(f"{other} is there, but no {FILES[0]}: choose another folder")
        try:
            _check(tensors, self.strength)
            text = json.dumps(told, default=methodcaller("item"))  # NumPy's numbers
            _copies(text)[1].encode()  # half a character is no text
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise EraseError(f"erasure not saved to {folder} ({reason(error)})") from None
        with writing(folder, SafetensorError):
            folder.mkdir(parents=True, exist_ok=True)
            with whole(*paths) as temporary:  # the first holds all, so a kill in between loses none
                save_checked(temporary[0], text, tensors)
                for path, copy in zip(temporary[1:], _copies(text), strict=True):
                    path.write_text(copy, encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Erasure:
        """Read what `save` wrote, of this version or an earlier one, which had no checksum. Raises
        `EraseError` for a missing or damaged file, and for files of different erasures."""
        folder = sought(folder)
        weights, *copies = (folder / name for name in FILES)
        try:
            text, tensors = load_checked(weights)
            found = json.loads(text) if text else _earlier(*copies)
            config, rows = EraseConfig.from_dict(found["config"]), found["history"]
            strength, partial = float(found.get("strength", 1)), bool(found.get("partial"))
            _check(tensors, strength)
            made = cls(tensors, config, str(found["base"]), rows, strength, partial)
        except FileNotFoundError as error:
            raise EraseError(f"{error}, it is missing: give a folder of Erasure.save") from None
        except Exception as error:  # safetensors, json and pandas each raise their own kinds
            damage = f"erasure in {folder} is damaged ({reason(error)})"
            raise EraseError(f"{damage}: run it again") from None
        for path, copy in zip(copies, _copies(text) if text else (), strict=False):
            if path.exists() and read_text(path).splitlines() != copy.splitlines():
                damage = f"{path} is damaged, or of another erasure than {weights.name}"
                raise EraseError(f"{damage}, which holds all that is in it: delete {path.name}")
        return made

    @classmethod
    def between(cls, pipe: Pipeline, other: Pipeline | str | Path, targets: list[str]) -> Erasure:
        """What others edited, as an erasure of the pipeline's: `other` is an edited pipeline, its
        folder, or a .safetensors file: a model in LDM's keys, the denoiser's tensors by their
        names, as ESD and UCE publish them, or a LoRA or differences in the keys of PEFT or kohya.
        Tensors that differ but by rounding are left out. Raises `EraseError` for another base, keys
        that are none of these, and an edit of the text encoder, which is no part of an erasure."""
        config = EraseConfig(tuple(targets), ELSEWHERE, styles=())
        with using(pipe, "reading its weights", draws=False):
            base = {n: p.detach() for n, p in plain(denoiser(pipe)).named_parameters()}
            tensors = edits.edited(pipe, base, other)
            return cls(tensors, config, fingerprint(denoiser(pipe)))

    def export(
        self, pipe: Pipeline, folder: str | Path, kind: str = "pipeline", rank: int | None = None
    ) -> Path:
        """Write a folder for other tools; an older export is replaced once it is whole. kind:
        pipeline, a whole stock pipeline that plain diffusers loads · single, the same as one file
        for ComfyUI and A1111 · lora, in PEFT's keys (`rank`: None takes the smallest that leaves
        out at most 2 %, or else 32) · kohya, a LoRA as those two read it · delta, the exact
        differences for them · matrix, of a closed form, which goes on the prompt. Raises
        `EraseError` when that fails, for a folder that holds anything else (`whole_folder`), and
        for a kind or rank that this erasure has not."""
        folder, of = as_path(folder), (getattr(pipe, "config", {}), denoiser(pipe).config)
        bases = [Path(s).resolve() for c in of if (s := c.get("_name_or_path"))]
        if folder.resolve() in [*bases, *(base.parent for base in bases if base.is_file())]:
            raise EraseError(f"{folder} holds the model that is being edited: choose another")
        return export.write(self, pipe, folder, kind, rank)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `erase`: its `erasure` is what was done, marked `partial`."""

    def __init__(self, erasure: Erasure) -> None:
        done = f"{len(erasure.history)} of {erasure.config.steps} updates"
        super().__init__(f"{done} are done and kept: sys.last_value.erasure has them")
        self.erasure = erasure


def _check(tensors: Mapping[str, Tensor], strength: float) -> None:
    """Raise `ValueError` unless there are tensors, and every number is one."""
    if not tensors or not math.isfinite(strength):
        raise ValueError(f"it has {len(tensors)} tensors and strength {strength}")
    for name, tensor in tensors.items():
        fits = tensor.dtype in DTYPES.values() and tensor.numel()
        if not fits or not torch.stack(tensor.aminmax()).isfinite().all():  # NaN comes through both
            raise ValueError(f"{name} of {tensor.dtype}: expected finite numbers in float32")


def _copies(text: str) -> list[str]:
    """What config.json and history.csv say of the text that stands with the weights."""
    told = json.loads(text)
    table = pd.DataFrame(told.pop("history")).to_csv(index=False, lineterminator="\n")
    return [json.dumps(told, indent=2), table]


def _earlier(config: Path, history: Path) -> dict[str, Any]:
    """What earlier versions wrote beside the weights, which then say nothing themselves."""
    found = json.loads(config.read_text("utf-8"))
    text = history.read_text("utf-8") if history.exists() else "\n"
    rows = list(csv.reader(StringIO(text), strict=True)) if text.strip() else []
    if "version" in found or len({len(row) for row in rows}) > 1 or text[-1:] != "\n":
        raise ValueError(f"{FILES[0]} has lost its checksum, or {history.name} its end")
    words = {"target", "chosen"}  # which may be "null" or "1"
    empty = {name: [""] for name in {*rows[0]} - words} if rows else {}
    options = {"dtype": dict.fromkeys(words, str), "keep_default_na": False, "na_values": empty}
    table = pd.read_csv(StringIO(text), **options).to_dict("records") if rows else []
    return found | {"history": table}
