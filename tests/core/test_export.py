"""What other tools read of an erasure, read by stock diffusers with PEFT where it can."""

from __future__ import annotations

import pytest
import torch
import yaml
from diffusers import DDIMScheduler, DiffusionPipeline
from drawings import PROMPTS, drawn, largest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from erase_lib import EraseConfig, Erasure, erase, generate, load_pipeline
from erase_lib.diffusion import start_noise
from erase_lib.export import KINDS, LORA
from erase_lib.families import denoiser, family
from tools.benchmarks.shapes import random_family


def config(method, **settings):
    given = {"targets": ("church",), "steps": 2, "sampling_steps": 3, "nearest": 12, "lr": 1e-2}
    return EraseConfig.from_dict(given | {"candidates": 6, "method": method} | settings)


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl")
    random_family("sdxl").save_pretrained(folder)
    return folder


def stock(folder, change, **options):
    """What the stock pipeline of a folder draws after `change`, from the same noise."""
    pipe = DiffusionPipeline.from_pretrained(folder, safety_checker=None, **options)
    pipe.set_progress_bar_config(disable=True)
    for name in ("tokenizer", "tokenizer_2"):
        if getattr(pipe, name, None):
            getattr(pipe, name).model_max_length = 16
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    change(pipe)
    # the stock call wants a size of eights, though the latents are given
    given = {"latents": start_noise(pipe, [0, 1]), "num_inference_steps": 4}
    given |= {"height": 8, "width": 8}
    return pipe(PROMPTS, guidance_scale=4.0, **given).images


@pytest.mark.parametrize(("kind", "method", "rank"), [("tiny", "uce", None), ("sdxl", "esd", 16)])
def test_a_lora_is_read_by_stock_diffusers(kind, method, rank, tiny_folder, sdxl_folder, tmp_path):
    base = tiny_folder if kind == "tiny" else sdxl_folder
    pipe = load_pipeline(base, device="cpu")
    edit = erase(pipe, config(method), [])
    far = edit.scaled(pipe, 8.0)
    folder = far.export(pipe, tmp_path / "lora", kind="lora", rank=rank)
    assert largest(drawn(pipe), drawn(pipe, far)) > 3
    after = stock(base, lambda p: p.load_lora_weights(folder))
    assert largest(after, drawn(pipe, far)) <= (2 if rank else 12)

    def half(p):
        p.load_lora_weights(folder)
        p.set_adapters(p.get_active_adapters(), [0.5])

    assert largest(stock(base, half), drawn(pipe, edit.scaled(pipe, 4.0))) <= (2 if rank else 12)
    ranks = {t.shape[0] for n, t in load_file(folder / LORA).items() if "lora_A" in n}
    assert len(ranks) == 1  # or diffusers reads some at another strength


def test_a_pipeline_that_carries_a_lora_is_not_erased_from(tiny, tiny_folder, tmp_path, refused):
    folder = erase(tiny, config("uce"), []).export(tiny, tmp_path / "lora", kind="lora", rank=4)
    pipe = load_pipeline(tiny_folder, device="cpu")
    pipe.load_lora_weights(folder)
    refused(erase, pipe, config("esd"), [], says="adapter unload_lora_weights")
    refused(generate, pipe, PROMPTS, says="adapter")
    pipe.unload_lora_weights()
    assert largest(drawn(pipe), drawn(tiny)) == 0


def test_a_lora_says_what_it_leaves_out(tiny, tmp_path, refused):
    edit = erase(tiny, config("esd"), [])
    with pytest.warns(UserWarning, match=r"rank 1 leaves out \d+%"):
        folder = edit.export(tiny, tmp_path / "lora", kind="lora", rank=1)
    with safe_open(folder / LORA, "pt") as file:
        said = file.metadata()
    named = dict(tiny.unet.named_parameters())
    tensors = load_file(folder / LORA)
    lost = whole = 0.0
    for name, t in edit.tensors.items():
        if t.ndim > 1:
            layer = "unet." + name.removesuffix(".weight")
            made = tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
            d = t - named[name]
            lost, whole = lost + (d - made).square().sum(), whole + d.square().sum()
    assert float(said["left_out"]) == pytest.approx(float((lost / whole).sqrt()), abs=1e-4)
    for rank in (0, 1000):
        refused(edit.export, tiny, tmp_path / "x", kind="lora", rank=rank, says=f"rank {rank} 16")


@pytest.mark.parametrize("method", ["uce", "esd"])
def test_a_delta_is_exact(tiny, tmp_path, method):
    edit = erase(tiny, config(method), [])
    folder = edit.export(tiny, tmp_path / "delta", kind="delta")
    found = load_file(folder / "erased_delta.safetensors")
    base, ends = dict(tiny.unet.named_parameters()), {"diff": "weight", "diff_b": "bias"}
    known = {n.replace(".", "_"): n for n in base}  # as readers go from their keys to the layers
    for key, d in found.items():
        layer, leaf = key.removeprefix("lora_unet_").rsplit(".", 1)
        name = known[f"{layer}_{ends[leaf]}"]
        torch.testing.assert_close(base[name] + d, edit.tensors[name])
    assert len(found) == sum(not torch.equal(t, base[n]) for n, t in edit.tensors.items())


@pytest.mark.parametrize("method", ["uce", "rece", "speed", "eap_closed"])
def test_a_matrix_on_the_prompt_does_what_the_edit_does(tiny, tiny_folder, tmp_path, method):
    edit = erase(tiny, config(method), []).scaled(tiny, 3.0)
    folder = edit.export(tiny, tmp_path / "matrix", kind="matrix")
    t = load_file(folder / "matrix.safetensors")["T"]
    for name, edited in edit.tensors.items():
        old = tiny.unet.get_parameter(name)
        torch.testing.assert_close(old @ t, edited, rtol=1e-3, atol=1e-4)


def test_the_matrix_s_pipeline_is_read_by_stock_diffusers(tiny, tiny_folder, tmp_path):
    edit = erase(tiny, config("uce"), []).scaled(tiny, 8.0)
    folder = edit.export(tiny, tmp_path / "matrix", kind="matrix")
    load = {"custom_pipeline": str(folder), "trust_remote_code": True}
    after = stock(tiny_folder, lambda p: p.erase(folder / "matrix.safetensors"), **load)
    assert largest(after, drawn(tiny, edit)) <= 1 < largest(after, drawn(tiny))


def test_every_export_says_what_it_is(tiny, tmp_path):
    edit = erase(tiny, config("uce"), [])
    for kind in KINDS:
        folder = edit.export(tiny, tmp_path / kind, kind=kind)
        _, front, text = (folder / "README.md").read_text("utf-8").split("---\n", 2)
        told = yaml.safe_load(front)
        assert told["library_name"] == "diffusers" and "concept-erasure" in told["tags"]
        assert told["base_model"] == tiny.name_or_path.rsplit("/", 1)[1]
        assert "church" in text and "uce" in text and edit.base in text
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                said = file.metadata()
            assert said["base"] == edit.base and said["targets"] == '["church"]'
            assert said["modelspec.architecture"].startswith("stable-diffusion/")
            assert said["modelspec.license"] == "of the base model"


def test_what_an_erasure_is_not(tiny, tmp_path, refused):
    trained = erase(tiny, config("esd"), [])
    most = erase(tiny, config("esd", train_method="full"), [])
    for call, says in (
        ({"kind": "lorra"}, "lorra lora"),
        ({"kind": "pipeline", "rank": 4}, "rank 4 pipeline"),
        ({"kind": "matrix"}, "esd T lora uce"),
    ):
        refused(trained.export, tiny, tmp_path / "x", **call, says=says)
    refused(most.export, tiny, tmp_path / "x", kind="lora", says="norm delta")
    assert not (tmp_path / "x").exists()


def test_a_transformer_has_a_lora_and_no_delta(tmp_path, refused):
    random_family("sd3").save_pretrained(tmp_path / "sd3")
    pipe = load_pipeline(tmp_path / "sd3", device="cpu")
    edit = erase(pipe, config("esd", train_method="kv"), [])
    refused(edit.export, pipe, tmp_path / "x", kind="delta", says="lora pipeline")
    folder = edit.export(pipe, tmp_path / "lora", kind="lora", rank=16)
    plain = DiffusionPipeline.from_pretrained(tmp_path / "sd3")
    plain.load_lora_weights(folder)
    plain.fuse_lora()
    named = {n.replace(".base_layer", ""): p for n, p in denoiser(plain).named_parameters()}
    assert family(plain).flow
    for name, tensor in edit.tensors.items():
        torch.testing.assert_close(named[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["pipeline", "lora", "delta", "own names", "folder", "half"])
def test_what_others_edited_is_an_erasure_like_any_other(tiny, tmp_path, kind):
    edit = erase(tiny, config("esd"), []).scaled(tiny, 4.0)
    if kind == "own names":
        other = tmp_path / "esd.safetensors"
        save_file({f"unet.{n}": t for n, t in edit.tensors.items()}, other)
    elif kind in ("lora", "delta"):
        folder = edit.export(tiny, tmp_path / "x", kind=kind, rank=16 if kind == "lora" else None)
        (other,) = folder.glob("*.safetensors")
    else:
        other = edit.export(tiny, tmp_path / "x")
        if kind != "folder":
            dtype = torch.bfloat16 if kind == "half" else torch.float32
            other = load_pipeline(other, device="cpu", dtype=dtype)
    found = Erasure.between(tiny, other, ["church"])
    named = dict(tiny.unet.named_parameters())
    moved = {n for n, t in edit.tensors.items() if not torch.equal(t, named[n])}
    assert set(found.tensors) <= moved if kind == "half" else set(found.tensors) == moved
    rough = {"rtol": 1e-2, "atol": 1e-2} if kind == "half" else {"rtol": 1e-4, "atol": 1e-5}
    for name, t in found.tensors.items():
        torch.testing.assert_close(t, edit.tensors[name], **rough)
    assert found.config.method == "other" and found.base == edit.base
    saved = Erasure.load(found.save(tmp_path / "saved"))
    assert largest(drawn(tiny, saved), drawn(tiny, edit)) <= (12 if kind == "half" else 1)


def test_a_lora_of_kohya_s_is_read_with_its_alpha(tiny, tmp_path):
    name = next(n for n, p in tiny.unet.named_parameters() if n.endswith("attn2.to_k.weight"))
    key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
    up, down = torch.randn(16, 4), torch.randn(4, 16)
    parts = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(2.0)}
    save_file({f"{key}.{end}": t for end, t in parts.items()}, tmp_path / "k.safetensors")
    found = Erasure.between(tiny, tmp_path / "k.safetensors", ["church"])
    expected = tiny.unet.get_parameter(name) + up @ down / 2
    torch.testing.assert_close(found.tensors, {name: expected.detach()})


def test_what_is_no_edit_of_this_model(tiny, tmp_path, refused):
    name = "conv_in.weight"
    own = tiny.unet.get_parameter(name).detach().contiguous()
    for keys, says in (
        ({name: own}, "changes no tensor"),
        ({name: torch.zeros(3)}, "another base"),
        ({"lora_te_text_model.lora_up.weight": own}, "text encoder"),
        ({"lora_unet_nowhere.lora_up.weight": own}, "lora_unet_nowhere"),
        ({"model.diffusion_model.out.0.weight": own}, "another base"),
        ({"model.diffusion_model.nowhere.0.weight": own}, "no layer"),
    ):
        save_file(keys, tmp_path / "x.safetensors")
        refused(Erasure.between, tiny, tmp_path / "x.safetensors", ["church"], says=[says])
    (tmp_path / "x.safetensors").write_bytes(b"PK\x03\x04 a pickle")
    refused(Erasure.between, tiny, tmp_path / "x.safetensors", ["church"], says="safetensors")
    refused(Erasure.between, tiny, tmp_path / "nowhere", ["church"], says="does not exist")
    refused(erase, tiny, config("other"), says="elsewhere")
