"""The loop, the search and the erasure object, on a tiny random pipeline."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from erase_lib import EraseConfig, EraseError, Erasure, erase, generate, load_pipeline
from erase_lib.adversarial import GumbelSearch
from erase_lib.diffusion import alpha_bar, predict, to_clean, to_noise
from erase_lib.erase import _Run
from erase_lib.models import encode_prompts, in_place, trained_names

PROMPTS = ["a church in noto style", "dog"]


def smoke(**values):
    given = {"targets": ["church"], "steps": 2, "nearest": 6, "candidates": 3, "lr": 1e-2} | values
    return EraseConfig.from_profile("smoke", **given)


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_clean_and_noise_against_hand_values(kind):
    # ᾱ = 0.64: √ᾱ = 0.8, √(1−ᾱ) = 0.6; z0 = 2, ε = −1 give z = 1.0 and v = 0.8·(−1) − 0.6·2 = −2
    z, a = torch.tensor([1.0]), torch.tensor([0.64])
    output = torch.tensor([-1.0 if kind == "epsilon" else -2.0])
    assert to_clean(output, z, a, kind).item() == pytest.approx(2.0, abs=1e-6)
    assert to_noise(output, z, a, kind).item() == pytest.approx(-1.0, abs=1e-6)


def test_esd_loss_against_a_hand_calculation(tiny):
    run = _Run(tiny, smoke(method="esd", batch=1, styles=(), eta=0.7))
    torch.manual_seed(1)
    z, t = torch.randn(1, 4, 4, 4), torch.tensor([500])
    run.latents = lambda *_: (z, t)
    row = run.update(1)
    c_e, c_n = encode_prompts(tiny, ["church"]), encode_prompts(tiny, [""])
    a = alpha_bar(tiny, t)
    with torch.no_grad():
        on_target = a.sqrt() * z - (1 - a).sqrt() * predict(tiny, z, t, c_e)
        on_neutral = a.sqrt() * z - (1 - a).sqrt() * predict(tiny, z, t, c_n)
    goal = on_neutral - 0.7 * (on_target - on_neutral)
    # before the first update the student is the teacher
    assert row["l1"] == pytest.approx((on_target - goal).pow(2).mean().item(), rel=1e-5)


def test_gradient_against_finite_differences(tiny):
    tiny.unet.double()
    name = trained_names(tiny.unet, "xattn")[0]
    weight = dict(tiny.unet.named_parameters())[name].detach().clone().requires_grad_()
    torch.manual_seed(2)
    z, e = torch.randn(2, 4, 4, 4).double(), torch.randn(2, 16, 16).double()
    t = torch.tensor([100, 800])

    def loss(w):
        with in_place(tiny.unet, {name: w}):
            return tiny.unet(z, t, e).sample.pow(2).mean()

    (gradient,) = torch.autograd.grad(loss(weight), weight)
    direction, h = torch.randn_like(weight), 1e-6
    with torch.no_grad():
        slope = (loss(weight + h * direction) - loss(weight - h * direction)) / (2 * h)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)


@pytest.mark.parametrize("schedule", ["replay", "published"])
@pytest.mark.parametrize("method", ["esd", "esd_neutral", "eap"])
def test_teacher_untouched_and_same_seed_same_erasure(tiny, method, schedule):
    before = {k: v.clone() for k, v in tiny.unet.state_dict().items()}
    config = smoke(method=method, schedule=schedule, targets=["church", "dog"])
    first, second = (erase(tiny, config, progress=False) for _ in range(2))
    assert all(torch.equal(v, before[k]) for k, v in tiny.unet.state_dict().items())
    assert all(torch.equal(v, second.tensors[k]) for k, v in first.tensors.items())
    assert any(not torch.equal(v, before[k]) for k, v in first.tensors.items())
    assert len(first.history) == 2 and first.history[-1]["evaluations"] > 0


def test_gradient_checkpointing_gives_the_same_erasure(tiny):
    plain, lean = (
        erase(tiny, smoke(gradient_checkpointing=on), progress=False) for on in (False, True)
    )
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(tensor, lean.tensors[name], rtol=1e-4, atol=1e-6)
    assert not tiny.unet.training


@pytest.mark.parametrize(
    ("method", "inside", "outside"),
    [("xattn", "attn2", "attn1"), ("selfattn", "attn1", "attn2"), ("noxattn", "conv", "attn2")],
)
def test_train_methods_choose_their_tensors(tiny, method, inside, outside):
    names = trained_names(tiny.unet, method)
    assert any(inside in n for n in names) and not any(outside in n for n in names)
    assert len(trained_names(tiny.unet, "full")) == len(list(tiny.unet.parameters()))


def test_pi_moves_up_the_preservation_loss():
    torch.manual_seed(0)
    embeddings = torch.randn(1, 5, 2, 3)
    search = GumbelSearch(list("abcde"), embeddings, lr=0.2, temperature=2.0, hard=True)
    worst = embeddings[0, 3]
    g = torch.Generator().manual_seed(0)
    for _ in range(60):
        mixed, _, _ = search.choose(8, g)
        search.ascend(-(mixed - worst).pow(2).mean())  # highest at candidate d
    assert search.probabilities().argmax() == 3
    assert search.probabilities()[3] > 0.5


def test_picture_does_not_depend_on_its_batch(tiny):
    alone = [generate(tiny, [p], seed=i, steps=3, progress=False)[0] for i, p in enumerate(PROMPTS)]
    together = generate(tiny, PROMPTS, seed=0, steps=3, progress=False)
    for a, b in zip(alone, together, strict=True):
        assert np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() <= 2


def test_save_load_apply_and_export_give_the_same_pictures(tiny, tmp_path):
    def draw(pipe):
        return generate(pipe, PROMPTS, steps=3, progress=False)

    before = draw(tiny)
    erasure = erase(tiny, smoke(), progress=False)
    with erasure.applied(tiny):
        erased = draw(tiny)
    assert same(before, draw(tiny)) and not same(before, erased)
    loaded = Erasure.load(erasure.save(tmp_path / "run"))
    assert loaded.config == erasure.config and len(loaded.history) == 2
    with loaded.applied(tiny):
        assert same(erased, draw(tiny))
    exported = load_pipeline(erasure.export(tiny, tmp_path / "whole"), device="cpu")
    assert same(erased, draw(exported))
    StableDiffusionPipeline.from_pretrained(tmp_path / "whole")


def test_nan_loss_keeps_the_last_good_tensors(tiny):
    run = {"n": 0}
    original = _Run.update

    def update(self, step):
        run["n"] += 1
        row = original(self, step)
        return row | {"l1": float("nan")} if run["n"] == 2 else row

    _Run.update = update
    try:
        with pytest.warns(UserWarning, match="NaN or infinite at update 1"):
            erasure = erase(tiny, smoke(), progress=False)
    finally:
        _Run.update = original
    assert len(erasure.history) == 1
    assert all(t.isfinite().all() for t in erasure.tensors.values())


def test_interrupt_keeps_what_is_done(tiny, monkeypatch):
    original = _Run.update

    def update(self, step):
        if step == 1:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(_Run, "update", update)
    with pytest.warns(UserWarning, match="1 of 2 updates kept"):
        assert len(erase(tiny, smoke(), progress=False).history) == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "eep"}, "unknown method 'eep': did you mean 'eap'"),
        ({"train_method": "xatn"}, "unknown train_method 'xatn'"),
        ({"schedule": "replays"}, "unknown schedule"),
        ({"lamb": 1.0}, "unknown setting 'lamb': did you mean 'lam'"),
        ({"steps": -1}, "steps is -1"),
        ({"steps": 1.5}, "expected int"),
        ({"lam": -1.0}, "lam is -1.0"),
        ({"lr": "1e-5"}, "lr is '1e-5'"),
        ({"lr": float("nan")}, "finite"),
        ({"targets": []}, "at least one concept"),
        ({"targets": [""]}, "at least one concept"),
        ({"targets": "church"}, "expected a list"),
        ({"neutral": "church"}, "also a target"),
    ],
)
def test_bad_settings_are_one_clear_line(values, words):
    with pytest.raises(EraseError, match=".") as caught:
        EraseConfig.from_dict({"targets": ["church"]} | values)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_profile_and_device(tiny_folder):
    with pytest.raises(EraseError, match="unknown profile 'corse': did you mean 'course'"):
        EraseConfig.from_profile("corse", targets=["church"])
    with pytest.raises(EraseError, match="device 'cuda:99' cannot be used"):
        load_pipeline(tiny_folder, device="cuda:99")


def test_round_trip_of_the_config():
    config = smoke(method="esd")
    assert EraseConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_damaged_model_folders(tiny_folder, tmp_path):
    with pytest.raises(EraseError, match="does not exist"):
        load_pipeline(tmp_path / "nowhere", device="cpu")
    with pytest.raises(EraseError, match=r"model_index.json is missing"):
        load_pipeline(tmp_path, device="cpu")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EraseError, match="cannot be loaded"):
        load_pipeline(broken, device="cpu")
    weights.unlink()
    with pytest.raises(EraseError, match="cannot be loaded"):
        load_pipeline(broken, device="cpu")


def test_erasure_refuses_another_base_model_and_damage(tiny, tmp_path):
    erasure = erase(tiny, smoke(method="esd"), progress=False)
    erasure.save(tmp_path)
    with torch.no_grad():
        tiny.unet.conv_in.weight.add_(0.5)
    with pytest.raises(EraseError, match="made for base model"), erasure.applied(tiny):
        pass
    file = tmp_path / "erased.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(EraseError, match="is damaged"):
        Erasure.load(tmp_path)
    with pytest.raises(EraseError, match="is missing"):
        Erasure.load(tmp_path / "none")


def test_too_long_a_prompt_is_named(tiny):
    with pytest.warns(UserWarning, match="is cut off"):
        encode_prompts(tiny, ["dog " * 30])
