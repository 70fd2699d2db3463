"""Attention maps against their formula, and prompts given by layer or by step."""

import numpy as np
import pytest
import torch

from erase_lib import generate, load_pipeline
from erase_lib.diffusion import decode, encode, predict, start_noise
from erase_lib.study import attention
from erase_lib.text import encode_prompts


@pytest.fixture
def asked(tiny):
    c = encode_prompts(tiny, ["a dog", "a church"])
    return start_noise(tiny, [0, 1]), torch.tensor([500, 900]), c


def same(a, b):
    return all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(a, b, strict=True))


def test_maps_are_the_softmax_of_queries_and_keys(tiny, asked):
    z, t, c = asked
    seen = {}
    name, layer = next(iter(attention.cross_layers(tiny.unet).items()))
    handle = layer.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    with attention.attention_maps(tiny) as maps:
        predict(tiny, z, t, c)
    handle.remove()
    heads, places = layer.heads, seen["x"].shape[1]
    q = layer.to_q(seen["x"]).view(2, places, heads, -1)
    k = layer.to_k(c).view(2, c.shape[1], heads, -1)
    logits = torch.einsum("nphd,nthd->nhpt", q, k) / q.shape[-1] ** 0.5
    expected = logits.softmax(-1).mean(1).transpose(1, 2)  # (n, tokens, places)
    torch.testing.assert_close(maps[name].flatten(2), expected)
    assert list(maps) == list(attention.cross_layers(tiny.unet))
    for found in maps.values():  # every place shares out all of its attention
        torch.testing.assert_close(found.sum(1), torch.ones_like(found[:, 0]))
    mean = attention.averaged(maps, 8)
    assert mean.shape == (2, c.shape[1], 8, 8)
    torch.testing.assert_close(mean.sum(1), torch.ones(2, 8, 8))


def test_nothing_listens_afterwards(tiny, asked):
    z, t, c = asked
    before = predict(tiny, z, t, c)
    with attention.attention_maps(tiny) as maps:
        pass
    assert torch.equal(before, predict(tiny, z, t, c)) and not maps
    with attention.heard(tiny.unet, list(attention.cross_layers(tiny.unet)), c.flip(0)):
        other = predict(tiny, z, t, c)
    torch.testing.assert_close(other, predict(tiny, z, t, c.flip(0)))
    assert torch.equal(before, predict(tiny, z, t, c))


def test_a_plain_drawing_is_that_of_generate(tiny):
    prompts, given = ["a dog", "a church"], {"seed": 3, "steps": 3, "progress": False}
    c, plain = encode_prompts(tiny, prompts), generate(tiny, prompts, **given)
    assert same(plain, attention.draw_embeddings(tiny, [c] * 3, [3, 4]))
    # every layer hears the other prompt, the empty half of guidance is left alone
    with attention.heard(tiny.unet, list(attention.cross_layers(tiny.unet)), c.flip(0)):
        turned = attention.draw_embeddings(tiny, [c] * 3, [3, 4])
    expected = generate(tiny, prompts[::-1], **given)
    assert same(turned, expected) and not same(plain, expected)


def test_switched_from_one_prompt_to_the_other(tiny):
    first, second = (encode_prompts(tiny, [p]) for p in ("a dog", "a church"))
    plan = attention.switched(first, second, 2)
    told = [["first" if torch.equal(c, first[0]) else "second" for c in step] for step in plan]
    assert told == [["second", "first", "first"], ["second", "second", "first"]]
    drawn = attention.draw_embeddings(tiny, plan, [5] * 3)
    assert same(drawn[:1], generate(tiny, ["a church"], seed=5, steps=2, progress=False))
    assert same(drawn[2:], generate(tiny, ["a dog"], seed=5, steps=2, progress=False))


def test_what_cannot_be_drawn_or_heard(tiny, asked, refused):
    _, _, c = asked
    assert "1 seeds" in refused(attention.draw_embeddings, tiny, [], [0])
    assert "2 prompts" in refused(attention.draw_embeddings, tiny, [c, c], [0])
    name = next(iter(attention.cross_layers(tiny.unet)))
    assert f"'{name}'" in refused(attention.heard(tiny.unet, [name[:-1]], c).__enter__)


def test_the_embedded_autoencoder_returns_a_picture_nearly():
    pipe = load_pipeline()
    assert len(attention.cross_layers(pipe.unet)) == 7
    picture = generate(pipe, ["a church in noto style"], seed=0, steps=8, progress=False)
    z = encode(pipe, picture)
    assert z.shape == (1, 24, 8, 8) and 0.5 < z.std() < 2
    (again,) = decode(pipe, z)
    gap = np.asarray(again, float) - np.asarray(picture[0], float)
    assert np.abs(gap).mean() < 8  # of 255
