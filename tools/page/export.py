"""A pipeline for a browser: its three parts as ONNX graphs, and their weights beside them.

The page reads the weights into float32 itself, so that one graph serves every precision: 16 bits
are the shipped weights exactly, 8 are whole numbers that share a scale by the block.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from diffusers.models.attention_processor import AttnProcessor
from onnx.external_data_helper import set_external_data
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from erase_lib.errors import EraseError
from erase_lib.families import SD, Pipeline, family
from erase_lib.models import latent_shape

BLOCK = 64  # weights that share a scale, as in page/worker.js
SMALL = 1024  # tensors with fewer values stay in the graph
TRAINED = ("num_train_timesteps", "steps_offset", "prediction_type")


class Part(nn.Module):
    """One part of a pipeline as a graph wants it: named tensors in, one tensor out."""

    def __init__(self, model: nn.Module, call: Callable[..., Tensor], **given: Tensor) -> None:
        super().__init__()
        self.model, self.call, self.given = model, call, given

    def forward(self, *given: Tensor) -> Tensor:
        """What the part makes of an example of `given`."""
        return self.call(self.model, *given)


class Weights(NamedTuple):
    """A graph whose weights lie outside it, one after the other, as `values` in float32."""

    graph: bytes
    values: np.ndarray


def parts(pipe: Pipeline) -> Iterator[tuple[str, Part]]:
    """Text encoder, UNet (for the empty prompt and the prompt at once) and the VAE's decoder. Their
    attention is spelt out from now on: of the fused one's graph WebGPU's runtime lacks a part."""
    pipe.text_encoder.set_attn_implementation("eager")
    pipe.unet.set_attn_processor(AttnProcessor())
    shape, length = latent_shape(pipe), pipe.tokenizer.model_max_length
    scale, shift = pipe.vae.config.scaling_factor, pipe.vae.config.get("shift_factor") or 0.0
    ids = torch.zeros(1, length, dtype=torch.int32)
    c = torch.zeros(2, length, SD.width(pipe.unet))
    yield "text", Part(pipe.text_encoder, lambda m, ids: m(ids.long())[0], ids=ids)
    given = {"z": torch.zeros(2, *shape), "t": torch.ones(1), "c": c}
    yield "unet", Part(pipe.unet, lambda m, z, t, c: m(z, t, c).sample, **given)
    decode = Part(
        pipe.vae, lambda m, z: m.decode(z / scale + shift).sample, z=c.new_zeros(1, *shape)
    )
    yield "vae", decode


def fold(graph: onnx.GraphProto) -> None:
    """Work out what hangs on small constants alone: WebGPU's runtime has no kernel for some of it.
    The weights stay as they are in torch, which `as_shipped` relies on."""
    small = (t for t in graph.initializer if np.prod(t.dims) < SMALL)
    known, kept = {t.name: onnx.numpy_helper.to_array(t) for t in small}, []
    folded = set[str]()
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
            folded.add(node.output[0])
        elif node.input and known.keys() >= set(node.input):
            given = {name: known[name] for name in node.input}
            known |= zip(node.output, ReferenceEvaluator(node).run(None, given), strict=True)
            folded |= set(node.output)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    for name in sorted(folded & {name for node in kept for name in node.input}):
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(known[name]), name))


@torch.no_grad()
def graph(part: Part) -> Weights:
    """The part as ONNX, which names its output `out`."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is fixed by tracing: the sizes, as meant
        names: dict[str, Any] = {"input_names": list(part.given), "output_names": ["out"]}
        example = tuple(part.given.values())
        names |= {"opset_version": 18, "dynamo": False, "do_constant_folding": False}
        torch.onnx.export(part.eval(), example, file, **names)
    model = onnx.load_from_string(file.getvalue())
    fold(model.graph)
    found, at = [np.empty(0, np.float32)], 0
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= SMALL:
            set_external_data(tensor, "weights", at, values.nbytes)
            tensor.ClearField("raw_data")
            found.append(values.ravel())
            at += values.nbytes
    return Weights(model.SerializeToString(), np.concatenate(found))


def rounded(values: np.ndarray, bits: int) -> tuple[np.ndarray, ...]:
    """The values `(n,)` in 16 bits, or in 8: a scale of 16 bits for each block, then whole numbers
    from −127 to 127, the last block filled with 0."""
    if bits == 16:
        return (values.astype("<f2"),)
    blocks = np.pad(values, (0, -len(values) % BLOCK)).reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(1) / 127).astype("<f2")
    steps = blocks / np.maximum(scales.astype(np.float32), 1e-12)[:, None]
    return scales, np.rint(steps).clip(-127, 127).astype(np.int8)


def read(arrays: tuple[np.ndarray, ...], count: int) -> np.ndarray:
    """What the page makes of `rounded`, in float32."""
    if len(arrays) == 1:
        return arrays[0].astype(np.float32)
    scales, steps = arrays
    return (steps * scales.astype(np.float32)[:, None]).ravel()[:count]


def as_shipped(pipe: Pipeline, bits: int) -> Pipeline:
    """The pipeline itself, its weights now those that the page reads."""
    for _, part in parts(pipe):
        large = [p for p in part.model.parameters() if p.numel() >= SMALL]
        every = (p.detach().numpy().ravel() for p in large)
        values = np.concatenate([np.empty(0, np.float32), *every])
        whole = torch.from_numpy(read(rounded(values, bits), len(values)))
        for p, found in zip(large, whole.split([p.numel() for p in large]), strict=True):
            p.data = found.view(p.shape).clone()
    return pipe


def text64(*arrays: np.ndarray | bytes) -> str:
    """Bytes as a script can hold them: gzip, and four letters for three bytes."""
    raw = b"".join(a if isinstance(a, bytes) else a.tobytes() for a in arrays)
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()


def exported(pipe: Pipeline, bits: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each part by name: its graph, and its weights in so many bits. Raises `EraseError` for a
    pipeline of another kind."""
    if family(pipe) is not SD:
        raise EraseError(f"a {family(pipe).name} is no model for a page: expected {SD.name}")
    for name, part in parts(pipe):
        made = graph(part)
        weights = text64(*rounded(made.values, bits))
        told = {"graph": text64(made.graph), "weights": weights}
        yield name, told | {"bits": bits, "count": len(made.values)}


def told(pipe: Pipeline) -> dict[str, Any]:
    """What the page must know of the model: sizes, noise schedule, and the tokenizer's words."""
    noise, tokenizer = pipe.scheduler, pipe.tokenizer
    if noise.config.get("timestep_spacing") != "leading":
        raise EraseError(
            f"timesteps are {noise.config.get('timestep_spacing')!r}: expected leading"
        )
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "latent": latent_shape(pipe),
        "pixels": latent_shape(pipe)[1] * pipe.vae_scale_factor,
        "width": SD.width(pipe.unet),
        "noise": {name: noise.config[name] for name in TRAINED}
        | {"alphas": noise.alphas_cumprod.tolist(), "last": float(noise.final_alpha_cumprod)},
        "tokenizer": {
            "vocabulary": ids,
            "merges": [" ".join(pair) for pair in model["merges"]],
            "length": tokenizer.model_max_length,
            "start": tokenizer.bos_token,
            "end": tokenizer.eos_token,
        },
    }
