"""Names of the latent diffusion code (LDM), by which A1111 and ComfyUI know a model's weights and
its layers; CLIP's are those of its own code, OpenCLIP's of theirs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn

from erase_lib.errors import EraseError, reason
from erase_lib.families import SDXL, Pipeline, denoiser, family
from erase_lib.hold import plain

UNET, VAE = "model.diffusion_model.", "first_stage_model."
OUTSIDE = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
OUTSIDE |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
OUTSIDE |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
RESNET |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
PARTS = "resnets|attentions|downsamplers|upsamplers"
LAYER = re.compile(rf"(down|mid|up)_blocks?(?:\.(\d+))?\.({PARTS})\.(\d+)\.(.+)\.(\w+)")
# each in turn, of a whole name
CODER = {
    r"conv_norm_out": "norm_out",
    r"conv_shortcut": "nin_shortcut",
    r"(down|up)_blocks\.(\d+)\.resnets": r"\1.\2.block",
    r"(down|up)_blocks\.(\d+)\.(down|up)samplers\.0": r"\1.\2.\3sample",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"attentions\.0\.group_norm": "attentions.0.norm",
    r"attentions\.0\.to_([qkv])": r"attentions.0.\1",
    r"attentions\.0\.to_out\.0": "attentions.0.proj_out",
    r"mid_block\.attentions\.0": "mid.attn_1",
}
OPEN_CLIP = {
    r"embeddings\.position_embedding\.weight": "positional_embedding",
    r"embeddings\.token_embedding": "token_embedding",
    r"final_layer_norm": "ln_final",
    r"text_projection\.weight": "text_projection",
    r"encoder\.layers": "transformer.resblocks",
    r"layer_norm([12])": r"ln_\1",
    r"mlp\.fc1": "mlp.c_fc",
    r"mlp\.fc2": "mlp.c_proj",
    r"self_attn\.[qkv]_proj\.": "attn.in_proj_",  # the three in one
    r"self_attn": "attn",
}
# what the keys of a single file begin with where it holds the part
HELD = {
    "unet": (UNET,),
    "transformer": (UNET, "double_blocks.", "joint_blocks.", "transformer_blocks."),
    "vae": (VAE, "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g.", "text_encoders.t5xxl."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}


def unet_names(unet: nn.Module) -> dict[str, str]:
    """LDM's name of each of a UNet's parameters. Raises `EraseError` for one that has none."""
    names, config = [name for name, _ in plain(unet).named_parameters()], plain(unet).config
    rows: Any = config.layers_per_block
    return {name: _unet_name(name, rows, names) for name in names}


def _unet_name(name: str, rows: Any, names: list[str]) -> str:
    layer, _, leaf = name.rpartition(".")
    if layer in OUTSIDE:
        return f"{OUTSIDE[layer]}.{leaf}"
    found = LAYER.fullmatch(name)
    if not found or type(rows) is not int or found[3] == "resnets" and found[5] not in RESNET:
        raise EraseError(f"{name} has no name in LDM's keys: export kind pipeline or lora")
    side, block, part, i, rest, leaf = found.groups()
    rest = RESNET[rest] if part == "resnets" else rest
    at, first = int(block or 0) * (rows + 1), {"resnets": 0, "attentions": 1}
    if side == "mid":
        head = f"middle_block.{1 if part == 'attentions' else 2 * int(i)}"
    elif part == "downsamplers":
        head, rest = f"input_blocks.{at + rows + 1}.0", "op"
    elif part == "upsamplers":  # after an attention, where there is one
        attends = any(n.startswith(f"up_blocks.{block}.attentions.") for n in names)
        head = f"output_blocks.{at + rows}.{2 if attends else 1}"
    elif side == "down":
        head = f"input_blocks.{at + 1 + int(i)}.{first[part]}"
    else:
        head = f"output_blocks.{at + int(i)}.{first[part]}"
    return f"{head}.{rest}.{leaf}"


def layer_keys(pipe: Pipeline) -> dict[str, str]:
    """Of each layer of a UNet what kohya's keys begin with: by the names of diffusers for SD 1 and
    2, by LDM's for SDXL. Raises `EraseError` for a transformer, which has none."""
    if family(pipe).flow:
        raise EraseError(f"a {type(pipe).__name__} has no such keys: export kind lora or pipeline")
    model = denoiser(pipe)
    own = {name: name for name, _ in plain(model).named_parameters()}
    names = unet_names(model) if family(pipe) is SDXL else own
    return {layer(n): f"lora_unet_{layer(new).replace('.', '_')}" for n, new in names.items()}


def layer(name: str) -> str:
    """The name of the layer that a parameter is of."""
    return name.rpartition(".")[0]


def renamed(name: str, rules: dict[str, str]) -> str:
    """A name after every one of these rules."""
    for old, new in rules.items():
        name = re.sub(old, new, name)
    return name


def whole(pipe: Pipeline) -> dict[str, Tensor]:
    """Every weight of a pipeline by LDM's keys; of one with a transformer only its own, which
    ComfyUI reads by the names of diffusers. Raises as `unet_names`."""
    model = plain(denoiser(pipe))
    if family(pipe).flow:
        return model.state_dict()
    found, noise = dict[str, Tensor](), pipe.scheduler.config
    if family(pipe) is SDXL and noise.prediction_type == "v_prediction":
        found["v_pred"] = torch.zeros(0)  # by which ComfyUI knows it, and its noise
        found |= {"ztsnr": torch.zeros(0)} if noise.get("rescale_betas_zero_snr") else {}
    return found | unet_weights(model) | vae_weights(pipe.vae) | words(pipe)


def words(pipe: Pipeline) -> dict[str, Tensor]:
    """Weights of the text encoders by LDM's keys: CLIP's by its own names, those of OpenCLIP (SD 2,
    the second of SDXL; told by its GELU) with Q, K and V in one."""
    found = dict[str, list[Tensor]]()
    for i, name in enumerate(n for n in family(pipe).words if n.startswith("text_encoder")):
        encoder = plain(getattr(pipe, name))
        home = f"conditioner.embedders.{i}." if family(pipe) is SDXL else "cond_stage_model."
        own = {n.removeprefix("text_model."): p for n, p in encoder.named_parameters()}
        if encoder.config.hidden_act == "quick_gelu":
            found |= {f"{home}transformer.text_model.{n}": [p] for n, p in own.items()}
            continue
        for n in sorted(own, key=lambda n: n.replace("q_proj", "first")):
            # which is multiplied with from the other side there
            tensor = own[n].mT if n.startswith("text_projection") else own[n]
            found.setdefault(f"{home}model.{renamed(n, OPEN_CLIP)}", []).append(tensor)
    return {key: torch.cat(parts) for key, parts in found.items()}


def unet_weights(unet: nn.Module) -> dict[str, Tensor]:
    """A UNet's weights by LDM's keys. Raises as `unet_names`."""
    names = unet_names(unet)
    return {UNET + names[name]: p for name, p in plain(unet).named_parameters()}


def vae_weights(vae: nn.Module) -> dict[str, Tensor]:
    """A VAE's weights by LDM's keys, where the decoder's blocks count from the end and attention
    is of convolutions."""
    found, last = dict[str, Tensor](), len(plain(vae).config.up_block_types) - 1
    for name, tensor in plain(vae).named_parameters():
        wide = ".attentions." in name and tensor.ndim == 2
        name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up_blocks.{last - int(m[1])}", name)
        found[VAE + renamed(name, CODER)] = tensor[..., None, None] if wide else tensor
    return found


def read(file: Path, kind: Any, source: str, variant: str | None = None, **given: Any) -> Pipeline:
    """A single file's pipeline of this kind, configured as `source`, whose parts may be given, and
    their variant. Raises `EraseError` for tensors that it lacks, and one that predicts else."""
    held, said = heading(file)
    try:
        pipe = kind.from_single_file(str(file), config=source, **given)
    except NotImplementedError:  # diffusers moves weights that it has not
        asked, there = ["what cannot be named"], {re.sub(r"^vae\.", VAE, key) for key in held}
        named: Any = {"unet": (UNet2DConditionModel, unet_weights)}
        for name, (made, weights) in (named | {"vae": (AutoencoderKL, vae_weights)}).items():
            if (Path(source) / name).is_dir():
                with torch.device("meta"):
                    asked += weights(made.from_config(made.load_config(source, subfolder=name)))
        raise _lacks(file, [key for key in asked[1:] if key not in there] or asked) from None
    parts = {n: part for n, part in pipe.components.items() if isinstance(part, nn.Module)}
    for part in parts.values():  # T5's embeddings stand in a file but once
        getattr(part, "tie_weights", dict)()
    if lost := [f"{n}.{k}" for n, x in parts.items() for k, p in x.named_parameters() if p.is_meta]:
        raise _lacks(file, lost)
    predicts = said.get("modelspec.prediction_type") or ("v" if "v_pred" in held else "")
    own = pipe.scheduler.config.get("prediction_type") or predicts
    if predicts[:1] != own[:1] and predicts:
        what = f"{file} predicts {predicts!r}, but {source} {own!r}"
        raise EraseError(f"{what}: give another config=")
    pipe.register_to_config(_name_or_path=str(file))
    return pipe


def _lacks(file: Path, lost: list[str]) -> EraseError:
    return EraseError(f"{file} is damaged: it lacks {len(lost)} tensors, the first {lost[0]}")


def heading(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a .safetensors file holds, without its numbers, and what it says of itself. Raises
    `EraseError` for another file."""
    try:
        if path.suffix != ".safetensors":
            raise ValueError(f"its name ends in {path.suffix!r}")
        with safe_open(path, "pt") as file:
            every = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            said = file.metadata() or {}
    except Exception as error:  # damaged, or a pickle
        hint = "a pickle such as .ckpt runs code when it is read, so it is not: convert it first"
        raise EraseError(f"{path} is no safetensors file ({reason(error)}): {hint}") from None
    return {name: torch.empty(shape, device="meta") for name, shape in every.items()}, said
