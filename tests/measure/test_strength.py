"""An edit scaled, and the smallest scale at which it erases."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from PIL import Image

from erase_lib import EraseConfig, EraseError, Erasure, erase
from erase_lib.measure import pictures
from erase_lib.measure.evaluate import first_strength

# of the same name as its function
measuring = import_module("erase_lib.measure.evaluate")


@pytest.fixture
def erasure(tiny):
    config = EraseConfig.from_profile("smoke", targets=["church"], method="esd", steps=1, lr=1e-2)
    return erase(tiny, config, [])


def test_a_scaled_edit_against_its_formula(tiny, erasure):
    base = dict(tiny.unet.named_parameters())
    for s in (0.0, 0.5, 1.0, 2.0):
        for name, tensor in erasure.scaled(tiny, s).tensors.items():
            expected = base[name] + s * (erasure.tensors[name] - base[name])
            assert torch.allclose(tensor, expected, atol=1e-6)
    assert erasure.scaled(tiny, 1.0).config == erasure.config


def test_a_scaled_erasure_is_saved_with_its_strength(tiny, erasure, tmp_path):
    half = erasure.scaled(tiny, 0.5)
    loaded = Erasure.load(half.save(tmp_path))
    assert loaded.strength == half.strength == 0.5 and loaded.scaled(tiny, 2).strength == 1.0
    assert all(torch.equal(t, half.tensors[k]) for k, t in loaded.tensors.items())


@pytest.fixture
def fading(monkeypatch, tiny):
    """A judge that no longer sees the target once the edit in place is at least `at` times the
    whole one: 4 of 5 pictures at `at`, all from twice `at` on. Tried strengths are noted."""
    tried = []

    def install(erasure, at):
        name = next(iter(erasure.tensors))
        still = tiny.unet.get_parameter(name).detach().clone()
        whole = (erasure.tensors[name] - still).norm()

        def drawn(pipe, prompts, *given, **named):
            s = float((pipe.unet.get_parameter(name) - still).norm() / whole)
            tried.append(round(s, 4))
            share = 0.0 if s < at - 1e-4 else 0.8 if s < 2 * at - 1e-4 else 1.0
            gone = round(share * len(prompts))
            return [Image.new("L", (1, 1), int(i < gone)) for i in range(len(prompts))]

        def seen(judge, pictures, prompts):
            return prompts.assign(rank=[p.getpixel((0, 0)) for p in pictures], style_rank=0)

        monkeypatch.setattr(pictures, "generate", drawn)
        monkeypatch.setattr(measuring, "verdicts", seen)
        return tried

    return install


@pytest.mark.parametrize(("at", "level", "found"), [(0.35, 0.8, 0.4), (0.35, 0.95, 0.7)])
def test_the_first_strength_that_reaches_the_level(tiny, erasure, fading, at, level, found):
    tried = fading(erasure, at)
    assert first_strength(tiny, erasure, None, level) == (found, True)
    assert len(tried) <= 4  # a bisection of twelve


def test_a_style_is_gone_where_the_judge_sees_another(tiny, erasure, monkeypatch):
    erasure.config = replace(erasure.config, targets=("noto style", "church"))
    name = next(iter(erasure.tensors))
    still = tiny.unet.get_parameter(name).detach().clone()
    whole = (erasure.tensors[name] - still).norm()

    def drawn(pipe, prompts, *given, **named):
        return [float((pipe.unet.get_parameter(name) - still).norm() / whole)] * len(prompts)

    def seen(judge, strengths, prompts):
        """The church is gone from the first; every object is seen, in noto below 0.45."""
        rank = (prompts["concept"] == "church").astype(int)
        return prompts.assign(rank=rank, style_rank=[int(s >= 0.45) for s in strengths])

    monkeypatch.setattr(pictures, "generate", drawn)
    monkeypatch.setattr(measuring, "verdicts", seen)
    assert first_strength(tiny, erasure, None) == (0.5, True)
    assert first_strength(tiny, erasure, None, level=0.5) == (0.2, True)


def test_a_level_out_of_reach_is_a_warning(tiny, erasure, fading):
    fading(erasure, 50.0)
    with pytest.warns(UserWarning, match=r"below 0\.95 up to strength 2\.0"):
        assert first_strength(tiny, erasure, None) == (2.0, False)


def test_strengths_that_make_no_sense(tiny, erasure):
    with pytest.raises(EraseError, match="level is 95"):
        first_strength(tiny, erasure, None, level=95)
    for wrong in ([], [0.0, 1.0], [1.0, 0.5]):
        with pytest.raises(EraseError, match="expected numbers above 0 that rise"):
            first_strength(tiny, erasure, None, strengths=wrong)
    with pytest.raises(EraseError, match="pictures is 0: expected 1 or more"):
        first_strength(tiny, erasure, None, pictures=0)
    with pytest.raises(EraseError, match="strength is nan"):
        erasure.scaled(tiny, float("nan"))
