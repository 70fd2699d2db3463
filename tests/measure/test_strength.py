"""An edit scaled, and the smallest scale at which it erases."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from erase_lib import EraseConfig, Erasure, erase
from erase_lib.measure import first_strength, pictures

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
def judged(monkeypatch, tiny, erasure):
    """Instead of pictures the strength of the edit in place, once for each prompt, of which `seen`
    tells the ranks of concept and style. Tried strengths are noted."""
    tried = []
    name = next(iter(erasure.tensors))
    still = tiny.unet.get_parameter(name).detach().clone()
    whole = (erasure.tensors[name] - still).norm()

    def drawn(pipe, prompts, *given, **named):
        tried.append(float((pipe.unet.get_parameter(name) - still).norm() / whole))
        return tried[-1:] * len(prompts)

    def install(seen):
        def verdicts(judge, strengths, prompts):
            rank, style_rank = seen(strengths[0], prompts)
            return prompts.assign(rank=rank, style_rank=style_rank)

        monkeypatch.setattr(pictures, "generate", drawn)
        monkeypatch.setattr(measuring, "verdicts", verdicts)
        return tried

    return install


def fading(at):
    """The target is gone from 4 of 5 pictures at this strength, from all from twice this on."""

    def seen(s, prompts):
        share = 0.0 if s < at - 1e-4 else 0.8 if s < 2 * at - 1e-4 else 1.0
        return [int(i < round(share * len(prompts))) for i in range(len(prompts))], 0

    return seen


@pytest.mark.parametrize(("at", "level", "found"), [(0.35, 0.8, 0.4), (0.35, 0.95, 0.7)])
def test_the_first_strength_that_reaches_the_level(tiny, erasure, judged, at, level, found):
    tried = judged(fading(at))
    assert first_strength(tiny, erasure, None, level) == (found, True)
    assert len(tried) <= 4  # a bisection of twelve


def test_a_style_is_gone_where_the_judge_sees_another(tiny, erasure, judged):
    erasure.config = replace(erasure.config, targets=("noto style", "church"))
    # the church is gone from the first; every object is seen, in noto below 0.45
    judged(lambda s, prompts: ((prompts["concept"] == "church").astype(int), int(s >= 0.45)))
    assert first_strength(tiny, erasure, None) == (0.5, True)
    assert first_strength(tiny, erasure, None, level=0.5) == (0.2, True)


def test_a_level_out_of_reach_is_a_warning(tiny, erasure, judged):
    judged(fading(50.0))
    with pytest.warns(UserWarning, match=r"below 0\.95 up to strength 2\.0"):
        assert first_strength(tiny, erasure, None) == (2.0, False)


def test_strengths_that_make_no_sense(tiny, erasure, refused):
    refused(first_strength, tiny, erasure, None, level=95, says="level 95")
    for wrong in ([], [0.0, 1.0], [1.0, 0.5]):
        refused(first_strength, tiny, erasure, None, strengths=wrong, says="numbers rise")
    refused(first_strength, tiny, erasure, None, pictures=0, says="pictures 0")
    refused(erasure.scaled, tiny, float("nan"), says="strength nan")
