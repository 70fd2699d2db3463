"""SDXL, SD 3 and FLUX go through the very loop of Stable Diffusion: random toys of each."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from drawings import PROMPTS, copied, largest

from erase_lib import EraseConfig, Erasure, erase, generate, load_pipeline
from erase_lib.diffusion import noised, predict_clean, start_noise, to_clean
from erase_lib.families import denoiser, family, packed, split, tokens
from erase_lib.kv import kv_weights
from erase_lib.models import fingerprint, trained_names
from erase_lib.text import encode_prompts
from tools.benchmarks.shapes import random_family

NAMES = ("sdxl", "sd3", "flux")
SMALL = {"targets": ("church",), "steps": 2, "sampling_steps": 3, "nearest": 12, "candidates": 6}


@pytest.fixture(scope="module", params=NAMES)
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("families") / request.param
    random_family(request.param).save_pretrained(folder)
    found = load_pipeline(folder, device="cpu")
    if request.param == "flux":
        found.default_sample_size = 8  # which no file says
    return found


@pytest.fixture
def pipe(whole):
    return copied(whole)


def stock(pipe, steps=4, size=None, **more):
    """What the pipeline itself draws from the same noise."""
    z = start_noise(pipe, [0, 1], size)
    if size:
        more |= {"height": size[0] * pipe.vae_scale_factor}
        more |= {"width": size[1] * pipe.vae_scale_factor}
    if hasattr(pipe, "unet"):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    if pipe.__class__.__name__ == "FluxPipeline":
        high, wide = (side * pipe.vae_scale_factor for side in z.shape[-2:])
        z, more = pipe._pack_latents(z, *z.shape), more | {"height": high, "width": wide}
    if longest := getattr(pipe, family(pipe).longest).model_max_length:
        more |= {} if hasattr(pipe, "unet") else {"max_sequence_length": longest}
    return pipe(PROMPTS, latents=z, num_inference_steps=steps, guidance_scale=4.0, **more).images


def config(**settings):
    return EraseConfig.from_dict(SMALL | settings)


def test_pictures_are_those_of_the_stock_pipeline(pipe):
    drawn = generate(pipe, PROMPTS, steps=4, progress=False)
    assert largest(drawn, stock(pipe)) <= 1
    other = generate(pipe, ["a guitar", "a house"], steps=4, progress=False)
    assert largest(drawn, other) > 3  # the prompt matters


def test_a_negative_prompt_and_a_size_are_those_of_the_stock_call(pipe, refused):
    options = {"steps": 4, "progress": False, "size": (32, 64)}
    no = {} if family(pipe).guided == 1 else {"negative_prompt": "a guitar"}
    drawn = generate(pipe, PROMPTS, **options, **no)
    assert drawn[0].size == (64, 32)
    if no:
        assert largest(drawn, generate(pipe, PROMPTS, **options)) > 1
        no = {"negative_prompt": ["a guitar"] * 2}
    else:
        refused(generate, pipe, PROMPTS, negative_prompt="a guitar", says="negative_prompt")
    assert largest(drawn, stock(pipe, size=(32, 64), **no)) <= 1
    for size in ((0, 8), (8, 10**6), (7.5, 8), (8,)):
        refused(generate, pipe, PROMPTS, size=size, says="size")


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "esd"},
        {"method": "esd_neutral"},
        {"method": "ca", "anchors": ("house",)},
        {"method": "age"},
        *({"method": "eap", "search": name} for name in ("random", "gumbel", "exhaustive")),
        {"method": "eap", "search": "fixed", "preserved": ("dog", "cat")},
        {"method": "eap", "schedule": "published"},
        *({"method": name} for name in ("uce", "rece", "speed", "eap_closed")),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_every_method_edits_it_and_leaves_it_as_it_was(pipe, settings):
    before = fingerprint(denoiser(pipe))
    found = erase(pipe, config(**settings), [])
    named = dict(denoiser(pipe).named_parameters())
    moved = [n for n, t in found.tensors.items() if not torch.equal(t, named[n])]
    assert moved and all(t.isfinite().all() for t in found.tensors.values())
    assert fingerprint(denoiser(pipe)) == before == found.base
    assert not any(p.requires_grad for p in named.values())


@pytest.mark.parametrize("method", ["esd", "uce"])
def test_an_erasure_goes_on_and_off_is_saved_scaled_and_exported(pipe, method, tmp_path):
    before = generate(pipe, PROMPTS, steps=4, progress=False)
    # (with so few updates little moves)
    far = erase(pipe, config(method=method, lr=1e-2), []).scaled(pipe, 30.0)
    with far.applied(pipe):
        after = generate(pipe, PROMPTS, steps=4, progress=False)
    assert largest(before, after) > 3
    assert largest(before, generate(pipe, PROMPTS, steps=4, progress=False)) == 0
    with Erasure.load(far.save(tmp_path / "saved")).applied(pipe):
        assert largest(after, generate(pipe, PROMPTS, steps=4, progress=False)) == 0
    plain = DiffusionPipeline.from_pretrained(far.export(pipe, tmp_path / "exported"))
    plain.set_progress_bar_config(disable=True)
    if hasattr(pipe, "default_sample_size"):
        plain.default_sample_size = pipe.default_sample_size
    for encoder in ("tokenizer_2", "tokenizer_3"):
        if getattr(plain, encoder, None):
            getattr(plain, encoder).model_max_length = 16
    assert largest(after, stock(plain)) <= 1


def test_the_gradient_is_the_same_with_checkpointing(pipe):
    found = []
    for recompute in (False, True):
        settings = {"method": "esd", "gradient_checkpointing": recompute, "train_method": "xattn"}
        found.append(erase(pipe, config(**settings), []).tensors)
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-4, atol=1e-6)


def test_what_is_trained_is_where_text_and_picture_meet(pipe):
    names = {m: trained_names(denoiser(pipe), m) for m in ("kv", "xattn", "noxattn", "full")}
    assert set(names["kv"]) <= set(names["xattn"])
    ends = [name for name in names["full"] if name.startswith(family(pipe).ends)]
    assert sorted(names["xattn"] + names["noxattn"] + ends) == sorted(names["full"])
    assert bool(ends) != family(pipe).flow  # a transformer has none of a UNet's
    assert all(".attn" in name for name in names["xattn"])


def test_a_prompt_is_one_tensor_with_the_pooled_embedding_below(pipe):
    model = denoiser(pipe)
    c = encode_prompts(pipe, PROMPTS)
    words, pooled = split(c, family(model).pooled(model))
    assert torch.equal(tokens(model, c), words) and torch.equal(packed(words, pooled), c)
    assert pooled.abs().sum() > 0


def test_flow_says_what_is_clean():
    z0, epsilon, a = torch.tensor(2.0), torch.tensor(-1.0), torch.tensor(0.25)
    z = noised(z0, epsilon, a, "flow")
    assert z.item() == pytest.approx(0.25 * 2 - 0.75)
    assert to_clean(epsilon - z0, z, a, "flow").item() == pytest.approx(2.0)


def test_a_perfect_flow_is_predicted_clean(pipe, monkeypatch):
    if not family(pipe).flow:
        pytest.skip("no flow")
    z0, epsilon = torch.ones(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    t = torch.tensor([250.0, 900.0])
    share = (1 - t / 1000).view(-1, 1, 1, 1)
    kind = type(family(pipe))
    monkeypatch.setattr(kind, "forward", lambda self, pipe, z, t, c, scale: epsilon - z0)
    found = predict_clean(
        pipe, share * z0 + (1 - share) * epsilon, t, encode_prompts(pipe, PROMPTS)
    )
    torch.testing.assert_close(found, z0)


def test_k_and_v_of_a_transformer_are_not_the_text_s_alone(pipe, refused):
    if family(pipe).flow:
        refused(kv_weights, denoiser(pipe), says="K and V movement lam_kv")
        refused(erase, pipe, config(method="eap", search="movement"), [], says="movement")
    else:
        erase(pipe, config(method="eap", search="movement", lam_kv=1.0), [])
