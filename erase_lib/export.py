"""An erasure for other tools: a whole pipeline, a LoRA, exact differences, or one matrix.

Every file says in its header what it is: base, method, targets, strength, licence, version.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from erase_lib.config import CLOSED_FORMS
from erase_lib.errors import EraseError, reason, unknown, unwritable
from erase_lib.families import Pipeline, denoiser, entries, family
from erase_lib.files import as_path, whole_folder
from erase_lib.hold import plain
from erase_lib.models import load_pipeline, precision, quiet

if TYPE_CHECKING:
    from erase_lib.erasure import Erasure

LOST, RANK = 0.02, 32  # share of the edit that a LoRA may leave out; its rank where that cannot be
# diffusers reads this name where it is given a folder
LORA = "pytorch_lora_weights.safetensors"


def write(erasure: Erasure, pipe: Pipeline, folder: Path, kind: str, rank: int | None) -> Path:
    """`Erasure.export`: the folder, with one of `KINDS` in it, whole or not at all."""
    if kind not in KINDS:
        raise unknown("kind of export", kind, KINDS)
    if rank is not None and kind != "lora":
        raise EraseError(
            f"rank is {rank}, but a {kind} has none: leave it out, or choose kind lora"
        )
    try:
        with whole_folder(folder) as temporary, quiet():
            told = KINDS[kind](erasure, pipe, temporary, **({} if rank is None else {"rank": rank}))
            card = read_me(erasure, pipe, kind, told)
            (temporary / "README.md").write_text(card, "utf-8")
            source = Path(str(getattr(pipe, "name_or_path", None) or ""))
            for path in source.glob("LICEN[CS]E*") if str(source) != "." else ():
                shutil.copyfile(path, temporary / path.name)  # the base's goes with it
    except EraseError:
        raise
    except Exception as error:  # diffusers, tokenizers and safetensors raise their own kinds
        raise unwritable(folder, error) from None
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


def lora(erasure: Erasure, pipe: Pipeline, folder: Path, rank: int | None = None) -> str:
    """Two thin matrices a layer, B A ≈ W' − W, with PEFT's keys and one rank for all layers.

    Without a `rank` the smallest that leaves out at most `LOST` of the edit, or else `RANK`; the
    share left out is a warning where it is more. Norms have no LoRA: `EraseError`.
    """
    moved = differences(erasure, pipe)
    if odd := [name for name, d in moved.items() if d.ndim == 1 and not name.endswith(".bias")]:
        raise EraseError(
            f"{len(odd)} of the edited tensors, the first {odd[0]}, are no matrices, and a LoRA"
            " holds only such: export kind delta or pipeline"
        )
    parts = {
        n: torch.linalg.svd(d.flatten(1).double(), False) for n, d in moved.items() if d.ndim > 1
    }
    if not parts:
        raise EraseError("this erasure moves no matrix: there is no LoRA of it")
    most = max(len(s) for _, s, _ in parts.values())
    full = sum(float(s.square().sum()) for _, s, _ in parts.values())

    def left(r: int) -> float:
        """Share of the edit's norm that rank r leaves out."""
        return (sum(float(s[r:].square().sum()) for _, s, _ in parts.values()) / full) ** 0.5

    if rank is None:
        rank = next((r for r in range(1, most + 1) if left(r) <= LOST), most)
        rank = rank if rank <= max(RANK, exact_rank(parts.values())) else min(RANK, most)
    if not 1 <= rank <= most:
        raise EraseError(f"rank is {rank}: expected 1 to {most}, at which this edit is whole")
    if (lost := left(rank)) > LOST:
        warnings.warn(
            f"a LoRA of rank {rank} leaves out {lost:.0%} of this edit: kind delta is exact",
            stacklevel=4,
        )
    tensors, where = dict[str, Tensor](), family(pipe).part
    for name, (u, s, v) in parts.items():
        layer, shape, root = name.removesuffix(".weight"), moved[name].shape, s[:rank].sqrt()
        up, down = torch.zeros(len(u), rank), torch.zeros(rank, v.shape[1])
        up[:, : len(root)], down[: len(root)] = u[:, :rank] * root, root[:, None] * v[:rank]
        ones = [1] * (len(shape) - 2)  # of a convolution the first of the two has its kernel
        tensors[f"{where}.{layer}.lora_A.weight"] = down.unflatten(1, shape[1:]).contiguous()
        tensors[f"{where}.{layer}.lora_B.weight"] = up.view(*up.shape, *ones).contiguous()
    biases = {n.removesuffix(".bias"): d for n, d in moved.items() if n.endswith(".bias")}
    if odd := [layer for layer in biases if f"{layer}.weight" not in parts]:
        raise EraseError(f"of {odd[0]} only the bias moves: export kind delta or pipeline")
    for name, (u, *_) in parts.items() if biases else ():  # where one has one, all must
        layer = name.removesuffix(".weight")
        tensors[f"{where}.{layer}.lora_B.bias"] = biases.get(layer, torch.zeros(len(u)))
    extra = {"ss_network_dim": str(rank), "ss_network_alpha": str(rank), "left_out": f"{lost:.4f}"}
    save_file(tensors, folder / LORA, header(erasure, pipe, "lora") | extra)
    return (
        f"A LoRA of rank {rank}, which leaves out {lost:.1%} of the edit:"
        f' `pipe.load_lora_weights("this folder")`. Its weight w is the strength.'
    )


def exact_rank(parts: Any) -> int:
    """The rank at which every matrix is whole, but for rounding."""
    return max(int((s > 1e-5 * s[0]).sum()) for _, s, _ in parts)


def delta(erasure: Erasure, pipe: Pipeline, folder: Path) -> str:
    """Every difference as it is, `lora_unet_….diff` and `.diff_b`, as ComfyUI and A1111 read it."""
    if family(pipe).flow:
        raise EraseError(f"a {type(pipe).__name__} has no such keys: export kind lora or pipeline")
    ends, tensors = {"weight": "diff", "bias": "diff_b"}, {}
    for name, d in differences(erasure, pipe).items():
        layer, _, leaf = name.rpartition(".")
        tensors[f"lora_unet_{layer.replace('.', '_')}.{ends[leaf]}"] = d
    extra = {"ss_network_module": "networks.lora"}
    save_file(tensors, folder / "erased_delta.safetensors", header(erasure, pipe, "delta") | extra)
    return "Exact differences, as a LoRA's file: put it where ComfyUI or A1111 look for LoRAs."


def matrix(erasure: Erasure, pipe: Pipeline, folder: Path) -> str:
    """T of a closed form, W' = W T: on the prompt's embeddings it does what the edit does."""
    if not (changes := matrices(erasure, pipe)):
        raise EraseError(
            f"this edit by {erasure.config.method} is not one T for all layers: export kind lora,"
            f" or erase by {', '.join(CLOSED_FORMS)}"
        )
    every = zip(("T", "T_pooled"), changes, strict=False)
    found = {name: (torch.eye(len(r)) + r.cpu()).float() for name, r in every}
    save_file(found, folder / "matrix.safetensors", header(erasure, pipe, "matrix"))
    (folder / "pipeline.py").write_text(MATRIX_PIPELINE, "utf-8")
    return (
        "One matrix, no weights touched: `pipe = DiffusionPipeline.from_pretrained(base,"
        ' custom_pipeline="this folder")`, then `pipe.erase("this folder/matrix.safetensors")`.'
    )


def matrices(erasure: Erasure, pipe: Pipeline) -> list[Tensor]:
    """T − 1 `(dim, dim)`, in float64, of each of `entries`: by least squares from an edit W' = W T
    of one T for all their layers, such as a closed form. [] for any other."""
    every, found = entries(denoiser(pipe)), list[Tensor]()
    if {name for entry in every for name in entry.weights} != set(erasure.tensors):
        return []
    for entry in every:
        w = torch.cat([w.double() for w in entry.weights.values()])
        moved = torch.cat([erasure.tensors[name].to(w) for name in entry.weights]) - w
        # singular where there are fewer rows than the text has dimensions
        r = torch.linalg.pinv(w.T @ w, hermitian=True) @ (w.T @ moved)
        # a base in half precision is rounded by some percent of what moved; of others most is left
        if not torch.dist(w @ r, moved) <= 0.03 * moved.norm():
            return []
        found.append(r)
    return found


KINDS = {"pipeline": pipeline, "lora": lora, "delta": delta, "matrix": matrix}

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
        return tuple(e if e is None else self.heard(e) for e in found)

    def heard(self, e):
        if self.matrix is None:
            return e
        t, strength = self.matrix
        return e + strength * (e @ t.to(e).mT - e)
'''


# what the keys of a layer's edit end in, and its parts' order: W' − W = up @ down · alpha / rank
UP, DOWN = ("lora_B.weight", "lora_up.weight"), ("lora_A.weight", "lora_down.weight")
BIAS, WHOLE = ("lora_B.bias", "diff_b"), ("diff",)


def edited(pipe: Pipeline, base: dict[str, Tensor], other: Any) -> dict[str, Tensor]:
    """The tensors of `Erasure.between`, float32 by the denoiser's names; `base` are its own."""
    if isinstance(other, (str, Path)):
        path = as_path(other)
        found = read_edit(path, base) if path.is_file() else None
        other = None if found else load_pipeline(path, device="cpu", dtype=precision(pipe))
    if other is not None:
        found = {n: p.detach() for n, p in plain(denoiser(other)).named_parameters()}
    assert found is not None
    for name, t in found.items():
        if name not in base or base[name].shape != t.shape:
            what = f"it has {name} {tuple(t.shape)}, which the loaded model has not"
            raise EraseError(f"this edit is of another base model: {what}")
    # an edit in half precision has rounded what it left alone
    moved = {n: t for n, t in found.items() if not torch.equal(base[n].to(t), t)}
    if not moved:
        raise EraseError("this edit changes no tensor of the loaded model: give what was edited")
    return {n: t.float().cpu().contiguous() for n, t in moved.items()}


def read_edit(path: Path, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The edited tensors of a .safetensors file, whatever its keys. Raises as `Erasure.between`."""
    try:
        given = load_file(path)
    except Exception as error:  # a pickle, or damaged
        raise EraseError(f"{path} is no safetensors file ({reason(error)})") from None
    if odd := [key for key in given if key.startswith(("lora_te", "text_encoder"))]:
        raise EraseError(f"{path} edits the text encoder too ({odd[0]}): an erasure holds none")
    whole = {key.removeprefix("unet.").removeprefix("transformer."): t for key, t in given.items()}
    if set(whole) <= set(base):
        return whole
    names = {n.rpartition(".")[0].replace(".", "_"): n.rpartition(".")[0] for n in base}
    layers = dict[str, dict[str, Tensor]]()
    for key, t in whole.items():
        end = next((e for e in (*UP, *DOWN, *BIAS, *WHOLE, "alpha") if key.endswith(f".{e}")), "")
        layer = names.get(key.removesuffix(f".{end}").removeprefix("lora_unet_").replace(".", "_"))
        if not end or layer is None:
            raise EraseError(f"{path} has {key}, which names no layer of the loaded model")
        layers.setdefault(layer, {})[end] = t.float()
    return {n: t for layer, parts in layers.items() for n, t in _applied(layer, parts, base)}


def _applied(
    layer: str, parts: dict[str, Tensor], base: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """A layer's edited weight and bias, from the parts of an edit by the ends of their keys."""
    up, down, bias, whole = (
        next((parts[end] for end in ends if end in parts), None) for ends in (UP, DOWN, BIAS, WHOLE)
    )
    weight = base[f"{layer}.weight"].float().cpu()
    if up is not None and down is not None:
        scale = float(parts.get("alpha", torch.tensor(len(down)))) / len(down)
        whole = scale * (up.flatten(1) @ down.flatten(1))
    if whole is not None:
        yield f"{layer}.weight", weight + whole.view_as(weight)
    if bias is not None and f"{layer}.bias" in base:
        yield f"{layer}.bias", base[f"{layer}.bias"].float().cpu() + bias


def differences(erasure: Erasure, pipe: Pipeline) -> dict[str, Tensor]:
    """W' − W of every tensor that moves, float32 on the CPU."""
    erasure.check(pipe)
    base = dict(plain(denoiser(pipe)).named_parameters())
    every = {
        n: t.cpu().float() - base[n].detach().cpu().float() for n, t in erasure.tensors.items()
    }
    return {name: d.contiguous() for name, d in every.items() if d.any()}


def header(erasure: Erasure, pipe: Pipeline, kind: str) -> dict[str, str]:
    """What a file says of itself, by the keys of ModelSpec, of kohya, and our own."""
    c, titles = erasure.config, ", ".join(erasure.config.targets)
    base = str(getattr(pipe, "name_or_path", None) or "")
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": f"without {titles}",
        "modelspec.architecture": f"{family(pipe).name}/{kind}",
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
