"""Pictures are drawn once, and only once for the same."""

from __future__ import annotations

import numpy as np
import pytest

from erase_lib import EraseConfig, EraseError
from erase_lib.closed_form import erase_closed_form
from erase_lib.diffusion import generate
from erase_lib.measure import pictures as cache

PROMPTS, SEEDS = ["a church", "a dog"], [3, 4]


@pytest.fixture
def drawings(monkeypatch):
    """How often `generate` was called by the cache."""
    calls = []

    def counted(*arguments, **settings):
        calls.append(arguments)
        return generate(*arguments, **settings)

    monkeypatch.setattr(cache, "generate", counted)
    return calls


def arrays(pictures):
    return np.stack([np.asarray(picture) for picture in pictures])


def draw(pipe, folder, prompts=PROMPTS, seed=SEEDS, **settings):
    return arrays(cache.draw(pipe, prompts, seed, 2, folder=folder, progress=False, **settings))


def test_the_same_pictures_come_from_the_cache(tiny, tmp_path, drawings):
    first = draw(tiny, tmp_path)
    assert (first == arrays(generate(tiny, PROMPTS, SEEDS, 2, progress=False))).all()
    assert (draw(tiny, tmp_path) == first).all() and len(drawings) == 1


def test_whatever_changes_the_pictures_is_another_entry(tiny, tmp_path, drawings):
    draw(tiny, tmp_path)
    draw(tiny, tmp_path, seed=[3, 5])
    draw(tiny, tmp_path, prompts=["a church", "a cat"])
    draw(tiny, tmp_path, guidance_scale=2.0)
    tiny.unet.conv_in.weight.data[0, 0, 0, 0] += 1.0
    draw(tiny, tmp_path)
    assert len(drawings) == 5 and len(list(tmp_path.glob("*.npz"))) == 5


def test_a_damaged_entry_is_drawn_again(tiny, tmp_path, drawings):
    first = draw(tiny, tmp_path)
    (path,) = tmp_path.glob("*.npz")
    for damage in (b"", b"not a picture", path.read_bytes()[:-40]):
        path.write_bytes(damage)
        with pytest.warns(UserWarning, match=f"{path.name} is damaged .*: drawn again"):
            assert (draw(tiny, tmp_path) == first).all()
    assert len(drawings) == 4 and (draw(tiny, tmp_path) == first).all() and len(drawings) == 4


def test_a_cache_that_cannot_be_written_is_a_warning(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="not cached in .*file"):
        draw(tiny, tmp_path / "file")


def test_an_erasure_draws_pictures_of_its_own(tiny, tmp_path, drawings):
    first = draw(tiny, tmp_path)
    erasure = erase_closed_form(tiny, EraseConfig(["church"], method="uce", nearest=4))
    edited = draw(tiny, tmp_path, erasure=erasure)
    with erasure.applied(tiny):
        expected = arrays(generate(tiny, PROMPTS, SEEDS, 2, progress=False))
    assert (edited == expected).all() and (edited != first).any()
    assert (draw(tiny, tmp_path, erasure=erasure) == edited).all()
    assert (draw(tiny, tmp_path) == first).all() and len(drawings) == 2
    name = next(iter(erasure.tensors))
    erasure.tensors[name] = erasure.tensors[name] + 1e-3
    draw(tiny, tmp_path, erasure=erasure)
    assert len(drawings) == 3
    erasure.base = "another"
    with pytest.raises(EraseError, match="made for base model another"):
        draw(tiny, tmp_path, erasure=erasure)


def test_what_was_drawn_before_a_cut_is_not_drawn_again(tiny, tmp_path, drawings, monkeypatch):
    monkeypatch.setattr(cache, "PART", 2)
    prompts, seeds = ["a church", "a dog", "a cat", "a bus", "a hat"], [1, 2, 3, 4, 5]
    draw(tiny, tmp_path, prompts[:4], seeds[:4])  # cut off after two parts
    found = draw(tiny, tmp_path, prompts, seeds)
    assert [len(call[1]) for call in drawings] == [2, 2, 1] and len(found) == 5
    assert (found[2:4] == arrays(generate(tiny, prompts[2:4], seeds[2:4], 2, progress=False))).all()


def test_erased_pictures_that_cannot_be_kept_stop_the_run(tiny, tmp_path):
    erasure = erase_closed_form(tiny, EraseConfig(["church"], method="uce", nearest=4))
    (tmp_path / "file").write_text("")
    with pytest.raises(EraseError, match="cannot write to .*file.*free space"):
        draw(tiny, tmp_path / "file", erasure=erasure)
