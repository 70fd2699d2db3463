"""A model as a single file: read by us, written for stock diffusers, ComfyUI and A1111; and edits
in the keys that those read."""

from __future__ import annotations

import pickle
import re
import shutil
from copy import deepcopy
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES, infer_diffusers_model_type
from drawings import PROMPTS, drawn, largest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from erase_lib import EraseConfig, Erasure, erase, ldm, load_pipeline, models
from erase_lib.diffusion import start_noise
from erase_lib.export import LOST
from erase_lib.families import denoiser
from tools.benchmarks import shapes

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
    of = deepcopy(shapes.TINY["sd"])
    of["model"] |= BLOCKS | CROSS
    if name == "sd2":
        of["clip"] |= {"hidden_act": "gelu", "num_hidden_layers": 2}
        of["model"] |= {"use_linear_projection": True}
    said = "v_prediction" if name == "sd2" else "epsilon"
    return shapes.random_family("sd", of | {"vae": VAE}, said)


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


def stock(pipe):
    """What a stock pipeline draws, from the same noise."""
    pipe.set_progress_bar_config(disable=True)
    for name in ("tokenizer", "tokenizer_2"):
        if getattr(pipe, name, None):
            getattr(pipe, name).model_max_length = 16
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    z = start_noise(pipe, [0, 1])
    # the stock call wants a size of eights, though the latents are given
    size = max(8, z.shape[-1] * pipe.vae_scale_factor)
    more = {"latents": z, "num_inference_steps": 4, "guidance_scale": 4.0}
    return pipe(PROMPTS, height=size, width=size, **more).images


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
    for of, key in ((shapes.SHAPES["sd"]["model"], "v1"), (shapes.SHAPES["sdxl"]["model"], "xl")):
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


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_transformer_is_a_single_file_by_diffusers_names(name, tmp_path):
    folder = tmp_path / name
    shapes.random_family(name).save_pretrained(folder)
    pipe = load_pipeline(folder, device="cpu")
    far = erase(pipe, config(method="uce"), []).scaled(pipe, 8.0)
    (file,) = far.export(pipe, tmp_path / "x", kind="single").glob("*.safetensors")
    ours = load_pipeline(file, device="cpu", config=folder)
    assert type(ours) is type(pipe)
    with far.applied(pipe):
        same(weights(ours), weights(pipe))
    found = Erasure.between(pipe, file, ["church"])
    assert found.tensors and found.tensors.keys() <= far.tensors.keys()
    for tensor_name, tensor in found.tensors.items():
        assert torch.equal(tensor, far.tensors[tensor_name])


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    """A folder of SDXL, and a single file of it with nothing edited."""
    folder = tmp_path_factory.mktemp("sdxl") / "own"
    toy("sdxl").save_pretrained(folder)
    pipe = load_pipeline(folder, device="cpu")
    file = folder.with_name("own.safetensors")
    save_file({key: t.contiguous() for key, t in ldm.whole(pipe).items()}, file)
    return folder, file


def test_what_a_single_file_lacks_is_said_or_taken_from_the_config(
    sdxl, tiny_folder, tmp_path, refused, no_hub
):
    folder, whole = sdxl
    held, file = load_file(whole), tmp_path / "x.safetensors"

    def without(*begins, config=folder, header=None, **more):
        left = {key: t for key, t in held.items() if not key.startswith(begins)}
        save_file(left | more, file, header)
        return load_pipeline(file, device="cpu", config=config)

    bare = tmp_path / "bare"
    names = ("*.safetensors",)
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns(*names))
    pipe = without("nothing", config=bare)  # the file has all
    same(weights(pipe), weights(load_pipeline(folder, device="cpu")))
    assert largest(drawn(without("first_stage_model.", "conditioner.")), drawn(pipe)) == 0
    for begins, lacks in (
        ("first_stage_model.", "no vae"),
        ("conditioner.embedders.1.", "no text_encoder_2"),
        ("model.diffusion_model.", "no unet"),
        ("model.diffusion_model.out.2.bias", "1 tensors model.diffusion_model.out.2.bias"),
        ("first_stage_model.decoder.norm_out.", "2 tensors first_stage_model.decoder.norm_out."),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "1 tensors"),
        ("model.diffusion_model.label_emb.", "label_emb"),
    ):
        refused(without, begins, config=bare, says=[str(file), *lacks.rsplit(" ", 1)])
    refused(without, "model.diffusion_model.", says="no unet")  # the folder's is another
    refused(without, "nothing", config=None, says="config= stable-diffusion no route")
    refused(without, "nothing", config="owner/name", says="owner/name no route")
    refused(without, "nothing", config=tiny_folder, says=["cannot be loaded", str(tiny_folder)])
    save_file({CHECKPOINT_KEY_NAMES["v2"]: torch.zeros(1, 1024)}, file)
    refused(load_pipeline, file, says="config= SD 2 epsilon")  # which it does not say
    v = {"modelspec.prediction_type": "v"}
    refused(without, "nothing", header=v, says="'v' 'epsilon' config=")
    refused(without, "nothing", v_pred=torch.zeros(1), says="'v' 'epsilon'")
    nan = {key: t.fill_(torch.nan) for key, t in held.items() if key.endswith("out.0.bias")}
    refused(without, "nothing", **nan, says="NaN")


def test_a_pickle_is_no_single_file(sdxl, tmp_path, refused):
    folder, whole = sdxl
    ran = tmp_path / "ran"

    class Harmful:
        def __reduce__(self):
            return ran.touch, ()

    for name in ("model.ckpt", "model.pt", "model.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Harmful()))
        refused(load_pipeline, tmp_path / name, config=folder, says=[name, "pickle"])
    assert not ran.exists()
    shutil.copyfile(whole, tmp_path / "model.ckpt")  # which diffusers would unpickle
    refused(load_pipeline, tmp_path / "model.ckpt", config=folder, says=".ckpt")
    refused(load_pipeline, folder, config=folder, says="config folder")
    refused(load_pipeline, whole, config=folder, variant="fp16", says="fp16 variant")
    half = load_pipeline(whole, device="cpu", config=folder, dtype="bfloat16")
    assert {tensor.dtype for tensor in weights(half).values()} == {torch.bfloat16}


def test_a_variant_is_what_is_asked_for(tiny_folder, tmp_path, refused):
    folder = tmp_path / "two"
    shutil.copytree(tiny_folder, folder)
    pipe = diffusers.DiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float16)
    pipe.save_pretrained(folder, variant="fp16")
    first = load_pipeline(folder, device="cpu")
    half = load_pipeline(folder, device="cpu", variant="fp16")
    same(weights(first), weights(load_pipeline(tiny_folder, device="cpu")))
    same(weights(half), {name: t.half().float() for name, t in weights(first).items()})
    assert not torch.equal(half.unet.conv_in.weight, first.unet.conv_in.weight)
    refused(load_pipeline, folder, variant="bf16", says="'bf16' fp16")
    refused(load_pipeline, tiny_folder, variant="fp16", says="'fp16' none")


def test_what_a_single_file_says_and_cannot_say(sdxl, tmp_path, refused):
    pipe = load_pipeline(sdxl[0], device="cpu")
    edit = erase(pipe, config(method="uce"), [])
    noise = deepcopy(pipe.scheduler)
    assert not {"v_pred", "ztsnr"} & set(ldm.whole(pipe))
    pipe.scheduler.register_to_config(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert {"v_pred", "ztsnr"} <= set(ldm.whole(pipe))  # by which ComfyUI knows it
    pipe.scheduler = noise
    pipe.unet.register_to_config(layers_per_block=[2, 2, 2])
    for kind in ("single", "kohya", "delta"):
        refused(edit.export, pipe, tmp_path / "x", kind=kind, says="no name in LDM")


def test_a_base_in_a_single_file_is_not_exported_over(sdxl, refused):
    folder, whole = sdxl
    pipe = load_pipeline(whole, device="cpu", config=folder)
    edit = erase(pipe, config(method="uce"), [])
    refused(edit.export, pipe, whole.parent, says="being edited")


@pytest.mark.parametrize(("of", "method", "rank"), [("tiny", "esd", 16), ("sdxl", "uce", None)])
def test_a_lora_of_kohya_s_is_read_by_stock_diffusers(
    of, method, rank, tiny_folder, sdxl, tmp_path
):
    folder = tiny_folder if of == "tiny" else sdxl[0]
    pipe = load_pipeline(folder, device="cpu")
    # as trained, biases move too, which these keys do not hold
    settings = {"train_method": "kv"} if method == "esd" else {}
    far = erase(pipe, config(method=method, **settings), []).scaled(pipe, 8.0)
    (file,) = far.export(pipe, tmp_path / "x", kind="kohya", rank=rank).glob("*.safetensors")
    after = drawn(pipe, far)
    assert largest(drawn(pipe), after) > 3
    plain = diffusers.DiffusionPipeline.from_pretrained(folder, safety_checker=None)
    plain.load_lora_weights(file)
    assert largest(stock(plain), after) <= (2 if rank else 12)
    held = load_file(file)
    begins = {key.removeprefix("lora_unet_").split("_")[0] for key in held}
    assert begins <= (
        {"input", "output", "middle", "label"} if of == "sdxl" else {"down", "up", "mid"}
    )
    assert {float(t) for key, t in held.items() if key.endswith(".alpha")} == {
        float(len(t)) for key, t in held.items() if "lora_down" in key
    }  # one rank for all, or diffusers reads some at another strength
    found = Erasure.between(pipe, file, ["church"])
    named = dict(denoiser(pipe).named_parameters())
    moved = {name: t - named[name] for name, t in far.tensors.items()}
    assert found.tensors.keys() == {name for name, d in moved.items() if d.any()}
    lost = sum(torch.dist(t, far.tensors[n]) ** 2 for n, t in found.tensors.items())
    most = 1e-4 if rank else LOST
    assert lost <= most**2 * sum(d.square().sum() for d in moved.values())


def test_kohya_s_keys_leave_biases_out_and_say_so(tiny, tmp_path):
    edit = erase(tiny, config(train_method="xattn"), [])
    with pytest.warns(UserWarning, match=r"rank 16 leaves out \d+%"):
        (file,) = edit.export(tiny, tmp_path / "x", "kohya", rank=16).glob("*.safetensors")
    named = dict(tiny.unet.named_parameters())
    moved = {name: (t - named[name]).square().sum() for name, t in edit.tensors.items()}
    lost = sum(d for name, d in moved.items() if name.endswith("bias")) / sum(moved.values())
    with safe_open(file, "pt") as opened:
        said = opened.metadata()
    assert float(said["left_out"]) == pytest.approx(float(lost**0.5), abs=1e-3)


def test_a_delta_of_sdxl_is_by_the_names_that_others_read(sdxl, tmp_path):
    pipe = load_pipeline(sdxl[0], device="cpu")
    edit = erase(pipe, config(), []).scaled(pipe, 4.0)
    (file,) = edit.export(pipe, tmp_path / "x", kind="delta").glob("*.safetensors")
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.diff"
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    base = pipe.unet.get_parameter(name)
    torch.testing.assert_close(base + load_file(file)[key], edit.tensors[name])
    found = Erasure.between(pipe, file, ["church"])
    assert largest(drawn(pipe, found), drawn(pipe, edit)) <= 1


def test_a_single_file_whose_words_are_edited_is_no_erasure(sdxl, tmp_path, refused):
    folder, whole = sdxl
    pipe, held = load_pipeline(folder, device="cpu"), load_file(whole)
    refused(Erasure.between, pipe, whole, ["church"], says="changes no tensor")
    key = "conditioner.embedders.1.model.ln_final.bias"
    for change, says in (
        ({key: held[key] + 1}, f"text encoder {key}"),
        ({"model.diffusion_model.nowhere.0.weight": torch.ones(2)}, "nowhere no layer"),
    ):
        save_file(held | change, tmp_path / "x.safetensors")
        refused(Erasure.between, pipe, tmp_path / "x.safetensors", ["church"], says=says)


def test_the_lines_of_own_model_lead_from_a_folder_of_sdxl_to_a_lora_for_comfyui(
    sdxl, tmp_path, monkeypatch
):
    text = (Path(__file__).parents[2] / "docs" / "OWN_MODEL.md").read_text("utf-8")
    (lines,) = (
        code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "kohya" in code
    )
    shutil.copytree(sdxl[0], tmp_path / "my-sdxl")
    monkeypatch.chdir(tmp_path)
    named = {}
    exec(lines, named)
    pipe, file = named["pipe"], tmp_path / "runs" / "church-lora" / "erased_lora.safetensors"
    keys = {key for key in load_file(file) if key.endswith(".lora_down.weight")}
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight" in keys
    plain = diffusers.DiffusionPipeline.from_pretrained("my-sdxl")
    plain.load_lora_weights(file.parent)
    plain.fuse_lora()
    fused = {n.replace(".base_layer", ""): p for n, p in plain.unet.named_parameters()}
    expected = named["erasure"].tensors
    moved = sum(torch.dist(t, pipe.unet.get_parameter(n)) ** 2 for n, t in expected.items())
    assert moved > 0
    assert sum(torch.dist(fused[n], t) ** 2 for n, t in expected.items()) <= LOST**2 * moved
