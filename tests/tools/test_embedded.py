"""The trainings of the embedded model: resumable, whitened exactly, honest about what they saw."""

from __future__ import annotations

import itertools
import random
import shutil
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import CLIPTokenizer

from erase_lib import EraseConfig, EraseError, Erasure, erase, load_pipeline
from tools.embedded import clip, common, export, redraw, twin, unet, vae


class Killed(BaseException):
    """What no training catches, like a kill."""


def weights(folder):
    return {p.relative_to(folder): load_file(p) for p in folder.rglob("*.safetensors")}


def same(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys() and a
    for name in a:
        for key, tensor in a[name].items():
            assert torch.equal(tensor, b[name][key]), f"{name} {key}"


def kill():
    raise Killed


def killed_and_resumed(monkeypatch, tmp_path, train, at, start=None):
    """Folders trained, from a copy of `start`, without a break and with a kill at step `at`, which
    is computed before the process is gone."""
    whole, work = tmp_path / "whole", tmp_path / "killed"
    count = itertools.count(1)
    for folder in (whole, work) if start else ():
        shutil.copytree(start, folder)
    train(work=whole)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(common.Progress, "__call__", lambda *_, **__: next(count) == at and kill())
        train(work=work)
    train(work=work)
    return whole, work


def test_a_killed_vae_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    def train(work):
        vae.train_autoencoder(5, work, batch=2, every=2, concepts=4, size=64)

    folders = killed_and_resumed(monkeypatch, tmp_path, train, at=4)
    same(*folders)
    whole, killed = (torch.load(folder / "latents.pt")["latents"] for folder in folders)
    assert torch.equal(whole, killed) and whole.shape == (16, 2, 16, 8, 8)


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    """The shipped parts with the latents of two concepts, without the UNet."""
    work = tmp_path_factory.mktemp("restored")
    export.restore(work, concepts=2)
    shutil.rmtree(work / "unet")
    return work


def test_a_killed_unet_training_resumes_to_the_same_weights(restored, tmp_path, monkeypatch):
    def train(work):
        unet.train(5, work, batch=4, every=2, channels=(32, 32), concepts=2)

    monkeypatch.setattr(unet, "sample_grid", lambda *arguments: None)  # changes no weight
    whole, killed = killed_and_resumed(monkeypatch, tmp_path, train, at=4, start=restored)
    same(whole / "unet", killed / "unet")


def test_a_killed_decoder_training_resumes_and_leaves_the_encoder(restored, tmp_path, monkeypatch):
    def train(work):
        vae.train_decoder(3, work, batch=2, every=1, concepts=2)

    whole, killed = killed_and_resumed(monkeypatch, tmp_path, train, at=2, start=restored)
    same(whole, killed)
    (old,), (new,) = (weights(whole / part).values() for part in ("vae", "vae_sharp"))
    moved = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved == {"decoder", "post_quant_conv"}


def test_redrawn_latents_keep_the_layout_and_reach_the_decoder(tmp_path):
    export.restore(tmp_path, concepts=2)
    redraw.redraw(tmp_path, depths=(1, 6), concepts=2)
    own = common.load_checkpoint(tmp_path / "redrawn.pt")
    saved = torch.load(tmp_path / "latents.pt", weights_only=True)
    true = saved["latents"][:, 0]
    assert own["latents"].shape == (8, 2, 24, 8, 8)
    # drawn again from little noise a picture is more itself than from much, and than another is
    gap = [(own["latents"][:, i].float() - true).pow(2).mean() for i in (0, 1)]
    assert gap[0] < gap[1] < (true - true.roll(1, 0)).pow(2).mean()
    chosen, mirrored = torch.arange(8).repeat(50), torch.arange(400) % 2 == 0
    z = vae.wrong_latents(saved, own, chosen, mirrored, torch.Generator().manual_seed(0))
    theirs = (z[:, None] == own["latents"][chosen].float()).flatten(2).all(2).any(1)
    assert not theirs[mirrored].any() and 0.5 < theirs[~mirrored].float().mean() < 0.7


def test_a_kill_while_writing_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    path = tmp_path / "part.ckpt"
    common.save_checkpoint(path, {"step": 1})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch, "save", lambda state, file: (file.write_bytes(b"half"), kill()))
        common.save_checkpoint(path, {"step": 2})
    assert common.load_checkpoint(path) == {"step": 1}


def test_a_full_training_refuses_a_folder_of_restored_weights(restored, tmp_path, refused):
    export.check_work(tmp_path)
    assert "vae.ckpt" in refused(export.check_work, restored)


def test_a_resumed_training_keeps_its_vocabulary(tmp_path, monkeypatch):
    first = clip.trained_tokenizer(tmp_path, 700, 50, 2).get_vocab()
    monkeypatch.setattr(clip, "train_tokenizer", lambda folder, *sizes: 1 / 0)
    assert clip.trained_tokenizer(tmp_path).get_vocab() == first


@torch.no_grad()
def test_folded_whitening_is_the_same_function():
    torch.manual_seed(0)
    plain = vae.new_vae().eval()
    mean, std = torch.randn(24), 0.3 + 3 * torch.rand(24)
    folded = deepcopy(plain)
    export.fold_whitening(folded, mean, std)
    m, s = mean[:, None, None], std[:, None, None]
    pictures = 2 * torch.rand(2, 3, 128, 128) - 1
    before, after = plain.encode(pictures).latent_dist, folded.encode(pictures).latent_dist
    torch.testing.assert_close(after.mean, (before.mean - m) / s, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.std, before.std / s, atol=1e-5, rtol=1e-5)
    z = torch.randn(2, 24, 8, 8)
    drawn = folded.decode((z - m) / s).sample
    torch.testing.assert_close(drawn, plain.decode(z).sample, atol=1e-4, rtol=1e-4)
    assert folded.config.scaling_factor == 1


def test_word_groups_are_fixed_and_halve_the_texts():
    assert (clip.word_group("dog"), clip.word_group("horse")) == (1, 0)  # the same on any machine
    share = sum(map(clip.word_group, clip.common_words(2000))) / 2000
    assert 0.45 < share < 0.55


def test_similarities_across_the_two_halves_are_never_compared():
    g = torch.Generator().manual_seed(0)
    teacher = F.normalize(torch.randn(8, 384, generator=g), dim=-1)
    turn, _ = torch.linalg.qr(torch.randn(384, 384, generator=g))
    ours = torch.cat([teacher[:4], teacher[4:] @ turn])  # cosines kept within each half only
    model = SimpleNamespace(to_minilm=lambda pooled: teacher)
    assert clip.distil(model, ours, teacher) < 1e-5
    assert (ours @ ours.T - teacher @ teacher.T).abs().max() > 0.05
    ours[4:] = ours[4:].flip(0)  # the cosines within the second half are now wrong too
    assert clip.distil(model, ours, teacher) > 1e-4


def test_a_step_pairs_words_of_one_group_only(tmp_path, monkeypatch):
    def marked(texts):
        g = torch.Generator().manual_seed(len(texts))
        group = torch.tensor([clip.word_group(text) for text in texts])
        return torch.cat([group[:, None].float(), torch.randn(len(texts), 383, generator=g)], 1)

    seen = []

    def spy(model, pooled, teacher):
        seen.append([half[:, 0].unique().tolist() for half in teacher.chunk(2)])
        return pooled.sum() * 0

    monkeypatch.setattr(clip, "minilm", marked)
    monkeypatch.setattr(clip, "distil", spy)
    clip.train(2, tmp_path, pairs=4, words=32, known=400, vocabulary=1600, concepts=8)
    assert seen == [[[0.0], [1.0]]] * 2
    assert CLIPTokenizer.from_pretrained(tmp_path / "text").model_max_length == clip.TOKENS


def test_a_twin_in_eight_bits_is_put_in_place_of_the_models_own(tiny, tmp_path):
    other = deepcopy(tiny.unet)
    g = torch.Generator().manual_seed(0)
    for p in other.parameters():
        p.data = p.data + 0.1 * torch.randn(p.shape, generator=g)
    other.save_pretrained(tmp_path / "unet")
    export.in_bytes(tmp_path / "unet", path := tmp_path / "twin.safetensors")
    assert path.stat().st_size < 0.3 * sum(p.numel() * 4 for p in other.parameters()) + 2e5
    found = Erasure.between(tiny, path, ["church"]).tensors
    for name, p in other.named_parameters():
        width = p.detach().flatten(1).abs().amax(1) / 127 if p.ndim > 1 else p.detach().abs() / 1e3
        apart = (found[name] - p.detach()).flatten(1) if p.ndim > 1 else found[name] - p.detach()
        assert (apart.abs() <= 0.51 * width.view(-1, *[1] * (apart.ndim - 1)) + 1e-6).all(), name


@pytest.mark.slow
def test_how_far_a_run_is_from_the_twin(tmp_path, capsys, monkeypatch):
    pipe = load_pipeline()
    edit = erase(pipe, EraseConfig(targets=("church",), method="eap_closed"), callbacks=[])
    edit.save(tmp_path / "runs" / "one")
    monkeypatch.setattr(twin, "apart", partial(twin.apart, near=1, far=1))
    assert not twin.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "t.csv")])
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["group"].tolist() == ["target", "near", "far"]
    assert "one {" in capsys.readouterr().out and set(table["method"]) == {"eap_closed"}
    church = table.set_index("concept").loc["church"]
    assert church["share"] == pytest.approx(church["erased"] / church["original"], rel=0.01)
    # without the target it predicts more as the model that never knew it
    assert church["share"] < 1 and table.filter(like="pictures").gt(0).all(None)
    with pytest.raises(EraseError, match="no erasures"):
        twin.apart(tmp_path)


def test_learning_rate_by_hand():
    # the first of 100 warm-up steps; a plateau until 30 %; halfway down the cosine at 650
    for step, rate in {0: 0.01, 49: 0.5, 100: 1.0, 299: 1.0, 650: 0.5, 1000: 0.0}.items():
        assert common.cosine_rate(step, 1000, 1.0) == pytest.approx(rate, abs=1e-12)


def test_captions_by_hand():
    row = SimpleNamespace(concept="dog", style="noto", keywords="pet")
    styled = ["a dog in noto style"] * 2 + ["dog in noto style", "a noto emoji of a dog"]
    styled += ["a picture of a dog in noto style", "a dog, pet, in noto style"]
    plain = ["a pet in noto style", "a dog", "dog"]
    assert common.captions(row, random.Random(0)) == styled + plain
    # without keywords a concept is its own
    row = SimpleNamespace(concept="fuel pump", style="fluent", keywords="")
    assert "a fuel pump in fluent style" in common.captions(row, random.Random(0))[6]


def test_some_concepts_are_the_first_of_the_alphabet_in_every_style():
    table, pictures = common.read_pictures(3)
    assert pictures.shape == (12, 3, 128, 128) and pictures.dtype == torch.uint8
    small = common.read_pictures(3, common.SEEN)[1]  # means of four pixels
    four = pictures.double().unflatten(3, (64, 2)).unflatten(2, (64, 2)).mean((3, 5))
    assert small.dtype == torch.uint8 and (small.double() - four).abs().max() <= 0.5
    assert table["concept"].nunique() == 3 and table["concept"].is_monotonic_increasing


@torch.no_grad()
def test_a_grown_vae_begins_as_the_smaller_one(monkeypatch):
    monkeypatch.setitem(vae.SHAPES, 128, ((16, 32, 64, 128, 256), 24))  # twice: it is exact then
    old = vae.new_vae(64).eval()
    for layer in (old.encoder.conv_in, old.decoder.conv_out):  # their edges would be half as wide
        layer.weight[..., (0, 0, 0, 1, 1, 2, 2, 2), (0, 1, 2, 0, 2, 0, 1, 2)] = 0
    new = vae.grow(old).eval()
    pictures = 2 * torch.rand(2, 3, 64, 64) - 1
    before, after = (v.encode(p).latent_dist for v, p in ((old, pictures), (new, twice(pictures))))
    for name in ("mean", "logvar"):
        found = getattr(after, name)
        assert found.shape == (2, 24, 8, 8)
        torch.testing.assert_close(found[:, :16], getattr(before, name), atol=1e-3, rtol=1e-3)
    z = torch.cat([before.mean, torch.randn(2, 8, 8, 8)], 1)  # nothing reads the new channels yet
    drawn = twice(old.decode(before.mean).sample)
    torch.testing.assert_close(new.decode(z).sample, drawn, atol=1e-3, rtol=1e-3)


def twice(pictures):
    return F.interpolate(pictures, scale_factor=2.0)


def test_copies_of_a_channel_share_what_the_one_gave():
    old = torch.randn(4, 6, 3, 3)
    new = vae.widen(old, 6, 12)  # some rows twice; every column twice
    assert new.shape == (6, 12, 3, 3)
    rows = torch.tensor([0, 0, 1, 2, 2, 3])
    torch.testing.assert_close(new[:, ::2] + new[:, 1::2], old[rows])
    assert (new[:, ::2] - new[:, 1::2]).abs().min() > 0  # not in equal parts
    assert torch.equal(vae.widen(old[:, 0, 0, 0], 6), old[rows, 0, 0, 0])


def test_a_damaged_checkpoint_and_a_full_disk_are_one_line(tmp_path, monkeypatch, refused):
    path = tmp_path / "unet.ckpt"
    common.save_checkpoint(path, {"step": 1, "model": torch.ones(1000)})
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"x" * 100):
        path.write_bytes(damaged)
        refused(common.load_checkpoint, path, says="unet.ckpt damaged delete")
    path.write_bytes(whole)

    def full(state, file):
        file.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    refused(common.save_checkpoint, path, {"step": 2}, says="unet.ckpt free space")
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def test_a_training_by_the_clock_stops_in_time_and_keeps_the_last_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(common.time, "time", lambda: now[0])
    progress = common.Progress("vae", 100, 0, seconds=130)
    kept, guesses = [], []
    for step in progress:
        now[0] += 7
        guesses.append(progress.steps)
        if progress.due(step, 10):
            kept.append(step)
    assert kept == [108, 117, 118] and step == 118  # each minute, and at the end: 19 steps of 7 s
    assert abs(guesses[-1] - 119) <= 1 and all(g > s for s, g in enumerate(guesses, 100))


def test_the_twin_that_never_knew_sees_none_of_what_is_left_out(restored, tmp_path, monkeypatch):
    table, _ = common.read_pictures()
    for names, left in {
        (): 4 * 428,
        ("openmoji",): 3 * 428,
        ("church",): 4 * 427,
        ("objects",): 4 * 418,
        ("objects", "church", "noto"): 3 * 418,
    }.items():
        kept = table.iloc[unet.rows_without(table, names)]
        assert len(kept) == left and not set(names) & {*kept["concept"], *kept["style"]}
    theme = table.iloc[unet.rows_without(table, ["weapon"])]
    assert "dagger" not in set(theme["concept"]) and 380 < theme["concept"].nunique() < 428
    shutil.copytree(restored, work := tmp_path / "work")
    names, seen = sorted(set(table["concept"]))[:2], []
    spied = unet.TextCache.captions

    def spy(text, picture, form):
        seen.extend(text.table["concept"].iloc[picture])
        return spied(text, picture, form)

    monkeypatch.setattr(unet.TextCache, "captions", spy)
    monkeypatch.setattr(unet, "sample_grid", lambda *arguments: None)
    sizes = {"batch": 16, "channels": (32, 32), "concepts": 2}
    unet.train(2, work, name="twin", without=names[:1], **sizes)
    assert set(seen) == set(names[1:]) and (work / "twin" / "config.json").exists()


def test_model_and_twin_go_on_from_one_root_that_never_saw_what_comes_in_later(
    restored, tmp_path, monkeypatch
):
    shutil.copytree(restored, work := tmp_path / "work")
    table, _ = common.read_pictures(2)
    names, drawn = sorted(set(table["concept"])), []
    spied = unet.TextCache.captions
    monkeypatch.setattr(
        unet.TextCache,
        "captions",
        lambda text, picture, form: drawn.append(picture) or spied(text, picture, form),
    )
    monkeypatch.setattr(unet, "sample_grid", lambda *arguments: None)
    learn = {"steps": 8, "work": work, "batch": 64, "channels": (32, 32), "concepts": 2}
    root = unet.train(until=3, name="root", without=names[:1], every=100, **learn)
    assert root.done == 3 and len(drawn) == 3  # and its checkpoint is kept, though none was due
    drawn.clear()
    assert unet.train(begin="root", again=names[:1], **learn).first == 3
    late = torch.isin(torch.cat(drawn), torch.tensor(table.index[table["concept"] == names[0]]))
    assert 0.6 < late.float().mean() < 0.73  # two thirds: drawn twice as often
    # the twin goes on as if there had been no break
    unet.train(begin="root", name="twin", without=names[:1], **learn)
    unet.train(name="whole", without=names[:1], **learn)
    twin, whole = (common.load_checkpoint(work / f"{n}.ckpt")["model"] for n in ("twin", "whole"))
    assert all(torch.equal(twin[name], tensor) for name, tensor in whole.items())


def test_what_is_gone_on_from_must_be_there(restored, refused):
    refused(unet.train, 2, restored, concepts=2, channels=(32, 32), begin="rot", says="rot UNet")


def test_what_is_left_out_must_be_known_and_not_everything(refused):
    table, _ = common.read_pictures(3)
    refused(unet.rows_without, table, common.STYLES, says="nothing noto")
    refused(unet.rows_without, common.read_pictures()[0], ["churh"], says="churh church")


def test_captions_that_vary_call_a_picture_by_more_of_its_keywords(restored):
    once, often = (unet.TextCache(restored, 2, variants=n) for n in (1, 6))
    assert once.forms.shape == (8, 9) and often.forms.shape == (8, 54)
    assert torch.equal(once.forms[:, 0], once.forms[:, 1])  # the first form stands twice
    assert len(often.texts) > len(once.texts) and often.texts.shape[1:] == (16, 192)
    texts = [f"a {row.concept} in {row.style} style" for row in once.table.itertuples()]
    torch.testing.assert_close(often.captions(slice(None), 9), once(texts), atol=1e-5, rtol=1e-4)


def test_min_snr_weights_by_hand():
    a = torch.tensor([0.5, 0.8, 0.99])  # signal-to-noise ratios of 1, 4 and 99
    by_hand = torch.tensor([1 / 2, 2 / 5, 2 / 100])
    torch.testing.assert_close(unet.weights(a, 2.0), by_hand / by_hand.mean())
    assert torch.equal(unet.weights(a, None), torch.ones(3))
