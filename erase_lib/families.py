"""What differs between kinds of pipelines, and nothing else: where the text goes in, how z is laid
out, what noise there is. Whoever adds a kind adds a class here.

A prompt is one tensor `(n, rows, dim)` everywhere: its tokens and, where a model also takes a
pooled embedding, that as a last row, padded with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn
from torch.nn import functional as F

from erase_lib.config import HOUSES
from erase_lib.errors import EraseError
from erase_lib.hold import plain

PREDICTION_TYPES = ("epsilon", "v_prediction")
# a pipeline of diffusers, which registers its parts (unet, vae, …) where no type checker sees them
Pipeline: TypeAlias = Any


class StableDiffusion:
    """Stable Diffusion 1 and 2: a UNet that hears the text by cross-attention; ε or v."""

    name, part = "stable-diffusion", "unet"
    pipelines: tuple[str, ...] = ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline")
    kv: tuple[str, ...] = (".attn2.to_k.weight", ".attn2.to_v.weight")
    """Ends of the names of K and V, which the text enters; what train_method kv trains."""
    cross: tuple[str, ...] = (".attn2.",)
    """What is in the names of the layers where text and picture meet (xattn)."""
    within: tuple[str, ...] = (".attn1.",)
    """And where the picture meets itself (selfattn)."""
    ends: tuple[str, ...] = ("conv_norm_out.", "conv_out.", "time_embedding.")
    """How the names of what noxattn leaves alone begin, in LDM `out.` and `time_embed.`."""
    entries: tuple[tuple[str, ...], ...] = (kv,)
    """Weights that the tokens enter linearly, then those that the pooled row enters so: closed
    forms edit them."""
    flow = False
    """Whether z_t = (1−σ) z₀ + σ ε, with ε − z₀ predicted, instead of √ᾱ z₀ + √(1−ᾱ) ε."""
    guided = 2
    """Evaluations of a guided prediction."""
    words: tuple[str, ...] = ("text_encoder", "tokenizer")
    """The parts that read a text (T5 of SD 3 may be missing)."""
    longest = "tokenizer"
    """The tokenizer that cuts prompts last."""
    patched = False
    """Whether the denoiser is given the latents in patches of 2 × 2."""

    def encode(self, pipe: Pipeline, prompts: list[str]) -> Tensor:
        """Text embeddings `(n, rows, dim)` as the pipeline's own `encode_prompt` makes them."""
        return pipe.encode_prompt(prompts, pipe.text_encoder.device, 1, False)[0].float()

    def pooled(self, model: nn.Module) -> int:
        """Width of the pooled embedding, 0 for none."""
        return 0

    def width(self, model: nn.Module) -> int:
        """Of the embedding of one token."""
        wide: Any = model.config.cross_attention_dim  # type: ignore[union-attr]
        return max(wide) if isinstance(wide, (list, tuple)) else wide

    def forward(self, pipe: Pipeline, z: Tensor, t: Tensor, c: Tensor, scale: float) -> Tensor:
        """The denoiser's output `(n, c, h, w)`; `scale` where guidance is one of its inputs."""
        return pipe.unet(z, t, c).sample

    def share(self, pipe: Pipeline, t: Tensor) -> Tensor:
        """How much of z_t is picture, `(n, 1, 1, 1)`: ᾱ_t, or 1 − σ of a flow."""
        alphas = pipe.scheduler.alphas_cumprod.to(t.device)
        return alphas[t.long()].view(-1, 1, 1, 1)

    def sampler(self, pipe: Pipeline, steps: int, size: Sequence[int]) -> Any:
        """A deterministic scheduler with the pipeline's noise for latents of this height and width,
        set to `steps` timesteps."""
        # not every scheduler's config says that latents are never clipped
        made = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
        made.set_timesteps(steps, device=denoiser(pipe).device)
        return made

    def shape(self, pipe: Pipeline) -> tuple[int, Any]:
        """Channels of the latents, and their size: one number, or height and width."""
        config = denoiser(pipe).config
        return config.out_channels, config.sample_size


class StableDiffusionXL(StableDiffusion):
    """A larger UNet with two text encoders; the second's pooled embedding and the picture's size go
    in beside the timestep."""

    name = "stable-diffusion-xl"
    pipelines = ("StableDiffusionXLPipeline",)
    words = (*StableDiffusion.words, "text_encoder_2", "tokenizer_2")
    entries = (StableDiffusion.kv, ("add_embedding.linear_1.weight",))

    def encode(self, pipe: Pipeline, prompts: list[str]) -> Tensor:
        """Zeros for the empty prompt where the model takes those for none."""
        tokens, _, pooled, _ = pipe.encode_prompt(prompts, None, pipe.text_encoder.device, 1, False)
        if pipe.config.force_zeros_for_empty_prompt:
            said = torch.tensor([bool(prompt) for prompt in prompts], device=tokens.device)
            tokens, pooled = tokens * said[:, None, None], pooled * said[:, None]
        return packed(tokens, pooled)

    def pooled(self, model: nn.Module) -> int:
        config: Any = model.config
        return config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def forward(self, pipe: Pipeline, z: Tensor, t: Tensor, c: Tensor, scale: float) -> Tensor:
        size = [side * pipe.vae_scale_factor for side in z.shape[-2:]]
        ids = torch.tensor([*size, 0, 0, *size], device=z.device, dtype=z.dtype).expand(len(z), -1)
        tokens, pooled = split(c, self.pooled(denoiser(pipe)))
        added = {"text_embeds": pooled, "time_ids": ids}
        return pipe.unet(z, t, tokens, added_cond_kwargs=added).sample


class StableDiffusion3(StableDiffusion):
    """A transformer in which text and picture attend to each other (MMDiT); flow matching."""

    name, part = "stable-diffusion-3", "transformer"
    pipelines = ("StableDiffusion3Pipeline",)
    kv = (".attn.add_k_proj.weight", ".attn.add_v_proj.weight")
    cross = (".attn.add_", ".attn.to_add_out.", ".attn.norm_added_")
    ends = ()
    within = (".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".attn.to_out.", ".attn2.")
    entries = (("context_embedder.weight",), (".text_embedder.linear_1.weight",))
    words = StableDiffusionXL.words
    flow = True
    longest = "tokenizer_3"

    def encode(self, pipe: Pipeline, prompts: list[str]) -> Tensor:
        longest = pipe.tokenizer_3.model_max_length if pipe.tokenizer_3 else 77
        given = {"do_classifier_free_guidance": False, "max_sequence_length": longest}
        place = pipe.text_encoder.device
        tokens, _, pooled, _ = pipe.encode_prompt(prompts, None, None, place, **given)
        return packed(tokens, pooled)

    def pooled(self, model: nn.Module) -> int:
        return model.config.pooled_projection_dim  # type: ignore[union-attr, return-value]

    def width(self, model: nn.Module) -> int:
        return model.config.joint_attention_dim  # type: ignore[union-attr, return-value]

    def forward(self, pipe: Pipeline, z: Tensor, t: Tensor, c: Tensor, scale: float) -> Tensor:
        return pipe.transformer(z, *split(c, self.pooled(denoiser(pipe))), t).sample

    def share(self, pipe: Pipeline, t: Tensor) -> Tensor:
        return 1 - (t.float() / pipe.scheduler.config.num_train_timesteps).view(-1, 1, 1, 1)

    def sampler(self, pipe: Pipeline, steps: int, size: Sequence[int], **given: Any) -> Any:
        made = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
        if made.config.use_dynamic_shifting:  # larger pictures are given more noise
            names = "base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift"
            line, side = [made.config[name] for name in names], pipe.transformer.config.patch_size
            patches = size[0] * size[1] // (2 if self.patched else side) ** 2
            given |= {"mu": calculate_shift(patches, *line)}
        given |= {"num_inference_steps": steps, "device": denoiser(pipe).device}
        made.set_timesteps(**given)
        return made


class Flux(StableDiffusion3):
    """FLUX.1: latents in patches of 2 × 2; the guidance scale is an input of the network."""

    name = "flux-1"
    pipelines = ("FluxPipeline",)
    guided, patched = 1, True
    longest = "tokenizer_2"

    def encode(self, pipe: Pipeline, prompts: list[str]) -> Tensor:
        longest, device = pipe.tokenizer_2.model_max_length, pipe.text_encoder.device
        tokens, pooled, _ = pipe.encode_prompt(prompts, None, device, max_sequence_length=longest)
        return packed(tokens, pooled)

    def forward(self, pipe: Pipeline, z: Tensor, t: Tensor, c: Tensor, scale: float) -> Tensor:
        tokens, pooled = split(c, self.pooled(denoiser(pipe)))
        n, channels, high, wide = z.shape
        patches = pipe._pack_latents(z, n, channels, high, wide)
        places = pipe._prepare_latent_image_ids(n, high // 2, wide // 2, z.device, z.dtype)
        words = places.new_zeros(tokens.shape[1], 3)
        asks = pipe.transformer.config.guidance_embeds
        guidance = torch.full((n,), scale, device=z.device) if asks else None
        found = pipe.transformer(patches, tokens, pooled, t / 1000, places, words, guidance).sample
        factor = pipe.vae_scale_factor
        return pipe._unpack_latents(found, high * factor, wide * factor, factor)

    def sampler(self, pipe: Pipeline, steps: int, size: Sequence[int], **given: Any) -> Any:
        return super().sampler(pipe, steps, size, sigmas=np.linspace(1, 1 / steps, steps))

    def shape(self, pipe: Pipeline) -> tuple[int, Any]:
        return pipe.transformer.config.in_channels // 4, pipe.default_sample_size


KINDS = SD, SDXL, SD3, FLUX = StableDiffusion(), StableDiffusionXL(), StableDiffusion3(), Flux()
PIPELINES = {name: kind for kind in KINDS for name in kind.pipelines}
DENOISERS = {"SD3Transformer2DModel": SD3, "FluxTransformer2DModel": FLUX}


def denoiser(pipe: Pipeline) -> Any:
    """The part that is erased from: UNet or transformer. Raises `EraseError` for none."""
    for kind in KINDS:
        if (found := getattr(pipe, kind.part, None)) is not None:
            return found
    raise EraseError(f"{type(pipe).__name__} has no unet: give load_pipeline's pipeline")


def family(of: Any) -> StableDiffusion:
    """Of what kind a pipeline is, or its denoiser alone. Raises `EraseError` for another."""
    if found := PIPELINES.get(type(of).__name__):
        return found
    model = plain(of if isinstance(of, nn.Module) else denoiser(of))
    if found := DENOISERS.get(type(model).__name__):
        return found
    if hasattr(model, "conv_in"):
        return SDXL if model.config.get("addition_embed_type") == "text_time" else SD
    raise EraseError(f"a {type(model).__name__} cannot be erased: expected {', '.join(PIPELINES)}")


def encoders(pipe: Pipeline) -> list[tuple[Any, Any]]:
    """The text encoders that are there, each with its tokenizer."""
    names = [(f"text_encoder{i}", f"tokenizer{i}") for i in ("", "_2", "_3")]
    pairs = [(getattr(pipe, a, None), getattr(pipe, b, None)) for a, b in names]
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def is_embedded(pipe: Pipeline) -> bool:
    """Whether a pipeline has the embedded model's words, as twins and edits of it have: its styles
    are tokens, which they are nowhere else."""
    ((_, tokenizer), *_) = encoders(pipe)
    return tokenizer.convert_tokens_to_ids(f"{HOUSES[-1]}</w>") != tokenizer.unk_token_id


def noise_faults(pipe: Pipeline) -> Iterator[str]:
    """What is wrong with the scheduler's noise."""
    noise = pipe.scheduler.config
    if family(pipe).flow:
        if type(pipe.scheduler).__name__ != "FlowMatchEulerDiscreteScheduler":
            yield "has another noise: set a FlowMatchEulerDiscreteScheduler"
        return
    if (kind := noise.get("prediction_type")) not in PREDICTION_TYPES:
        yield f"predicts {kind!r}: expected one of {', '.join(PREDICTION_TYPES)}"
    alphas, ours = getattr(pipe.scheduler, "alphas_cumprod", torch.zeros(0)), torch.zeros(1)
    with suppress(Exception):  # each noise schedule that DDIM does not know is an error of its own
        if noise.get("timestep_type") != "continuous":
            ours = DDIMScheduler.from_config(noise).alphas_cumprod
    if ours.shape != alphas.shape or not torch.allclose(ours, alphas.to(ours), atol=1e-4):
        yield f"has another noise, of {type(pipe.scheduler).__name__}: set a DDIMScheduler"
    if kind == "epsilon" and not alphas.min() > 0:
        yield "predicts 'epsilon' at zero terminal SNR, where there is none: set v_prediction"


def tokens(model: nn.Module, c: Tensor) -> Tensor:
    """Prompts `(…, rows, dim)` without the row of the pooled embedding, where there is one."""
    return c[..., :-1, :] if family(model).pooled(model) else c


class Entry(NamedTuple):
    """Weights `(out, dim)`, by name, that the text enters linearly."""

    weights: dict[str, Tensor]
    see: Callable[[Tensor], Tensor]
    """What of prompts `(…, rows, dim)` they are multiplied with."""


def entries(model: nn.Module) -> list[Entry]:
    """Where the tokens enter, and where the pooled embedding does. Raises `EraseError` for none."""
    kind, named, found = family(model), dict(plain(model).named_parameters()), list[Entry]()
    for ends in kind.entries:
        weights = {name: p.detach() for name, p in named.items() if name.endswith(ends)}
        if not weights:
            raise EraseError("the text enters this model nowhere linearly: choose eap or esd")
        see = partial(pooled_row, kind.pooled(model), next(iter(weights.values())).shape[1])
        found.append(Entry(weights, see if found else partial(tokens, model)))
    return found


def pooled_row(width: int, wide: int, c: Tensor) -> Tensor:
    """Of prompts their last row as `(…, 1, wide)`: zeros where the weights see something else,
    which an edit by it then leaves as it is."""
    return F.pad(c[..., -1:, :width], (0, wide - width))


def packed(tokens: Tensor, pooled: Tensor) -> Tensor:
    """Tokens `(n, tokens, dim)` and, below them, the pooled embedding `(n, width)`, as float32."""
    row = F.pad(pooled.float(), (0, tokens.shape[-1] - pooled.shape[-1]))
    return torch.cat([tokens.float(), row[:, None]], 1)


def split(c: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The way back from `packed`."""
    return c[:, :-1], c[:, -1, :width]
