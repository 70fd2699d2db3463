"""Pipelines of every family with random weights, at their published shapes or as toys.

Nothing is downloaded: the sizes are those of the models' config.json files.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from erase_lib.models import EMBEDDED, Pipeline

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
CLIP_L |= {"num_attention_heads": 12, "max_position_embeddings": 77, "vocab_size": 49408}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
CLIP_G |= {"num_attention_heads": 20, "max_position_embeddings": 77, "vocab_size": 49408}
T5_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
VAE_8 = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 1024}
VAE_8 |= {"down_block_types": ("DownEncoderBlock2D",) * 4}
VAE_8 |= {"up_block_types": ("UpDecoderBlock2D",) * 4}

TINY_CLIP = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
TINY_CLIP |= {"num_attention_heads": 2, "max_position_embeddings": 16, "vocab_size": 16384}
TINY_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
TINY_VAE = {"block_out_channels": (8,), "norm_num_groups": 4, "sample_size": 4}

SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "sd": {  # v1.4
        "clip": CLIP_L,
        "vae": VAE_8 | {"sample_size": 512},
        "model": {
            "sample_size": 64,
            "block_out_channels": (320, 640, 1280, 1280),
            "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
    },
    "sdxl": {
        "clip": CLIP_L,
        "second": CLIP_G | {"projection_dim": 1280},
        "vae": VAE_8,
        "model": {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "cross_attention_dim": 2048,
        },
    },
    "sd3": {
        "clip": CLIP_L | {"projection_dim": 768},
        "second": CLIP_G | {"projection_dim": 1280},
        "t5": T5_XXL | {"vocab_size": 32128},
        "vae": VAE_8 | {"latent_channels": 16},
        "model": {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "out_channels": 16,
            "pos_embed_max_size": 192,
        },
    },
    "flux": {  # dev
        "clip": CLIP_L,
        "t5": T5_XXL | {"vocab_size": 32128},
        "vae": VAE_8 | {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159},
        "model": {
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
            "axes_dims_rope": (16, 56, 56),
        },
    },
}
TINY: dict[str, dict[str, dict[str, Any]]] = {
    "sd": {
        "clip": TINY_CLIP | {"num_hidden_layers": 1},
        "vae": TINY_VAE,
        "model": {
            "sample_size": 4,
            "block_out_channels": (16, 16),
            "down_block_types": ("CrossAttnDownBlock2D",) * 2,
            "up_block_types": ("CrossAttnUpBlock2D",) * 2,
            "layers_per_block": 1,
            "cross_attention_dim": 16,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
        },
    },
    "sdxl": {
        "clip": TINY_CLIP,
        "second": TINY_CLIP | {"projection_dim": 16},
        "vae": TINY_VAE,
        "model": {
            "sample_size": 8,
            "block_out_channels": (16, 16),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": (2, 4),
            "transformer_layers_per_block": (1, 2),
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
            "cross_attention_dim": 32,
            "norm_num_groups": 4,
        },
    },
    "sd3": {
        "clip": TINY_CLIP | {"projection_dim": 16},
        "second": TINY_CLIP | {"projection_dim": 16},
        "t5": TINY_T5 | {"vocab_size": 16384},
        "vae": TINY_VAE,
        "model": {
            "sample_size": 8,
            "patch_size": 1,
            "in_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 32,
            "out_channels": 4,
            "qk_norm": "rms_norm",
        },
    },
    "flux": {
        "clip": TINY_CLIP,
        "t5": TINY_T5 | {"vocab_size": 16384},
        "vae": TINY_VAE,
        "model": {
            "patch_size": 1,
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 16,
            "guidance_embeds": True,
            "axes_dims_rope": (4, 4, 8),
        },
    },
}
# what the prompt changes is small as initialised, less than bfloat16 rounds
LOUDER = (".attn2.to_v", ".attn2.to_out", "add_k_proj.w", "add_v_proj.w", "context_embedder.w")


def clip_tokenizer(most: int) -> CLIPTokenizer:
    """The embedded model's, which cuts after `most` tokens; it stands in for T5's too."""
    found = CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", local_files_only=True)
    found.model_max_length = most
    return found


def clip_config(shapes: dict[str, Any], act: str = "quick_gelu") -> CLIPTextConfig:
    """With the special tokens of `clip_tokenizer`."""
    marks = clip_tokenizer(8)
    ends = {
        f"{name}_token_id": getattr(marks, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    return CLIPTextConfig(**{"hidden_act": act} | ends | shapes)


def t5_encoder(shapes: dict[str, Any]) -> T5EncoderModel:
    """T5 of these shapes, with random weights."""
    return T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **shapes))


def random_family(
    name: str,
    shapes: dict[str, dict[str, Any]] | None = None,
    prediction_type: str = "epsilon",
) -> Pipeline:
    """A pipeline of Stable Diffusion, SDXL, SD 3 or FLUX with seeded random weights, float32 on the
    CPU; `shapes`: of `SHAPES`, or else a toy. The first alone predicts other than its kind."""
    torch.manual_seed(0)
    of = shapes or TINY[name]
    most = of["clip"]["max_position_embeddings"]
    words = {"tokenizer": clip_tokenizer(most), "tokenizer_2": clip_tokenizer(most)}
    if name == "sd":
        unet = UNet2DConditionModel(in_channels=4, out_channels=4, **of["model"])
        scheduler = DDIMScheduler(
            prediction_type=prediction_type,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            **NOISE,
        )
        made: Pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL(latent_channels=4, **of["vae"]),
            text_encoder=CLIPTextModel(clip_config(of["clip"])),
            tokenizer=words["tokenizer"],
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    elif name == "sdxl":
        second = CLIPTextModelWithProjection(clip_config(of["second"], "gelu"))
        unet = UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            use_linear_projection=True,
            addition_embed_type="text_time",
            **of["model"],
        )
        with torch.device("cpu"):  # though the weights be on none
            scheduler = EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **NOISE)
        made = StableDiffusionXLPipeline(
            vae=AutoencoderKL(latent_channels=4, **of["vae"]),
            text_encoder=CLIPTextModel(clip_config(of["clip"])),
            text_encoder_2=second,
            unet=unet,
            scheduler=scheduler,
            **words,
        )
    else:
        plain = {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 4}
        plain |= {"shift_factor": 0.0609, "scaling_factor": 1.5305}
        vae, t5 = AutoencoderKL(**plain | of["vae"]), t5_encoder(of["t5"])
        if name == "sd3":
            made = StableDiffusion3Pipeline(
                transformer=SD3Transformer2DModel(**of["model"]),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=vae,
                text_encoder=CLIPTextModelWithProjection(clip_config(of["clip"])),
                text_encoder_2=CLIPTextModelWithProjection(clip_config(of["second"], "gelu")),
                text_encoder_3=t5,
                tokenizer_3=clip_tokenizer(most),
                **words,
            )
        else:
            made = FluxPipeline(
                transformer=FluxTransformer2DModel(**of["model"]),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
                vae=vae,
                text_encoder=CLIPTextModel(clip_config(of["clip"])),
                text_encoder_2=t5,
                **words,
            )
            made.default_sample_size = 8 if shapes is None else made.default_sample_size
    model: nn.Module = getattr(made, "transformer", None) or made.unet
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if any(end in part for end in LOUDER):
                parameter.mul_(4)
    for module in made.components.values():
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
    made.set_progress_bar_config(disable=True)
    return made
