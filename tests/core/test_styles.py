"""A style as the target of an erasure: its prompts, its settings, and two runs."""

from __future__ import annotations

import warnings

import pytest
import torch

from erase_lib import EraseConfig, erase
from erase_lib.concepts import check_concepts, concept_table, drawn, forms_of, is_style, prompts_of
from erase_lib.config import HOUSES
from erase_lib.measure.prompts import target_prompts
from erase_lib.text import encode_prompts

STYLES = ("twemoji", "fluent")


def smoke(**values):
    given = {"targets": ["noto style"], "anchors": [""]}
    return EraseConfig.from_profile("smoke", **(given | values)).settled(True)


def test_prompts_of_a_style_pair_up_with_those_of_what_takes_its_place():
    erased = prompts_of("noto style", STYLES)
    assert erased[:3] == ["noto style", "a picture in noto style", "a airplane in noto style"]
    neutral = forms_of("", STYLES, "noto style")
    assert neutral == [e.removesuffix(" in noto style") if i else "" for i, e in enumerate(erased)]
    assert neutral[2:] == [f"a {thing}" for thing in drawn()]
    other = forms_of("fluent style", STYLES, "noto style")
    assert other == [text.replace("noto", "fluent") for text in erased]
    # of an object nothing has changed
    assert forms_of("house", STYLES, "church") == prompts_of("house", STYLES)
    assert is_style("Van Gogh style") and not is_style("style") and not is_style("church")


def test_a_style_that_is_erased_is_no_style_of_the_prompts(refused):
    assert smoke().styles == ("twemoji", "fluent", "openmoji")
    assert smoke(targets=["church"]).styles == ("noto", "twemoji", "fluent", "openmoji")
    both = smoke(targets=["noto style", "fluent style"])
    assert both.styles == ("twemoji", "openmoji") == EraseConfig.from_dict(both.to_dict()).styles
    check_concepts(["noto style", "church"])
    text = refused(check_concepts, ["not style"])
    assert "'not style'" in text and "'noto style'" in text


def test_a_style_is_erased_by_training(tiny):
    base = dict(tiny.unet.named_parameters())
    tensors = erase(tiny, smoke(method="esd", lr=1e-2), []).tensors
    assert any(not torch.equal(t, base[name]) for name, t in tensors.items())
    assert all(t.isfinite().all() for t in tensors.values())


def test_uce_gives_a_style_the_values_of_the_same_picture_without_it(tiny):
    erasure = erase(tiny, smoke(method="uce", ridge=1e-3, lam=0.1), [])
    pairs = ["a dog in noto style", "a rose in noto style"], ["a dog", "a rose"]
    styled, plain = (encode_prompts(tiny, texts) for texts in pairs)
    for name, tensor in erasure.tensors.items():
        w = tiny.unet.get_parameter(name)
        gap = (styled @ w.T - plain @ w.T).norm()
        assert (styled @ tensor.T - plain @ w.T).norm() < 0.6 * gap


def test_a_style_becomes_another_one_for_all_its_objects(tiny):
    given = {"method": "uce", "ridge": 1e-3, "lam": 0.1, "nearest": 12, "candidates": 6}
    with pytest.warns(UserWarning, match="'twemoji style' becomes 'openmoji style'"):
        erasure = erase(tiny, EraseConfig(targets=["twemoji style"], **given))
    assert erasure.config.anchors == ("openmoji style",)
    unseen = [c for c in concept_table()["concept"] if c not in set(drawn())][::9]
    styles = ("twemoji", "openmoji")
    old, new = (encode_prompts(tiny, [f"a {c} in {s} style" for c in unseen]) for s in styles)
    for name, tensor in erasure.tensors.items():
        w = tiny.unet.get_parameter(name)
        gap = (old @ w.T - new @ w.T).norm()
        assert (old @ tensor.T - new @ w.T).norm() < 0.6 * gap


def test_what_a_style_becomes(refused):
    def become(settled=True, **given):
        return EraseConfig(**given).settled(settled).become

    with pytest.warns(UserWarning, match="becomes"):
        assert become(targets=["Noto style"]) == ("openmoji style",)
        assert become(targets=["church", "noto style"]) == ("", "openmoji style")
        assert become(targets=["noto style"], method="ca") == ("openmoji style",)
        assert become(targets=["openmoji style"]) == ("noto style",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert become(targets=["noto style"], anchors=[""]) == ("",)
        assert become(targets=["noto style"], neutral="a photo") == ("a photo",)
        assert become(targets=["noto style"], method="age") == ("",)
    every = [f"{name} style" for name in HOUSES]
    refused(become, targets=every, says="'noto style' anchors")
    with pytest.warns(UserWarning, match="give anchors"):  # another model's styles are not known
        assert become(False, targets=["Van Gogh style"]) == ("",)
    refused(become, False, targets=["Van Gogh style"], method="ca", says="'Van Gogh style' anchors")
    refused(become, targets=["noto style", "church"], method="ca", says="'ca' anchors")


def test_no_object_that_a_style_is_looked_for_in_is_one_that_it_is_erased_on(tiny):
    looked_for = set(target_prompts(tiny, ["noto style"], pictures=20)["concept"])
    assert len(drawn()) == len(set(drawn())) == 122 and not looked_for & set(drawn())
