"""An erasure for other tools: a whole pipeline, a single file, a LoRA, exact differences, or one
matrix.

Every file says in its header what it is: base, method, targets, strength, licence, version.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from erase_lib import ldm
from erase_lib.config import CLOSED_FORMS
from erase_lib.edits import DOWN
from erase_lib.errors import EraseError, unknown
from erase_lib.families import Pipeline, denoiser, entries, family
from erase_lib.files import read_text, whole_folder, writing
from erase_lib.hold import plain
from erase_lib.kv import one_change
from erase_lib.models import quiet

if TYPE_CHECKING:
    from erase_lib.erasure import Erasure

LOST, RANK = 0.02, 32  # share of the edit that a LoRA may leave out; its rank where that cannot be
# diffusers reads this name where it is given a folder
LORA = "pytorch_lora_weights.safetensors"


def write(erasure: Erasure, pipe: Pipeline, folder: Path, kind: str, rank: int | None) -> Path:
    """`Erasure.export`: the folder, with one of `KINDS` in it, whole or not at all."""
    if kind not in KINDS:
        raise unknown("kind of export", kind, KINDS)
    if rank is not None and kind not in ("lora", "kohya"):
        what = f"rank is {rank}, but a {kind} has none"
        raise EraseError(f"{what}: leave it out, or choose kind lora")
    # diffusers, tokenizers and safetensors raise their own kinds
    with writing(folder, Exception), whole_folder(folder) as temporary, quiet():
        told = KINDS[kind](erasure, pipe, temporary, **({} if rank is None else {"rank": rank}))
        card = read_me(erasure, pipe, kind, told)
        (temporary / "README.md").write_text(card, "utf-8")
        for path in licences(pipe):
            shutil.copyfile(path, temporary / path.name)  # the base's goes with it
    return folder


def pipeline(erasure: Erasure, pipe: Pipeline, folder: Path) -> str:
    """A whole stock pipeline with the erased denoiser, which plain diffusers loads."""
    with erasure.applied(pipe):
        pipe.save_pretrained(folder)
    for config in folder.glob("text_encoder*/config.json"):
        # or stock would read the text encoder alone in half precision
        stored = json.loads(config.read_text("utf-8")) | {"dtype": "float32"}
        config.write_text(json.dumps(stored, indent=2), "utf-8")
    return f"""A whole pipeline: `{type(pipe).__name__}.from_pretrained("this folder")`."""


def single(erasure: Erasure, pipe: Pipeline, folder: Path) -> str:
    """One file of the whole model in the keys of LDM; of SD 3 and FLUX of the transformer alone."""
    with erasure.applied(pipe):
        tensors = {key: t.detach().cpu().contiguous() for key, t in ldm.whole(pipe).items()}
    told = header(erasure, pipe, "single")
    what = "The transformer alone, for ComfyUI's folder of diffusion models"
    if not family(pipe).flow:
        what = "The whole model, for ComfyUI's or A1111's folder of checkpoints"
        predicts = pipe.scheduler.config.prediction_type.removesuffix("_prediction")
        told["modelspec.prediction_type"] = predicts
    save_file(tensors, folder / "erased_model.safetensors", told)
    return f'{what}, and `load_pipeline(file, config="its base")`.'


def lora(erasure: Erasure, pipe: Pipeline, folder: Path, rank: int | None = None) -> str:
    """Two thin matrices a layer, B A ≈ W' − W, with PEFT's keys and one rank for all layers. Raises
    as `factors`."""
    moved, where = differences(erasure, pipe), family(pipe).part
    layers, lost = factors(moved, rank)
    tensors = dict[str, Tensor]()
    for layer, (down, up) in layers.items():
        tensors[f"{where}.{layer}.lora_A.weight"] = down
        tensors[f"{where}.{layer}.lora_B.weight"] = up
    biases = {n.removesuffix(".bias"): d for n, d in moved.items() if n.endswith(".bias")}
    if odd := [layer for layer in biases if layer not in layers]:
        raise EraseError(f"of {odd[0]} only the bias moves: export kind delta or pipeline")
    for layer, (_, up) in layers.items() if biases else ():  # where one has one, all must
        tensors[f"{where}.{layer}.lora_B.bias"] = biases.get(layer, torch.zeros(len(up)))
    return save_lora(erasure, pipe, "lora", folder / LORA, tensors, lost)


def kohya(erasure: Erasure, pipe: Pipeline, folder: Path, rank: int | None = None) -> str:
    """The same in kohya's keys, as ComfyUI and A1111 read a LoRA; biases, which those do not hold,
    are left out. Raises as `factors`, and for a transformer."""
    keys, tensors = ldm.layer_keys(pipe), dict[str, Tensor]()
    layers, lost = factors(differences(erasure, pipe), rank, biases=False)
    for layer, (down, up) in layers.items():
        tensors[f"{keys[layer]}.lora_down.weight"] = down
        tensors[f"{keys[layer]}.lora_up.weight"] = up
        tensors[f"{keys[layer]}.alpha"] = torch.tensor(float(len(down)))
    return save_lora(erasure, pipe, "kohya", folder / "erased_lora.safetensors", tensors, lost)


def save_lora(
    erasure: Erasure, pipe: Pipeline, kind: str, path: Path, tensors: dict[str, Tensor], lost: float
) -> str:
    """Write a LoRA whose header says its rank and the share of the edit that it leaves out."""
    rank = next(len(t) for key, t in tensors.items() if key.endswith(DOWN))
    extra = {"ss_network_module": "networks.lora", "left_out": f"{lost:.4f}"}
    extra |= {"ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
    save_file(tensors, path, header(erasure, pipe, kind) | extra)
    where = "" if kind == "lora" else ", or put it where ComfyUI or A1111 look for LoRAs"
    what = f"A LoRA of rank {rank}, which leaves out {lost:.1%} of the edit"
    return f'{what}: `pipe.load_lora_weights("this folder")`{where}. Its weight w is the strength.'


def factors(
    moved: dict[str, Tensor], rank: int | None, biases: bool = True
) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """Of each layer the two factors of its difference, down `(rank, …)` and up `(out, rank, …)`,
    and the share of the edit's norm that they leave out; `biases`: are they held elsewhere?

    Without a `rank` the smallest that leaves out at most `LOST` of the edit, or else `RANK`; the
    share left out is a warning where it is more. Norms have no LoRA: `EraseError`.
    """
    if odd := [name for name, d in moved.items() if d.ndim == 1 and not name.endswith(".bias")]:
        what = f"{len(odd)} of the edited tensors, the first {odd[0]}, are no matrices"
        raise EraseError(f"{what}, and a LoRA holds only such: export kind delta or pipeline")
    flat = ((name, d.flatten(1)) for name, d in moved.items() if d.ndim > 1)
    parts = {name: torch.linalg.svd(d.double(), False) for name, d in flat}
    if not parts:
        raise EraseError("this erasure moves no matrix: there is no LoRA of it")
    most = max(len(s) for _, s, _ in parts.values())
    squares = torch.zeros(most + 1, dtype=torch.float64)
    for _, s, _ in parts.values():
        squares[: len(s)] += s.square()
    tail = squares.flip(0).cumsum(0).flip(0)  # what each rank leaves out, the last nothing
    if rank is None:
        rank = int((tail > LOST**2 * tail[0]).sum())
        # at which every matrix is whole, but for rounding
        exact = max(int((s > 1e-5 * s[0]).sum()) for _, s, _ in parts.values())
        rank = rank if rank <= max(RANK, exact) else min(RANK, most)
    if not 1 <= rank <= most:
        raise EraseError(f"rank is {rank}: expected 1 to {most}, at which this edit is whole")
    aside = 0 if biases else sum(float(d.square().sum()) for d in moved.values() if d.ndim == 1)
    if (lost := ((float(tail[rank]) + aside) / (float(tail[0]) + aside)) ** 0.5) > LOST:
        what = f"a LoRA of rank {rank} leaves out {lost:.0%} of this edit: kind delta is exact"
        warnings.warn(what, stacklevel=5)
    found = {}
    for name, (u, s, v) in parts.items():
        shape, root = moved[name].shape, s[:rank].sqrt()
        up, down = torch.zeros(len(u), rank), torch.zeros(rank, v.shape[1])
        up[:, : len(root)], down[: len(root)] = u[:, :rank] * root, root[:, None] * v[:rank]
        ones = [1] * (len(shape) - 2)  # of a convolution the first of the two has its kernel
        pair = down.unflatten(1, shape[1:]).contiguous(), up.view(*up.shape, *ones).contiguous()
        found[name.removesuffix(".weight")] = pair
    return found, lost


def delta(erasure: Erasure, pipe: Pipeline, folder: Path) -> str:
    """Every difference as it is, `lora_unet_….diff` and `.diff_b`, as ComfyUI and A1111 read it."""
    ends, tensors, keys = {"weight": "diff", "bias": "diff_b"}, {}, ldm.layer_keys(pipe)
    for name, d in differences(erasure, pipe).items():
        layer, _, leaf = name.rpartition(".")
        tensors[f"{keys[layer]}.{ends[leaf]}"] = d
    extra = {"ss_network_module": "networks.lora"}
    save_file(tensors, folder / "erased_delta.safetensors", header(erasure, pipe, "delta") | extra)
    return "Exact differences, as a LoRA's file: put it where ComfyUI or A1111 look for LoRAs."


def matrix(erasure: Erasure, pipe: Pipeline, folder: Path) -> str:
    """T of a closed form, W' = W T: on the prompt's embeddings it does what the edit does."""
    if not (changes := matrices(erasure, pipe)):
        what = f"this edit by {erasure.config.method} is not one T for all layers"
        raise EraseError(f"{what}: export kind lora, or erase by {', '.join(CLOSED_FORMS)}")
    every = zip(("T", "T_pooled"), changes, strict=False)
    found = {name: (torch.eye(len(r)) + r.cpu()).float() for name, r in every}
    save_file(found, folder / "matrix.safetensors", header(erasure, pipe, "matrix"))
    (folder / "pipeline.py").write_text(MATRIX_PIPELINE, "utf-8")
    load = 'DiffusionPipeline.from_pretrained(base, custom_pipeline="this folder")'
    then = 'pipe.erase("this folder/matrix.safetensors")'
    return f"One matrix, no weights touched: `pipe = {load}`, then `{then}`."


def matrices(erasure: Erasure, pipe: Pipeline) -> list[Tensor]:
    """T − 1 `(dim, dim)`, in float64, of each of `entries`: by least squares from an edit W' = W T
    of one T for all their layers, such as a closed form. [] for any other."""
    every, found = entries(denoiser(pipe)), list[Tensor]()
    if {name for entry in every for name in entry.weights} != set(erasure.tensors):
        return []
    for entry in every:
        if (r := one_change(entry.weights, erasure.tensors)) is None:
            return []
        found.append(r)
    return found


KINDS: dict[str, Any] = {"pipeline": pipeline, "single": single, "lora": lora, "kohya": kohya}
KINDS |= {"delta": delta, "matrix": matrix}

MATRIX_PIPELINE = '''"""Every prompt is heard through one matrix: the erased is not heard."""

from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file


class ErasedPipeline(StableDiffusionPipeline):
    matrix = None

    def erase(self, path, strength=1.0):
        """Take the matrix of a file; strength 0 is the original, 1 the erasure."""
        self.matrix = load_file(path)["T"], strength
        return self

    def encode_prompt(self, *args, **kwargs):
        """What the text encoder says, and what is erased of it."""
        found = super().encode_prompt(*args, **kwargs)
        if self.matrix is None:
            return found
        t, strength = self.matrix
        return tuple(e if e is None else e + strength * (e @ t.to(e).mT - e) for e in found)
'''


def differences(erasure: Erasure, pipe: Pipeline) -> dict[str, Tensor]:
    """W' − W of every tensor that moves, float32 on the CPU."""
    erasure.check(pipe)
    base = dict(plain(denoiser(pipe)).named_parameters())
    of = erasure.tensors.items()
    every = {n: t.cpu().float() - base[n].detach().cpu().float() for n, t in of}
    return {name: d.contiguous() for name, d in every.items() if d.any()}


def licences(pipe: Pipeline) -> list[Path]:
    """The files of its licence in the folder of a pipeline's base."""
    base = getattr(pipe, "name_or_path", None)
    return sorted(Path(base).glob("LICEN[CS]E*")) if base else []


def licence(pipe: Pipeline) -> str:
    """The base's licence: as its README's front matter calls it, or the header of its single file,
    or a file there is named."""
    base, said = Path(getattr(pipe, "name_or_path", None) or "nowhere"), list[str]()
    if base.is_file():
        said = [ldm.heading(base)[1].get("modelspec.license", "")]
    elif front := re.match(r"---\n.*?\n---", read_text(base / "README.md"), re.DOTALL):
        said = re.findall(r"^license(?:_name)?: *[\"']?([\w.+-]+)", front[0], re.MULTILINE)
    files = [path.name for path in licences(pipe)]
    return next(one for one in [*said, *files, "of the base model"] if one not in ("", "other"))


def header(erasure: Erasure, pipe: Pipeline, kind: str) -> dict[str, str]:
    """What a file says of itself, by the keys of ModelSpec, of kohya, and our own."""
    c, titles = erasure.config, ", ".join(erasure.config.targets)
    base = str(getattr(pipe, "name_or_path", None) or "")
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": f"without {titles}",
        "modelspec.architecture": f"{family(pipe).name}/{kind}",
        "modelspec.license": licence(pipe),
        "modelspec.description": f"{titles} erased by {c.method}, strength {erasure.strength:g}",
        "ss_base_model_version": family(pipe).name,
        "ss_sd_model_name": Path(base).name,
        "base": erasure.base,
        "method": c.method,
        "targets": json.dumps(list(c.targets)),
        "strength": f"{erasure.strength:g}",
        "version": version("erase_lib"),
    }


def read_me(erasure: Erasure, pipe: Pipeline, kind: str, told: str) -> str:
    """A model card: front matter, what was erased, by what, at which strength."""
    c, titles = erasure.config, ", ".join(erasure.config.targets)
    base = Path(str(getattr(pipe, "name_or_path", None) or "unknown")).name
    tags = "".join(f"- {tag}\n" for tag in ("text-to-image", "concept-erasure", c.method))
    settings = "".join(f"- {k}: `{v}`\n" for k, v in c.to_dict().items())
    return f"""---
base_model: {json.dumps(base)}
library_name: diffusers
license: other
tags:
{tags}---

# Without {titles}

{titles} erased from {base} (fingerprint {erasure.base}) by {c.method}, strength
{erasure.strength:g}{", stopped before its last update" if erasure.partial else ""}. {told}
Nothing was measured when this was written. The licence is that of the base model.

{settings}"""
