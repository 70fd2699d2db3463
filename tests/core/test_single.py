"""A model as a single file: read by us, written for stock diffusers, ComfyUI and A1111, and edits in
the keys that those read."""

from __future__ import annotations

import pickle
import shutil
from copy import deepcopy

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES, infer_diffusers_model_type
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from erase_lib import EraseConfig, Erasure, erase, generate, ldm, load_pipeline, models
from erase_lib.diffusion import start_noise
from erase_lib.families import denoiser
from tools.benchmarks import gpu_check, shapes

PROMPTS = ["a church in noto style", "a dog"]
# deeper than other toys: what is counted from the end, and what stands at the ends of blocks
BLOCKS = {"block_out_channels": (8, 16, 16), "norm_num_groups": 4, "layers_per_block": 2}
VAE = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 2, "sample_size": 8}
VAE |= {f"{way.lower()}_block_types": (f"{way}{of}coderBlock2D",) * 2 for way, of in
        (("Down", "En"), ("Up", "De"))}  # fmt: skip
CROSS = {"down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",)}
CROSS |= {"up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2}


def toy(name):
    """A random pipeline of SD 1, SD 2 (OpenCLIP, v) or SDXL."""
    if name == "sdxl":
        of = deepcopy(shapes.TINY["sdxl"])
        of["second"] |= {"hidden_size": 24}  # by their widths readers tell the two apart
        of["model"] |= {"cross_attention_dim": 16 + 24}
        of["model"] |= BLOCKS | {"attention_head_dim": (2, 4, 4)}
        of["model"] |= {"transformer_layers_per_block": (1, 2, 2)}
        of["model"] |= {"down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2}
        of["model"] |= {"up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",)}
        return shapes.random_family(name, of | {"vae": VAE})
    of = deepcopy(gpu_check.TINY)
    of["unet"] |= BLOCKS | CROSS
    if name == "sd2":
        of["text"] |= {"hidden_act": "gelu", "num_hidden_layers": 2}
        of["unet"] |= {"use_linear_projection": True}
    return gpu_check.random_pipeline(
        of | {"vae": VAE}, "v_prediction" if name == "sd2" else "epsilon"
    )


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / request.param
    toy(request.param).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n", "utf-8")
    return folder


@pytest.fixture
def no_hub(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(models, "model_info", unreachable)
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda *_: None)


def config(**settings):
    given = {"targets": ("church",), "steps": 2, "sampling_steps": 3, "nearest": 12, "lr": 1e-2}
    return EraseConfig.from_dict(given | {"candidates": 6, "method": "esd"} | settings)


def largest(a, b):
    pairs = zip(a, b, strict=True)
    return max(np.abs(np.asarray(x, float) - np.asarray(y, float)).max() for x, y in pairs)


def drawn(pipe, erasure=None):
    if erasure is None:
        return generate(pipe, PROMPTS, steps=4, progress=False)
    with erasure.applied(pipe):
        return generate(pipe, PROMPTS, steps=4, progress=False)


def stock(pipe):
    """What a stock pipeline draws, from the same noise."""
    pipe.set_progress_bar_config(disable=True)
    for name in ("tokenizer", "tokenizer_2"):
        if getattr(pipe, name, None):
            getattr(pipe, name).model_max_length = 16
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    z = start_noise(pipe, [0, 1])
    size = dict(zip(("height", "width"), (n * pipe.vae_scale_factor for n in z.shape[-2:])))
    more = {"latents": z, "num_inference_steps": 4, "guidance_scale": 4.0}
    return pipe(PROMPTS, **more, **size).images


def weights(pipe):
    """Every tensor of the parts that have some, by name."""
    parts = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    return {
        f"{part}.{name}": tensor
        for part in parts
        if getattr(pipe, part, None) is not None
        for name, tensor in getattr(pipe, part).state_dict().items()
    }


def same(a, b):
    assert a.keys() == b.keys()
    assert not [name for name, tensor in a.items() if not torch.equal(tensor, b[name])]


def test_a_single_file_is_read_by_stock_diffusers_and_by_us(base, tmp_path):
    pipe = load_pipeline(base, device="cpu")
    far = erase(pipe, config(), []).scaled(pipe, 8.0)
    (file,) = far.export(pipe, tmp_path / "x", kind="single").glob("*.safetensors")
    after = drawn(pipe, far)
    assert largest(drawn(pipe), after) > 3
    with far.applied(pipe):
        expected = {name: tensor.clone() for name, tensor in weights(pipe).items()}
    options = {"config": str(base), "local_files_only": True}
    plain = type(pipe).from_single_file(str(file), **options)
    same(weights(plain), expected)
    assert largest(stock(plain), after) <= 1
    ours = load_pipeline(file, device="cpu", config=base)
    same(weights(ours), expected)
    assert largest(drawn(ours), after) == 0
    found = Erasure.between(pipe, file, ["church"])
    named = dict(pipe.unet.named_parameters())
    same(found.tensors, {n: t for n, t in far.tensors.items() if not torch.equal(t, named[n])})
    with safe_open(file, "pt") as opened:
        said = opened.metadata()
    assert said["modelspec.license"] == "openrail++"
    assert said["modelspec.prediction_type"] == ("v" if base.name == "sd2" else "epsilon")


def test_names_are_those_of_the_published_files():
    """By which diffusers tells what a file is of."""
    for of, key in ((gpu_check.SD["unet"], "v1"), (shapes.SHAPES["sdxl"]["model"], "xl")):
        more = {"addition_embed_type": "text_time", "use_linear_projection": True}
        with torch.device("meta"):
            unet = UNet2DConditionModel(**of, **(more if key == "xl" else {}))
        named, names = dict(unet.named_parameters()), ldm.unet_names(unet)
        keys = {ldm.UNET + names[name]: tensor for name, tensor in named.items()}
        assert len(keys) == len(named) == (686 if key == "v1" else 1680)
        if key == "v1":
            assert CHECKPOINT_KEY_NAMES["v1"] in keys and CHECKPOINT_KEY_NAMES["v2"] in keys
            assert infer_diffusers_model_type(keys) == "v1"
        else:
            assert keys[ldm.UNET + "label_emb.0.0.weight"].shape == (1280, 2816)
            assert ldm.UNET + "output_blocks.2.2.conv.weight" in keys
            assert ldm.UNET + "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight" in keys
