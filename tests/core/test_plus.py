"""Erasures of one base add up: by hand, one after the other, and in the pictures of two targets."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from erase_lib import EraseConfig, Erasure, erase, generate, load_pipeline
from erase_lib.export import matrices
from erase_lib.families import denoiser, entries
from erase_lib.measure import Judge
from tools.benchmarks.shapes import random_family

SMALL = {"steps": 2, "sampling_steps": 2, "nearest": 6, "lr": 1e-2}


def made(pipe, target, method="esd", **settings):
    return erase(pipe, EraseConfig((target,), method, **SMALL | settings), [])


def weights(pipe):
    return {n: p.detach().double() for n, p in denoiser(pipe).named_parameters()}


def same(a, b):
    assert a.tensors.keys() == b.tensors.keys() and a.digest() == b.digest()
    assert a.config == b.config and a.history == b.history and a.base == b.base


def close(tensors, others, tolerance=1e-5):
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor.double(), others[name], rtol=0, atol=tolerance)


def test_trained_edits_add_up_in_either_order(tiny):
    a, b = made(tiny, "church"), made(tiny, "dog", train_method="kv")
    both, w = a.plus(tiny, b), weights(tiny)
    same(both, b.plus(tiny, a))
    assert {*b.tensors} < {*a.tensors} == {*both.tensors}
    for name, tensor in both.tensors.items():
        if name in b.tensors:
            by_hand = w[name] + (a.tensors[name] - w[name]) + (b.tensors[name] - w[name])
            torch.testing.assert_close(tensor.double(), by_hand, rtol=0, atol=1e-6)
            assert not torch.equal(tensor, a.tensors[name])
        else:
            assert torch.equal(tensor, a.tensors[name])


@pytest.mark.parametrize(("first", "second"), [("uce", "uce"), ("uce", "speed")])
def test_closed_forms_follow_one_another_by_the_mean_of_both_orders(tiny, first, second):
    a, b = made(tiny, "church", first), made(tiny, "dog", second)
    both, w = a.plus(tiny, b), weights(tiny)
    same(both, b.plus(tiny, a))

    def t(edit):  # by another way than the library's
        old, new = (torch.cat([x[n].double() for n in edit.tensors]) for x in (w, edit.tensors))
        return torch.linalg.lstsq(old, new).solution

    mean = (t(a) @ t(b) + t(b) @ t(a)) / 2
    close(both.tensors, {name: w[name] @ mean for name in both.tensors})
    plain = {n: a.tensors[n].double() + b.tensors[n].double() - w[n] for n in both.tensors}
    assert max((both.tensors[n] - x).abs().max() for n, x in plain.items()) > 1e-3  # no sum


def test_closed_forms_by_hand_one_after_the_other(tiny, tiny_folder):
    """UCE's T hangs on the text alone, so of a model without a church it makes W T_a T_b."""
    one, other = made(tiny, "church", "uce"), made(tiny, "dog", "uce")
    orders = []
    for begin, target in ((one, "dog"), (other, "church")):
        pipe = load_pipeline(tiny_folder, device="cpu")
        pipe.unet.load_state_dict(begin.tensors, strict=False)
        orders.append(made(pipe, target, "uce").tensors)
    both = one.plus(tiny, other).tensors
    close(both, {n: (orders[0][n].double() + orders[1][n].double()) / 2 for n in both})


def test_closed_forms_are_known_in_half_precision_too(tiny, tiny_folder):
    a, b = made(tiny, "church", "uce"), made(tiny, "dog", "speed")
    half = load_pipeline(tiny_folder, device="cpu", dtype="bfloat16")
    both = a.plus(tiny, b).tensors
    close(a.plus(half, b).tensors, {n: t.double() for n, t in both.items()}, 0.01)
    assert (
        len(matrices(a, half)) == 1 and matrices(made(tiny, "cat", train_method="kv"), tiny) == []
    )


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_every_family_adds(kind, tmp_path):
    random_family(kind).save_pretrained(tmp_path)
    pipe = load_pipeline(tmp_path, device="cpu")
    w = {n: p.detach().clone() for n, p in denoiser(pipe).named_parameters()}
    a, b = made(pipe, "church", "uce"), made(pipe, "dog", "uce")
    both = a.plus(pipe, b)
    for entry in entries(denoiser(pipe)):  # by least squares, where W has fewer rows than columns
        old = torch.cat([w[n].double() for n in entry.weights])
        ra, rb = (
            torch.linalg.pinv(old) @ (torch.cat([e.tensors[n] for n in entry.weights]) - old)
            for e in (a, b)
        )
        new = torch.cat([both.tensors[n].double() for n in entry.weights])
        expected = old + old @ (ra + rb + (ra @ rb + rb @ ra) / 2)
        torch.testing.assert_close(new, expected, rtol=0, atol=1e-4)


def test_a_closed_form_and_a_trained_edit_add_up(tiny):
    a, b = made(tiny, "church", "uce"), made(tiny, "dog", "esd", train_method="selfattn")
    apart = a.plus(tiny, b)  # which have nothing in common
    assert apart.tensors.keys() == a.tensors.keys() | b.tensors.keys()
    assert all(torch.equal(apart.tensors[n], t) for n, t in (a.tensors | b.tensors).items())
    c, w = made(tiny, "cat", "esd", train_method="kv"), weights(tiny)
    both = a.plus(tiny, c).tensors
    close(both, {n: a.tensors[n] + c.tensors[n].double() - w[n] for n in both})


def test_a_sum_says_what_it_is_and_is_saved_scaled_exported_and_added_to(tiny, tmp_path):
    a, b = made(tiny, "church", "uce").scaled(tiny, 0.5), made(tiny, "dog", "speed")
    both = a.plus(tiny, b)
    assert both.config.targets == ("church", "dog") and both.config.method == "other"
    told = [(row["target"], row["method"], row["strength"]) for row in both.history]
    assert told == [("church", "uce", 0.5), ("dog", "speed", 1.0)]
    assert both.history[0]["l1"] == a.history[0]["l1"] and both.strength == 1
    same(both, Erasure.load(both.save(tmp_path / "saved")))
    w = weights(tiny)
    close(both.scaled(tiny, 0.0).tensors, w, 0)
    t = load_file(both.export(tiny, tmp_path / "T", kind="matrix") / "matrix.safetensors")["T"]
    close(both.tensors, {name: w[name] @ t.double() for name in both.tensors}, 1e-4)
    c = made(tiny, "cat", "esd")
    three = both.scaled(tiny, 0.5).plus(tiny, c)
    assert three.config.targets == ("cat", "church", "dog")
    told = [(row["target"], row["strength"]) for row in three.history]
    assert told == [("cat", 1.0)] * 2 + [("church", 0.25), ("dog", 0.5)]
    with three.applied(tiny):
        assert len(generate(tiny, ["a dog"], steps=1, progress=False)) == 1
    c.partial = True
    assert both.plus(tiny, c).partial and not both.partial


def test_what_cannot_be_added(tiny, refused):
    a = made(tiny, "church", "uce")
    refused(a.plus, tiny, made(tiny, "Church", "speed"), says="targets church twice")
    other = Erasure(a.tensors, EraseConfig(("dog",), "uce"), "another base")
    for one, two in ((a, other), (other, a)):
        refused(one.plus, tiny, two, says="another base")
    refused(a.plus, tiny, a.tensors, says="other Erasure")


def test_both_targets_are_gone_and_others_stay():
    pipe, judge = load_pipeline(device="cpu"), Judge.load()
    a, b = (erase(pipe, EraseConfig((t,), "uce"), []).scaled(pipe, 1.2) for t in ("church", "dog"))
    words = ["church", "dog", "guitar"]
    prompts = [f"a {word} in {style} style" for word in words for style in ("noto", "fluent")]

    def seen(edit):
        with edit.applied(pipe):
            drawn = generate(pipe, prompts, seed=0, steps=6, progress=False)
        found = judge.sees(drawn)
        return {word: found[2 * i : 2 * i + 2].count(word) for i, word in enumerate(words)}

    assert seen(a.scaled(pipe, 0.0)) == dict.fromkeys(words, 2)
    assert seen(a.plus(pipe, b)) == {"church": 0, "dog": 0, "guitar": 2}
