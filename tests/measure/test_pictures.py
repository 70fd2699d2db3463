"""Pictures are drawn once, and only once for the same; those that others bring are read."""

import copy
import hashlib
import io
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from erase_lib import EraseConfig, Erasure
from erase_lib.diffusion import generate
from erase_lib.files import DATA
from erase_lib.measure import pictures as cache
from erase_lib.measure.pictures import Pictures, picture_tensor, read_folder, real_pictures
from erase_lib.models import load_pipeline

PROMPTS, SEEDS = ["a church", "a dog"], [3, 4]


def arrays(pictures):
    return np.stack([np.asarray(picture) for picture in pictures])


def draw(pipe, folder, prompts=PROMPTS, seeds=SEEDS, **settings):
    return arrays(cache.draw(pipe, prompts, seeds, 2, folder=folder, progress=False, **settings))


def test_the_same_pictures_come_from_the_cache_and_others_are_drawn(tiny, tmp_path, drawings):
    first = draw(tiny, tmp_path)
    assert (first == arrays(generate(tiny, PROMPTS, SEEDS, 2, progress=False))).all()
    assert (draw(tiny, tmp_path) == first).all() and len(drawings) == 1
    assert (draw(tiny, None, keep=False) == first).all() and len(drawings) == 2
    for other in ({"seeds": [3, 5]}, {"prompts": ["a church", "a cat"]}, {"guidance_scale": 2.0}):
        draw(tiny, tmp_path, **other)
    tiny.unet.conv_in.weight.data[0, 0, 0, 0] += 1.0
    draw(tiny, tmp_path)
    assert len(drawings) == 6 and len(list(tmp_path.glob("*.npz"))) == 5


def scheduled(**config):
    def change(pipe):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **config)

    return change


def times(name, factor, rows=slice(None)):
    """A weight that keeps its sign, where a hash of signs would see no other."""

    def change(pipe):
        part, path = name.split(".", 1)
        getattr(pipe, part).get_parameter(path).data[rows] *= factor

    return change


def another_token(pipe):
    pipe.tokenizer = copy.deepcopy(pipe.tokenizer)  # which other tests have too
    pipe.tokenizer.add_tokens(["church"])


WORDS = "text_encoder.embeddings.token_embedding.weight"
ALTERED = {
    "prediction": scheduled(prediction_type="epsilon"),
    "timesteps": scheduled(timestep_spacing="trailing"),
    "steps' offset": scheduled(steps_offset=0),
    "FreeU": lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4),
    "VAE's scale": lambda pipe: pipe.vae.register_to_config(scaling_factor=0.5),
    "tiles": lambda pipe: pipe.vae.enable_tiling(),
    "VAE": times("vae.decoder.conv_out.bias", 3),
    "UNet": times("unet.conv_out.weight", 1.7),
    "one weight": times("unet.conv_in.weight", 1.7, (-1, -1, -1, -1)),
    "a word's meaning": times(WORDS, 1.7, 4321),
    "a word's tokens": another_token,
}


@pytest.mark.parametrize("name", ALTERED)
def test_another_pipeline_never_has_the_pictures_of_the_first(tiny, tmp_path, drawings, name):
    draw(tiny, tmp_path)
    ALTERED[name](tiny)
    second = draw(tiny, tmp_path)
    assert (second == arrays(generate(tiny, PROMPTS, SEEDS, 2, progress=False))).all()
    assert (draw(tiny, tmp_path) == second).all() and len(drawings) == 2


def test_the_same_pipeline_has_the_same_pictures_whatever_was_done_with_it(
    tiny, tiny_folder, tmp_path, uce, drawings
):
    first = draw(tiny, tmp_path)
    with uce("church").applied(tiny):
        draw(tiny, tmp_path)
    tiny.unet.enable_gradient_checkpointing()
    tiny.vae.train().eval()
    for pipe in (tiny, load_pipeline(shutil.copytree(tiny_folder, tmp_path / "moved"), "cpu")):
        assert (draw(pipe, tmp_path) == first).all() and len(drawings) == 2


def test_what_is_in_a_cache_needs_no_lock(tiny, tmp_path, uce, drawings, monkeypatch, refused):
    def locked(*given, **more):
        raise PermissionError("read-only")

    erasure, first = uce("church"), draw(tiny, tmp_path)
    edited = draw(tiny, tmp_path, erasure=erasure)
    monkeypatch.setattr(cache, "alone", locked)
    assert (draw(tiny, tmp_path) == first).all()
    assert (draw(tiny, tmp_path, erasure=erasure) == edited).all() and len(drawings) == 2
    refused(draw, tiny, tmp_path, seeds=[5, 6], erasure=erasure, says="cannot write read-only")


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("prompts", "seeds"), [(64, 100), (64, 63), (0, 1), (65, 64)])
def test_a_seed_too_many_or_too_few(tiny, tmp_path, refused, keep, prompts, seeds):
    asked = ["a dog"] * prompts, list(range(seeds))
    refused(draw, tiny, tmp_path, *asked, keep=keep, says=f"{seeds} seeds for {prompts} prompts")


def test_a_damaged_entry_is_drawn_again(tiny, tmp_path, drawings):
    first = draw(tiny, tmp_path)
    (path,) = tmp_path.glob("*.npz")
    for damage in (b"", b"not a picture", path.read_bytes()[:-40]):
        path.write_bytes(damage)
        with pytest.warns(UserWarning, match=f"{path.name} is damaged"):
            assert (draw(tiny, tmp_path) == first).all()
    assert len(drawings) == 4 and (draw(tiny, tmp_path) == first).all() and len(drawings) == 4


def other(change=lambda a: a, **more):
    """Damage to a file of the cache that still is one."""

    def damage(path):
        with np.load(path) as file:
            given = {"pictures": change(file["pictures"]), "key": file["key"]} | more
        np.savez_compressed(path, **given)

    return damage


def as_npy(path):
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 8, 8, 3), np.uint8))


OTHERS = {
    "a picture too few": other(lambda a: a[:1]),
    "a picture too many": other(lambda a: np.concatenate([a, a[:1]])),
    "none": other(lambda a: a[:0]),
    "another size": other(lambda a: a[:, 1:]),
    "grey": other(lambda a: a[..., 0]),
    "with alpha": other(lambda a: np.concatenate([a, a[..., :1]], -1)),
    "floats": other(lambda a: a.astype(np.float32)),
    "another's": other(key="0" * 24),
    "no pictures": lambda path: np.savez_compressed(path, key=path.stem),
    "a .npy": as_npy,
    "a text": lambda path: path.write_text("half"),
}


@pytest.mark.parametrize("damage", OTHERS)
def test_a_part_of_the_cache_that_holds_others_is_drawn_again(tiny, tmp_path, drawings, damage):
    first = draw(tiny, tmp_path)
    (path,) = tmp_path.glob("*.npz")
    OTHERS[damage](path)
    with pytest.warns(UserWarning, match=f"{path.name} is damaged"):
        assert (draw(tiny, tmp_path) == first).all()
    assert len(drawings) == 2


def test_a_part_without_a_key_of_an_earlier_version_is_read(tiny, tmp_path, drawings):
    first = draw(tiny, tmp_path)
    (path,) = tmp_path.glob("*.npz")
    np.savez_compressed(path, pictures=first)
    assert (draw(tiny, tmp_path) == first).all() and len(drawings) == 1


def test_an_erasure_draws_pictures_of_its_own(tiny, tmp_path, uce, drawings, refused):
    erasure, first = uce("church"), draw(tiny, tmp_path)
    edited = draw(tiny, tmp_path, erasure=erasure)
    with erasure.applied(tiny):
        expected = arrays(generate(tiny, PROMPTS, SEEDS, 2, progress=False))
    assert (edited == expected).all() and (edited != first).any()
    assert (draw(tiny, None, erasure=erasure, keep=False) == edited).all()
    del drawings[:]
    assert (draw(tiny, tmp_path, erasure=erasure) == edited).all()
    assert (draw(tiny, tmp_path) == first).all() and not drawings
    name = next(iter(erasure.tensors))
    erasure.tensors[name] = erasure.tensors[name] + 1e-3
    draw(tiny, tmp_path, erasure=erasure)
    assert len(drawings) == 1
    erasure.base = "another"
    for keep in (True, False):
        refused(draw, tiny, tmp_path, erasure=erasure, keep=keep, says="another")


def test_what_was_drawn_before_a_cut_is_not_drawn_again(tiny, tmp_path, drawings, monkeypatch):
    monkeypatch.setattr(cache, "PART", 2)
    prompts, seeds = ["a church", "a dog", "a cat", "a bus", "a hat"], [1, 2, 3, 4, 5]
    drawings.cut = 3
    with pytest.raises(KeyboardInterrupt):
        draw(tiny, tmp_path, prompts, seeds)
    found = draw(tiny, tmp_path, prompts, seeds)
    assert drawings == [2, 2, 1, 1] and len(found) == 5
    assert (found[2:4] == arrays(generate(tiny, prompts[2:4], seeds[2:4], 2, progress=False))).all()


def test_what_cannot_be_kept_is_a_warning_but_of_an_erasure_stops(tiny, tmp_path, uce, refused):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="not cached in .*file"):
        assert len(draw(tiny, tmp_path / "file")) == 2
    said = ["cannot write", str(tmp_path / "file")]
    refused(draw, tiny, tmp_path / "file", erasure=uce("church"), says=said)


@pytest.mark.parametrize("keep", [True, False])
def test_who_asks_is_told_what_is_drawn_and_may_end_it(tiny, tmp_path, monkeypatch, keep):
    monkeypatch.setattr(cache, "PART", 2)
    ask, given = (["a dog", "a cat", "a bus"], [5, 6, 7], 2), {"folder": tmp_path, "keep": keep}
    told: list[float] = []
    cache.draw(tiny, *ask, progress=told.append, **given)
    assert sorted(told) == told and told[-1] == 1.0
    assert set(told) == ({0.5, 1.0} if keep else {1.0})
    told.clear()
    cache.draw(tiny, *ask, progress=cache.portion(told.append, 1, 4), **given)  # what is kept too
    assert set(told) == ({0.375, 0.5} if keep else {0.5})

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.draw(tiny, *ask, progress=stop, **given)
    assert len(cache.draw(tiny, *ask, progress=False, **given)) == 3  # nothing is left locked


@pytest.mark.parametrize("keep", [True, False])
def test_pictures_are_a_sequence_of_those_that_were_drawn(tiny, tmp_path, monkeypatch, keep):
    monkeypatch.setattr(cache, "PART", 4)
    ask = ["a dog", "a cat", "a bus", "a hat", "a rose"], [5, 6, 7, 8, 9], 2
    found = cache.draw(tiny, *ask, folder=tmp_path, progress=False, keep=keep)
    drawn = generate(tiny, *ask, progress=False)
    assert len(found) == 5 and len(found.parts) == 2
    assert len(list(tmp_path.glob("*.npz"))) == 2 * keep
    for i in (*range(-5, 5), np.int64(3)):
        assert found[i].tobytes() == drawn[i].tobytes()
    for some in (slice(3, 5), slice(None, None, -2), slice(-2, 99), slice(4, 1)):
        assert [p.tobytes() for p in found[some]] == [p.tobytes() for p in drawn[some]]
    for i in (5, -6):
        with pytest.raises(IndexError):
            found[i]


def test_a_part_is_read_once_while_it_is_looked_at(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(cache, "HELD", 1)
    monkeypatch.setattr(cache, "PART", 4)
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for i, path in enumerate(files):
        np.savez_compressed(path, pictures=np.full((4, 2, 2, 3), i, np.uint8))
    pictures = Pictures(files, 8)
    assert pictures[0].getpixel((0, 0))[0] == 0
    files[0].unlink()
    # the first is still held
    assert [pictures[i].getpixel((0, 0))[0] for i in (3, 4)] == [0, 1]
    refused(pictures.__getitem__, 0, says="a.npz run again")
    files[0].write_bytes(b"half")
    with pytest.warns(UserWarning, match="damaged"):
        refused(pictures.__getitem__, 0, says="a.npz run again")


def test_pictures_of_any_kind_become_one_tensor(refused):
    clear = Image.new("RGBA", (128, 96), (255, 0, 0, 0))
    assert torch.equal(picture_tensor([clear]), torch.ones(1, 3, 64, 64))  # transparent is white
    assert picture_tensor(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 64, 64)
    refused(picture_tensor, torch.zeros(3, 64, 64), says=["(3, 64, 64)"])


def test_real_pictures_are_the_data_sets_in_order():
    table = pd.read_parquet(DATA / "emoji" / "pictures.parquet")
    rows = table.sample(6, random_state=0)
    rows = pd.concat([rows, rows[:2]])  # two seeds of a prompt
    found = real_pictures(rows.drop(columns="png").assign(prompt="", seed=1))
    assert len(found) == 8 and len({p.tobytes() for p in found}) == 6
    for picture, png in zip(found, rows["png"], strict=True):
        assert picture.mode == "RGB"
        assert np.array_equal(picture, Image.open(io.BytesIO(png)).convert("RGB"))
    concept, style = table["concept"][0], table["style"][0]
    for other in ((concept, None), (None, style), (None, None), ("tench", style), (concept, "oil")):
        prompts = pd.DataFrame([(concept, style), other], columns=["concept", "style"])
        assert real_pictures(prompts) is None and len(real_pictures(prompts[:1])) == 1


def test_a_folders_pictures_by_name(tmp_path, noise, refused):
    (tmp_path / "notes.txt").write_text("no picture")
    for folder in (tmp_path, tmp_path / "missing"):
        refused(read_folder, folder, says=[str(folder)])
    pictures = noise(3)
    for name, picture in zip(("b.png", "a.PNG", "c.JPEG"), pictures, strict=True):
        picture.convert("RGBA" if name == "a.PNG" else "RGB").save(tmp_path / name)
    found = read_folder(tmp_path)
    assert [p.mode for p in found] == ["RGB"] * 3 and found[2].size == (40, 40)
    assert np.array_equal(found[0], pictures[1]) and np.array_equal(found[1], pictures[0])
    whole = (tmp_path / "b.png").read_bytes()
    for broken in (whole[:200], b"", b"no picture"):
        (tmp_path / "d.png").write_bytes(broken)
        refused(read_folder, tmp_path, says="d.png damaged")


def test_an_erasure_is_known_by_its_tensors_alone():
    def other(tensors):
        return Erasure(tensors, EraseConfig(["church"]), "another", [{"loss": 1.0}]).digest()

    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2)}
    erasure = Erasure(tensors, EraseConfig(["dog"]), "base")
    data = b"a" + np.ones(2, "<f4").tobytes() + b"b" + np.arange(6, dtype="<f4").tobytes()
    assert erasure.digest() == hashlib.sha256(data).hexdigest()[:16]
    same = {"a": tensors["a"].half(), "b": tensors["b"].T.contiguous().T}
    assert not same["b"].is_contiguous() and other(same) == erasure.digest()
    nearly = torch.nextafter(tensors["a"], torch.tensor(2.0))
    for changed in ({"a": nearly}, {"a": tensors["a"], "c": tensors["b"]}):
        assert other({"b": tensors["b"]} | changed) != erasure.digest()
