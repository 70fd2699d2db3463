"""Where a concept lives in the model: in which places, words, steps and layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from erase_lib.diffusion import decode, start_noise, trajectory
from erase_lib.errors import EraseError, unknown
from erase_lib.families import Pipeline, denoiser
from erase_lib.hold import held, plain
from erase_lib.models import latent_shape, using
from erase_lib.text import encode_prompts


def cross_layers(unet: nn.Module) -> dict[str, nn.Module]:
    """The cross-attention layers, in the order of the forward pass: down, middle, up."""
    found = {n: m for n, m in plain(unet).named_modules() if n.endswith(".attn2")}
    return dict(sorted(found.items(), key=lambda item: item[0].split("_")[0]))  # as in the alphabet


@contextmanager
def _hooked(layers: Mapping[str, nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """`hook(name, layer, args, kwargs)` before each of these layers, within the block."""
    with ExitStack() as stack:
        for n, m in layers.items():
            stack.enter_context(m.register_forward_pre_hook(partial(hook, n), with_kwargs=True))
        yield


@contextmanager
def attention_maps(pipe: Pipeline) -> Iterator[dict[str, Tensor]]:
    """Within the block, how much each place of the picture listens to each token, by layer, at the
    UNet's latest evaluation: `(n, tokens, h, w)`, softmax(Q Kᵀ / √d) averaged over the heads, so
    that a place's weights sum to 1 (after Tang et al. 2023, DAAM)."""
    maps: dict[str, Tensor] = {}

    @torch.no_grad()
    def record(name: str, layer: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        places, text = args[0], kwargs["encoder_hidden_states"]
        query = layer.head_to_batch_dim(layer.to_q(places))
        key = layer.head_to_batch_dim(layer.to_k(text))
        weights = layer.get_attention_scores(query, key)  # (n heads, places, tokens)
        mean = weights.float().unflatten(0, (len(places), -1)).mean(1)
        _, high, wide = latent_shape(pipe)
        side = round((mean.shape[1] * high / wide) ** 0.5)
        maps[name] = mean.transpose(1, 2).unflatten(2, (side, -1))

    with using(pipe, "listening"), _hooked(cross_layers(denoiser(pipe)), record):
        yield maps


def averaged(maps: Mapping[str, Tensor], size: int) -> Tensor:
    """The layers' maps brought to one size and averaged: `(n, tokens, size, size)`."""
    scaled = [F.interpolate(m, (size, size), mode="bilinear") for m in maps.values()]
    return torch.stack(scaled).mean(0)


@contextmanager
def heard(unet: nn.Module, layers: Sequence[str], embeddings: Tensor) -> Iterator[None]:
    """Let some layers hear another prompt: `embeddings (n, tokens, dim)` in place of their own,
    after Voynov et al. 2023 (P+). The empty prompt's half, first in a batch with guidance, is left
    as it is. Raises `EraseError` for a layer that is none of `cross_layers`."""
    known = cross_layers(unet)
    if strange := [name for name in layers if name not in known]:
        raise unknown("cross-attention layer", strange[0], known)

    def change(name: str, layer: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
        own = kwargs["encoder_hidden_states"]
        text = torch.cat([own[: len(own) - len(embeddings)], embeddings.to(own.dtype)])
        return args, kwargs | {"encoder_hidden_states": text}

    with held(unet, "hearing"), _hooked({name: known[name] for name in layers}, change):
        yield


@torch.no_grad()
def draw_embeddings(
    pipe: Pipeline, embeddings: Sequence[Tensor], seeds: Sequence[int], guidance_scale: float = 4.0
) -> list[Image.Image]:
    """Pictures by guided DDIM, of an embedding `(n, tokens, dim)` for each step: the same one again
    and again, or another on the way (prompt switching, as in Hertz et al. 2022). Raises
    `EraseError` for no step and for a number of seeds other than n."""
    steps, n = len(embeddings), len(embeddings[0]) if len(embeddings) else 0
    if n == 0 or len(seeds) != n:
        given = f"{steps} embeddings of {n} prompts and {len(seeds)} seeds"
        raise EraseError(f"{given}: expected one embedding or more, a seed for each prompt")
    with using(pipe, "drawing"):
        z, empty = start_noise(pipe, list(seeds)), encode_prompts(pipe, [""])
        *_, (_, z) = trajectory(pipe, z, embeddings, empty, steps, guidance_scale)
        return decode(pipe, z)


def switched(first: Tensor, second: Tensor, steps: int) -> list[Tensor]:
    """What each step hears, for `draw_embeddings`: `steps` tensors `(steps + 1, tokens, dim)`, of
    which row k hears the first embedding `(1, tokens, dim)` for k steps and then the second."""
    rows = range(steps + 1)
    return [torch.cat([first if step < k else second for k in rows]) for step in range(steps)]
