"""Assemble data/models from the trained parts as stock folders, fp16 safetensors; and take them
apart again.

The latents' whitening is folded into the VAE's quant convolutions, so that stock diffusers needs
nothing of ours.
"""

from __future__ import annotations

import argparse
import atexit
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer, ResNetModel

from erase_lib.errors import EraseError, unknown
from erase_lib.files import FINGERPRINT, whole
from erase_lib.models import fingerprint
from tools import one_line
from tools.embedded import common
from tools.embedded.clip import TOKENS
from tools.embedded.unet import new_scheduler
from tools.embedded.vae import save_latents

MODELS = common.DATA / "models"
PROFILES = ("smoke", "course", "full")


@torch.no_grad()
def fold_whitening(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Make the encoder give (z − mean) / std and the decoder expect it, exactly."""
    c = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:c] /= std[:, None, None, None]
    quant.bias[:c] = (quant.bias[:c] - mean) / std
    quant.bias[c:] -= 2 * std.log()  # the log-variance of z / std
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)


def export(work: Path, models: Path = MODELS, unet: str = "unet") -> None:
    """Write emoji-diffusion and emoji-clip; each is built beside its place and then renamed.

    `unet`: the folder in `work` of another UNet on the same latents, such as a twin's.
    """
    saved = common.load_latents(work)
    decoder = work / "vae_sharp"  # the longer-trained decoder, once there is one
    vae = AutoencoderKL.from_pretrained(decoder if decoder.exists() else work / "vae")
    fold_whitening(vae, saved["mean"], saved["std"])
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(work / "text"),
        tokenizer=CLIPTokenizer.from_pretrained(work / "text", model_max_length=TOKENS),
        unet=UNet2DConditionModel.from_pretrained(work / unet),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder, new = models / "emoji-diffusion", models / "emoji-diffusion.new"
    shutil.rmtree(new, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(new)
    for part in ("unet", "vae"):
        common.amend_config(new / part / "config.json")
    # without this a plain from_pretrained loads the text encoder in half and the rest in float32,
    # and fails
    common.amend_config(new / "text_encoder" / "config.json", dtype="float32")
    (new / FINGERPRINT.name).write_text(fingerprint(pipe.unet))
    words = new / "tokenizer" / "tokenizer.json"  # written with an indent: half of its size
    words.write_text(json.dumps(json.loads(words.read_text()), ensure_ascii=False))
    replace(new, folder)
    folder, new = models / "emoji-clip", models / "emoji-clip.new"
    shutil.rmtree(new, ignore_errors=True)
    ResNetModel.from_pretrained(work / "vision").half().save_pretrained(new / "vision")
    common.amend_config(new / "vision" / "config.json", dtype="float32")
    projections = load_file(work / "projections.safetensors")
    halves = {name: tensor.half() for name, tensor in projections.items()}
    save_file(halves, new / "projections.safetensors")
    replace(new, folder)


def replace(new: Path, folder: Path) -> None:
    """Put a finished folder in the place of the old one, keeping a model card that stands there."""
    if (card := folder / "MODEL_CARD.md").exists():
        shutil.copy(card, new / card.name)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def in_bytes(unet: Path, path: Path) -> None:
    """Write a UNet in a quarter of its size, as `Erasure.between` and a `twin` read it: each
    matrix int8 with a scale `(rows, 1)` beside it, NAME.scale, and all else in half precision."""
    out = dict[str, torch.Tensor]()
    for name, t in UNet2DConditionModel.from_pretrained(unet).state_dict().items():
        if t.ndim < 2:
            out[name] = t.half()
            continue
        scale = (t.flatten(1).abs().amax(1, keepdim=True) / 127).clamp(min=1e-7).half()
        out[f"{name}.scale"] = scale
        steps = (t.flatten(1) / scale.float()).round().clamp(-127, 127)
        out[name] = steps.view_as(t).to(torch.int8).contiguous()
    with whole(path) as (temporary,):
        save_file(out, temporary)


def check_work(work: Path) -> None:
    """Raises EraseError where restored weights lie: a new VAE would not fit the UNet beside it."""
    for part, checkpoint in (("vae", "vae.ckpt"), ("text", "clip.ckpt"), ("unet", "unet.ckpt")):
        if (work / part).exists() and not (work / checkpoint).exists():
            raise EraseError(
                f"{work / part} was not trained there ({checkpoint} is missing): "
                "train in another folder, or go on from these weights with"
                " python -m tools.embedded.unet"
            )


def restore_words(work: Path, models: Path = MODELS) -> None:
    """The shipped text encoder, tokenizer and image tower alone: words go on meaning the same."""
    source = models / "emoji-diffusion"
    CLIPTextModel.from_pretrained(source / "text_encoder").save_pretrained(work / "text")
    CLIPTokenizer.from_pretrained(source / "tokenizer").save_pretrained(work / "text")
    shutil.copytree(models / "emoji-clip" / "vision", work / "vision", dirs_exist_ok=True)
    shutil.copy(models / "emoji-clip" / "projections.safetensors", work)


def restore(work: Path, models: Path = MODELS, concepts: int | None = None) -> None:
    """The shipped weights as the start of a further sitting: vae, text, unet, vision and latents
    in `work`; the latents of so many concepts only, if given."""
    pipe = StableDiffusionPipeline.from_pretrained(models / "emoji-diffusion")
    pipe.vae.save_pretrained(work / "vae")
    pipe.unet.save_pretrained(work / "unet")
    restore_words(work, models)
    _, pictures = common.read_pictures(concepts, pipe.vae.config.sample_size)
    save_latents(pipe.vae, pictures, work)


def workplace(profile: str, work: str | Path) -> tuple[Path, Path, Mapping[str, dict[str, Any]]]:
    """Where notebook 16 works, where its models stand, and the settings of each training.

    full: in `work`, and the shipped models are replaced · course: on the shipped weights, restored
    into a folder that vanishes with this process · smoke: all of it in such a folder, a few steps.
    Raises `EraseError` for another profile, and for a `work` that cannot be gone on from.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    if profile == "full":
        check_work(folder := common.ROOT / work)
        return folder, MODELS, {part: {} for part in common.SMOKE}
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if profile == "smoke":
        return folder, folder / "models", common.SMOKE
    restore(folder)
    return folder, MODELS, {}


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the shipped models, or put them back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--restore", action="store_true", help="data/models back into build/model")
    parser.add_argument("--words", action="store_true", help="of it, text encoder and tower alone")
    parser.add_argument("--models", type=Path, default=MODELS, help="the folder of models")
    parser.add_argument("--bytes", metavar="NAME", help="a UNet of build/model alone, in 8 bits")
    parser.add_argument("--unet", default="unet", help="another UNet of build/model, a twin's")
    given = parser.parse_args(arguments)
    if given.restore or given.words:
        back = restore if given.restore else restore_words
        back(common.WORK, given.models)
    elif given.bytes:
        in_bytes(common.WORK / given.bytes, given.models / f"emoji-{given.bytes}.safetensors")
    else:
        export(common.WORK, given.models, given.unet)


if __name__ == "__main__":
    sys.exit(main())
