"""What others edited, read from a pipeline, a folder or a file: the tensors of an erasure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from erase_lib import ldm
from erase_lib.errors import EraseError
from erase_lib.families import Pipeline, denoiser
from erase_lib.files import sought
from erase_lib.hold import plain
from erase_lib.models import load_pipeline, precision

# what the keys of a layer's edit end in, and its parts' order: W' − W = up @ down · alpha / rank
UP, DOWN = ("lora_B.weight", "lora_up.weight"), ("lora_A.weight", "lora_down.weight")
BIAS, WHOLE = ("lora_B.bias", "diff_b"), ("diff",)
# what begins with names of LDM
LDM = re.compile(
    r"(model\.diffusion_model\.|lora_unet_)"
    r"(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)[._]\d"
)


def edited(pipe: Pipeline, base: dict[str, Tensor], other: Any) -> dict[str, Tensor]:
    """The tensors of `Erasure.between`, float32 by the denoiser's names; `base` are its own."""
    if isinstance(other, (str, Path)):
        path = sought(other)
        found = read_edit(path, base, pipe) if path.is_file() else None
        other = None if found else load_pipeline(path, device="cpu", dtype=precision(pipe))
    if other is not None:
        found = {n: p.detach() for n, p in plain(denoiser(other)).named_parameters()}
    assert found is not None
    for name, t in found.items():
        if name not in base or base[name].shape != t.shape:
            what = f"it has {name} {tuple(t.shape)}, which the loaded model has not"
            raise EraseError(f"this edit is of another base model: {what}")
    moved = {n: t for n, t in found.items() if not same(base[n], t)}
    if not moved:
        raise EraseError("this edit changes no tensor of the loaded model: give what was edited")
    return {n: t.float().cpu().contiguous() for n, t in moved.items()}


def read_edit(path: Path, base: dict[str, Tensor], pipe: Pipeline) -> dict[str, Tensor]:
    """The edited tensors of a .safetensors file, whatever its keys. Raises as `Erasure.between`."""
    model, inside = plain(denoiser(pipe)), ldm.heading(path)[0]
    given, names = from_bytes(load_file(path)), {name: name for name in base}
    odd = [key for key in given if key.startswith(("lora_te", "text_encoder"))]
    if any(LDM.match(key) for key in given):
        names |= {key: name for name, key in ldm.unet_names(model).items()}
    if any(key.startswith(ldm.UNET) for key in inside):  # a whole model
        odd = [k for k, t in ldm.words(pipe).items() if k in given and not same(t, given[k])]
        given = {k.removeprefix(ldm.UNET): t for k, t in given.items() if k.startswith(ldm.UNET)}
    if odd:
        raise EraseError(f"{path} edits the text encoder too ({odd[0]}): an erasure holds none")
    no_weights = set(model.state_dict()) - set(base)
    whole = {key.removeprefix("unet.").removeprefix("transformer."): t for key, t in given.items()}
    whole = {key: t for key, t in whole.items() if key not in no_weights}
    found = {names[key]: whole.pop(key) for key in list(whole) if key in names}
    names = {ldm.layer(key).replace(".", "_"): ldm.layer(name) for key, name in names.items()}
    layers = dict[str, dict[str, Tensor]]()
    for key, t in whole.items():
        end = next((e for e in (*UP, *DOWN, *BIAS, *WHOLE, "alpha") if key.endswith(f".{e}")), "")
        layer = names.get(key.removesuffix(f".{end}").removeprefix("lora_unet_").replace(".", "_"))
        if not end or layer is None:
            raise EraseError(f"{path} has {key}, which names no layer of the loaded model")
        layers.setdefault(layer, {})[end] = t.float()
    edited = (_applied(layer, parts, base) for layer, parts in layers.items())
    return found | {name: t for pairs in edited for name, t in pairs}


def from_bytes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What was stored in 8 bits is int8 times its row's `NAME.scale`; all else is as it is."""
    small = [n for n, t in tensors.items() if t.dtype == torch.int8 and f"{n}.scale" in tensors]
    rows = {n: tensors.pop(f"{n}.scale").float() for n in small}
    return tensors | {n: (tensors[n].flatten(1) * rows[n]).view_as(tensors[n]) for n in small}


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same but for the rounding of either's dtype."""
    return torch.equal(a.to(b), b) or torch.equal(a, b.to(a))


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
