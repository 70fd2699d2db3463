"""Noise prediction, guidance, sampling, and the trajectories training draws (z_t, t) from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from erase_lib.doors import gate
from erase_lib.errors import EraseError, check_range
from erase_lib.families import Pipeline, denoiser, family
from erase_lib.hold import held, placed
from erase_lib.models import latent_shape, precision, using
from erase_lib.text import encode_prompts


def sampler(pipe: Pipeline, steps: int, size: Sequence[int] = ()) -> Any:
    """A deterministic scheduler (DDIM, or Euler's of a flow) with the pipeline's noise schedule,
    set to `steps` timesteps. Raises `EraseError` for less than one step, or more than the model
    was trained with."""
    most = pipe.scheduler.config.num_train_timesteps
    if not 1 <= steps <= most:
        raise EraseError(f"{steps} sampling steps: expected 1 to {most}")
    return family(pipe).sampler(pipe, steps, size or latent_shape(pipe)[1:])


def alpha_bar(pipe: Pipeline, t: Tensor) -> Tensor:
    """ᾱ_t of each timestep, shaped `(n, 1, 1, 1)`; of a flow 1 − σ, the picture's share of z_t."""
    return family(pipe).share(pipe, t)


def prediction_type(pipe: Pipeline) -> str:
    """What the denoiser predicts: epsilon, v_prediction or flow."""
    return "flow" if family(pipe).flow else pipe.scheduler.config.prediction_type


def noised(clean: Tensor, epsilon: Tensor, a: Tensor, prediction_type: str) -> Tensor:
    """z_t = √ᾱ z₀ + √(1−ᾱ) ε, with a = ᾱ_t; of a flow (1−σ) z₀ + σ ε, with a = 1 − σ."""
    if prediction_type == "flow":
        return a * clean + (1 - a) * epsilon
    return a.sqrt() * clean + (1 - a).sqrt() * epsilon


def to_clean(output: Tensor, z: Tensor, a: Tensor, prediction_type: str) -> Tensor:
    """Predicted clean latent ẑ₀ from the denoiser's output at z_t, with a = ᾱ_t (flow: 1 − σ). ε:
    ẑ₀ = (z − √(1−ᾱ) ε) / √ᾱ · v: ẑ₀ = √ᾱ z − √(1−ᾱ) v (Salimans & Ho 2022, appendix D) · flow:
    ẑ₀ = z − σ (ε − z₀) (Lipman et al. 2023)."""
    if prediction_type == "flow":
        return z - (1 - a) * output
    if prediction_type == "v_prediction":
        return a.sqrt() * z - (1 - a).sqrt() * output
    return (z - (1 - a).sqrt() * output) / a.sqrt()


def output_weight(a: Tensor, prediction_type: str) -> Tensor:
    """What the square of a difference of ẑ₀ times it is that of the outputs behind: `to_clean` is
    linear in them. Of ε it is ᾱ/(1−ᾱ)."""
    return to_clean(torch.ones_like(a), torch.zeros_like(a), a, prediction_type) ** -2


def predict(pipe: Pipeline, z: Tensor, t: Tensor, embeddings: Tensor, scale: float = 1.0) -> Tensor:
    """The denoiser's raw output `(n, c, h, w)` in float32; autocast when the teacher is in half.
    `scale` is for those that take the guidance scale as an input."""
    dtype, device = precision(pipe), z.device.type
    half = dtype in (torch.bfloat16, torch.float16)
    # within an autocast of the caller's, its cache would keep weights that are trained since
    cast = torch.autocast(device, dtype if half else torch.bfloat16, half, cache_enabled=False)
    with held(denoiser(pipe), "drawing"), cast:
        return family(pipe).forward(pipe, z.to(dtype), t, embeddings.to(dtype), scale).float()


def predict_clean(
    pipe: Pipeline, z: Tensor, t: Tensor, embeddings: Tensor, a: Tensor | None = None
) -> Tensor:
    """ẑ₀ `(n, c, h, w)` by the weights in place, with ᾱ_t, or another `a`."""
    output = predict(pipe, z, t, embeddings)
    return to_clean(output, z, alpha_bar(pipe, t) if a is None else a, prediction_type(pipe))


def guided(
    pipe: Pipeline,
    z: Tensor,
    t: Tensor,
    embeddings: Tensor,
    empty: Tensor,
    scale: float,
    alone: bool = True,
) -> tuple[Tensor, Tensor]:
    """Guidance, u + scale · (c − u), and c alone, in one batch: 2 evaluations a sample. Where the
    scale is an input of the denoiser, c is what it predicts at 1, and asked for only if `alone`."""
    if family(pipe).guided == 1:
        output = predict(pipe, z, t, embeddings, scale)
        return output, predict(pipe, z, t, embeddings) if alone else output
    both = torch.cat([empty.expand_as(embeddings), embeddings])
    u, c = predict(pipe, torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
    return u + scale * (c - u), c


@torch.no_grad()
def trajectory(
    pipe: Pipeline,
    z: Tensor,
    embeddings: Tensor | Sequence[Tensor],
    empty: Tensor,
    steps: int,
    scale: float,
    predicted: list[Tensor] | None = None,
    skip: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Guided sampling from noise `z (n, c, h, w)`: yields (t, z_t) before each step, last (0, z_0).
    `embeddings` `(n, tokens, dim)`, or a list with those of each step. `predicted` is given ẑ₀ of
    them at each step, unguided. The first `skip` steps are left out."""
    scheduler = sampler(pipe, steps, z.shape[-2:])
    each = [embeddings] * steps if isinstance(embeddings, Tensor) else embeddings
    for t, c in list(zip(scheduler.timesteps, each, strict=True))[skip:]:
        yield t, z
        at = t.expand(len(z))
        output, conditional = guided(pipe, z, at, c, empty, scale, predicted is not None)
        if predicted is not None:
            predicted.append(to_clean(conditional, z, alpha_bar(pipe, at), prediction_type(pipe)))
        z = scheduler.step(output, t, z).prev_sample
    yield torch.zeros_like(t), z


def noise(pipe: Pipeline, n: int, g: torch.Generator, size: Sequence[int] | None = None) -> Tensor:
    """Pure noise `(n, c, h, w)`, drawn on the CPU so that every device sees the same; `size`: h and
    w, or else the model's own."""
    channels, *own = latent_shape(pipe)
    z = torch.randn(n, channels, *(size or own), generator=g, dtype=torch.float32)
    return z.to(denoiser(pipe).device)


def start_noise(pipe: Pipeline, seeds: list[int], size: tuple[int, int] | None = None) -> Tensor:
    """Pure noise `(n, c, h, w)`, each picture's from its own seed, whatever the batch."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.cat([noise(pipe, 1, g, size) for g in generators])


@torch.no_grad()
def decode(pipe: Pipeline, z: Tensor) -> list[Image.Image]:
    """The pictures of latents `z (n, c, h, w)`, unfolded by the autoencoder's decoder. Raises
    `EraseError` for latents or pictures that are NaN or infinite: they would be black."""
    z = z.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor + _shift(pipe)
    with placed([pipe.vae], z.device):
        drawn = pipe.vae.decode(z).sample.float().cpu()
    if not drawn.isfinite().all():
        hint = "load the model in float32, or lower the erasure's strength or lr"
        raise EraseError(f"the pictures are NaN or infinite in {pipe.vae.dtype}: {hint}")
    return pipe.image_processor.postprocess(drawn, output_type="pil")


@torch.no_grad()
def encode(pipe: Pipeline, pictures: list[Image.Image]) -> Tensor:
    """The latents `(n, c, h, w)` of pictures, the mean that the autoencoder's encoder gives."""
    x = pipe.image_processor.preprocess(pictures).to(denoiser(pipe).device, pipe.vae.dtype)
    with placed([pipe.vae], x.device):
        mean = pipe.vae.encode(x).latent_dist.mean.float()
    return (mean - _shift(pipe)) * pipe.vae.config.scaling_factor


def _shift(pipe: Pipeline) -> float:
    """What some autoencoders' latents are moved by, so that their mean is 0."""
    return pipe.vae.config.get("shift_factor") or 0.0


@gate
@torch.no_grad()
def generate(
    pipe: Pipeline,
    prompts: list[str],
    seed: int | Sequence[int] = 0,
    steps: int = 30,
    guidance_scale: float = 4.0,
    batch_size: int = 16,
    progress: bool | Callable[[float], object] = True,
    negative_prompt: str = "",
    size: tuple[int, int] | None = None,
) -> list[Image.Image]:
    """Pictures of the prompts: prompt i starts from seed + i, or from seed[i] of a list. No prompts
    give no pictures. `size`: height and width in pixels, or else the model's own. `progress`: a
    bar, or a function that after each batch is told the share that is done, and may raise. Raises
    `EraseError` for a number of seeds other than that of the prompts, steps or a batch size below
    1, a guidance scale that is not finite, a size or negative prompt that the model cannot take,
    and as `models.check_pipeline` and `decode`."""
    seeds = [seed + i for i in range(len(prompts))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(prompts):
        raise EraseError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one for each")
    if not math.isfinite(guidance_scale):
        raise EraseError(f"guidance_scale is {guidance_scale}: expected a finite number, such as 4")
    check_range("batch_size", batch_size, 1, 2**31 - 1)
    for one in {min(seeds, default=0), max(seeds, default=0)}:
        check_range("seed", one, 0, 2**63 - 1)
    with using(pipe, "drawing"):
        sampler(pipe, steps)  # says so when steps is out of range
        if negative_prompt and family(pipe).guided == 1:
            raise EraseError(f"{type(pipe).__name__} takes no negative_prompt: leave it out")
        unit = pipe.vae_scale_factor * (2 if family(pipe).patched else 1)
        if size and not all(0 < side <= 8192 and side % unit == 0 for side in size):
            raise EraseError(f"size is {size}: expected height and width, multiples of {unit}")
        high = size and (size[0] // pipe.vae_scale_factor, size[1] // pipe.vae_scale_factor)
        empty, pictures = encode_prompts(pipe, [negative_prompt]), list[Image.Image]()
        starts = range(0, len(prompts), batch_size)
        for a in tqdm(starts, desc="draw", disable=progress is not True, leave=False):
            part = slice(a, a + batch_size)
            embeddings = encode_prompts(pipe, prompts[part])
            z = start_noise(pipe, seeds[part], high)
            *_, (_, z) = trajectory(pipe, z, embeddings, empty, steps, guidance_scale)
            pictures.extend(decode(pipe, z))
            if callable(progress):
                progress(len(pictures) / len(prompts))
        return pictures
