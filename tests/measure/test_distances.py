"""CLIP, and distances of pictures, pair by pair and as sets, against other implementations and by
hand."""

import time
import warnings
from importlib.metadata import version

import huggingface_hub.constants as hub
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg, stats
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer

from erase_lib.measure import clip_score, load_clip, prompt_table
from erase_lib.measure import distances as quality
from erase_lib.measure.distances import BACKBONES, MEAN, STD, fid, kid, perceptual, set_distances
from erase_lib.measure.pictures import picture_tensor, real_pictures


@pytest.mark.parametrize("n", [0, 1, 3])
def test_features_of_pictures_come_in_pairs(refused, n):
    refused(quality.feature_distance, torch.ones(n, 4), torch.ones(2, 4), says=f"{n} 2 pairs")


def features(n, dim, seed):
    """Correlated, in float32 as an encoder gives them."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(dim, dim))
    return torch.tensor(rng.normal(size=(n, dim)) @ mix + rng.normal(size=dim)).float()


def frechet(real, drawn):
    a, b = real.double().numpy(), drawn.double().numpy()
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    gap = a.mean(0) - b.mean(0)
    return gap @ gap + np.trace(covariances[0] + covariances[1] - 2 * root)


def kernel_distance(real, drawn):
    """The sums of Gretton et al. 2012, equation 3, pair by pair."""
    a, b = real.double().numpy(), drawn.double().numpy()

    def k(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    m, n = len(a), len(b)
    within = sum(k(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within += sum(k(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within - 2 * sum(k(x, y) for x in a for y in b) / (m * n)


def test_fid_is_that_of_scipys_matrix_root_and_0_of_a_set_and_itself():
    for n, m in ((40, 40), (30, 55)):
        real, drawn = features(n, 6, 0), features(m, 6, 1)
        assert fid(real, drawn) == pytest.approx(frechet(real, drawn), rel=1e-6)
        assert fid(drawn, real) == pytest.approx(fid(real, drawn), rel=1e-6)
    for dim in (3, 40):  # also where the covariance has no full rank
        some = features(25, dim, 0)
        scale = float(some.double().var(0).sum())
        assert abs(fid(some, some.clone())) < 1e-6 * scale
        assert fid(some, some + 1) == pytest.approx(dim, rel=1e-3)


def test_fid_of_two_diagonal_gaussians_in_closed_form():
    rng, sets = np.random.default_rng(0), []
    means, sigmas = np.array([[0, 1, 2.0], [3, 1, -1.0]]), np.array([[1, 2, 0.5], [1.5, 2, 3.0]])
    for n, mean, sigma in zip((20, 31), means, sigmas, strict=True):
        draws = rng.normal(size=(n, 3))
        axes = np.linalg.qr(draws - draws.mean(0))[0]  # their covariance is 1 / (n − 1) exactly
        sets.append(torch.tensor(axes * np.sqrt(n - 1) * sigma + mean))
    # 3² + 0 + 3² of the means, .5² + 0 + 2.5² of the deviations
    assert fid(*sets) == pytest.approx(9 + 9 + 0.25 + 6.25)


def test_kid_is_the_unbiased_sum_over_pairs():
    real, drawn = features(9, 5, 0), features(9, 5, 1)
    assert kid(real, drawn) == pytest.approx(kernel_distance(real, drawn))
    assert kid(real, drawn) == pytest.approx(kid(drawn, real))
    # of unequal sets it spreads over the larger
    real, drawn = features(6, 5, 0), features(11, 5, 1)
    every_other = kernel_distance(real, drawn[[0, 2, 4, 6, 8, 10]])
    assert kid(real, drawn) == pytest.approx(every_other)
    assert kid(drawn, real) == pytest.approx(every_other)
    assert kid(real[:4], drawn[:8]) == pytest.approx(kernel_distance(real[:4], drawn[[0, 2, 5, 7]]))


def test_kid_has_no_bias_where_fid_has():
    draws = torch.randn(100, 2, 12, 4, generator=torch.Generator().manual_seed(0))
    kids = np.array([kid(a, b) for a, b in draws])
    assert abs(kids.mean()) < 2 * stats.sem(kids) and 0 < (kids < 0).mean() < 1
    fids = np.array([fid(a, b) for a, b in draws])
    assert fids.mean() > 20 * stats.sem(fids)


@pytest.mark.filterwarnings("ignore:.*2,000")
def test_sets_that_have_no_distance_or_no_interval(refused):
    some, damaged = features(5, 3, 0), features(5, 3, 1)
    damaged[2, 1] = float("nan")
    endless = damaged.nan_to_num(torch.inf)
    for distance in (fid, kid, lambda a, b: set_distances(a, b, range(5), "x")):
        for real, drawn, said in (
            (some[:1], some, ["real", "(1, 3)"]),
            (some, some[:1], ["drawn", "(1, 3)"]),
            (some[0], some, ["real", "(3,)"]),
            (some, damaged, ["drawn", "NaN"]),
            (endless, some, ["real", "infinite"]),
        ):
            refused(distance, real, drawn, says=said)
    refused(set_distances, some, some, list("aaaaa"), "x", says="two")  # of one prompt


def measured(*arguments):
    with pytest.warns(UserWarning, match="fewer than 2,000") as found:
        table = set_distances(*arguments)
    assert [w.filename for w in found] == [__file__] and table["note"][0] in str(found[0].message)
    return table


def test_the_table_of_both_distances():
    real, drawn, groups = features(30, 4, 0), features(24, 4, 1), np.tile(np.arange(8), 3)
    table = measured(real, drawn, groups, "some-clip")
    assert list(table) == ["metric", "value", "low", "high", "n", "note", "measured_by"]
    assert table["metric"].tolist() == ["FID", "KID"]
    assert table["value"].tolist() == pytest.approx([fid(real, drawn), kid(real, drawn)])
    by = f"some-clip features, torchmetrics {version('torchmetrics')}"
    assert (table["n"] == 24).all() and (table["measured_by"] == by).all()
    for note, said in zip(table["note"], ("biased upwards", "unbiased"), strict=True):
        assert "24 pictures" in note and said in note
    # the interval leaves out prompts of the drawn pictures alone
    parts = np.array([frechet(real, drawn[groups != i]) for i in range(8)])
    half = stats.t.ppf(0.975, 7) * np.sqrt(7 / 8 * ((parts - parts.mean()) ** 2).sum())
    expected = frechet(real, drawn) + half * np.array([-1, 1])
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx(expected, rel=1e-5)


def test_too_few_pictures_are_noted():
    for dim, n, noted in ((24, 24, True), (24, 30, False), (4, 24, False)):
        table = measured(features(40, dim, 0), features(n, dim, 1), range(n), "x")
        assert [f"{dim} features" in note for note in table["note"]] == [noted, False]
    # two thousand are enough
    some, halves = features(2000, 3, 0), np.arange(2000) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = set_distances(some, some + 0.1, halves, "x")
    assert table["note"].tolist() == ["", ""] and (table["low"] <= table["high"]).all()
    few = measured(some[:1999], some + 0.1, halves, "x")
    assert "1999 pictures" in few["note"][1]  # of the smaller


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """The folder of torchvision's weights, empty, on a machine with torchvision."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(quality, "find_spec", lambda name: "at hand")
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@torch.no_grad()
def test_the_distance_of_features_is_one_less_the_cosine(clip, noise):
    before, after = noise(3), noise(3, seed=1)
    after[1] = before[1].copy()
    found, name = perceptual(before, after, clip, "clip")
    towers = []
    for some in (before, after):
        pooled = clip.vision(picture_tensor(some)).pooler_output.flatten(1)
        towers.append((pooled @ clip.visual_projection.T).double().numpy())
    a, b = towers
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found == pytest.approx(1 - cosine, abs=1e-6)
    assert found.shape == (3,) and abs(found[1]) < 1e-10 and min(found[0], found[2]) > 1e-3
    assert name == f"CLIP feature distance ({clip.name})"
    assert perceptual([], [], clip, "clip")[0].shape == (0,)


def test_nothing_is_called_lpips_that_is_not(clip, shelf, monkeypatch, refused, noise):
    pair = noise(2), noise(2, seed=1)
    weightless, name = perceptual(*pair, clip)
    assert name.startswith("CLIP feature distance")
    # of another release of torchvision, which would fetch its own instead
    (shelf / "alexnet-owt-4df8aa71.pth").touch()
    assert perceptual(*pair, clip)[1] == name
    for file in BACKBONES.values():
        (shelf / file).touch()
    monkeypatch.setattr(quality, "find_spec", lambda name: None)  # weights without torchvision
    for found in (perceptual(*pair, clip), perceptual(*pair, clip, "clip")):
        assert found[1] == name and np.array_equal(found[0], weightless)
    for net in BACKBONES:
        refused(perceptual, *pair, clip, net, says=f"{net!r} torchvision clip")


def test_a_net_that_is_unknown_or_cannot_be_used(clip, shelf, monkeypatch, refused, noise):
    def broken(*arguments, **options):
        raise RuntimeError("the file\nis damaged")

    monkeypatch.setattr(quality, "_lpips", broken)
    pair = noise(2), noise(2, seed=1)
    (shelf / BACKBONES["vgg"]).touch()
    for net in ("alex", "squeeze"):
        refused(perceptual, *pair, clip, net, says=f"{net!r} {BACKBONES[net]}")
    refused(perceptual, *pair, clip, "vgg", says="vgg damaged")
    refused(perceptual, *pair, clip, "alexx", says="'alex'")
    refused(perceptual, pair[0], pair[1][:1], clip, "clip", says=["2 pictures", "1 after"])


@pytest.mark.parametrize(("net", "chosen"), [("auto", "alex"), ("alex", "alex"), ("vgg", "vgg")])
def test_lpips_where_its_backbone_is_at_hand(shelf, monkeypatch, net, chosen, noise):
    def mean_difference(a, b, net_type="alex", reduction="mean", normalize=False):
        """Instead of LPIPS, of what torchmetrics' function takes."""
        assert not normalize and a.min() >= -1 and a.max() <= 1 and a.min() < -0.9
        assert net_type == chosen
        return (a - b).abs().mean((1, 2, 3)).squeeze()

    (shelf / BACKBONES[chosen]).touch()
    monkeypatch.setattr(quality, "_lpips", mean_difference)
    before, after = noise(129, (20, 20)), noise(129, (20, 20), seed=1)
    found, name = perceptual(before, after, None, net)
    arrays = [np.stack([np.asarray(p) for p in some]).astype(float) for some in (before, after)]
    by_hand = np.abs(arrays[0] - arrays[1]).mean((1, 2, 3)) * 2 / 255  # pixels in [−1, 1]
    assert found == pytest.approx(by_hand, rel=1e-5) and found.shape == (129,)
    assert name == f"LPIPS ({chosen}, torchmetrics {version('torchmetrics')})"
    assert perceptual(before[:1], before[:1], None, net)[0].tolist() == [0]


ASKED = ["a dog", "a church in noto style", ""]


def unit(output):
    """Of unit length; transformers 5 gives them as the pooled output of an object."""
    return normalize(getattr(output, "pooler_output", output), dim=-1)


def test_features_are_those_of_the_model_itself(clip_folder):
    clip = load_clip(clip_folder)
    assert clip.name == "tiny-clip" and clip.size == 32
    model = CLIPModel.from_pretrained(clip_folder).eval()
    ids = clip.tokenizer(ASKED, padding="max_length", max_length=12, return_tensors="pt")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    normalised = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        texts = unit(model.get_text_features(ids.input_ids, ids.attention_mask))
        images = unit(model.get_image_features(normalised))
    found = clip.text_features(ASKED)
    torch.testing.assert_close(found, texts)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    pictures = [Image.fromarray(array) for array in pixels]
    torch.testing.assert_close(clip.image_features(pictures), images)


def test_pictures_of_another_size_are_scaled_and_long_prompts_cut(clip_folder):
    clip = load_clip(clip_folder)
    grey = clip.image_features(torch.full((1, 3, 64, 48), 0.2))
    torch.testing.assert_close(grey, clip.image_features(torch.full((1, 3, 32, 32), 0.2)))
    words = "a dog and a cat and a bus and a church and a rose"
    assert torch.equal(*clip.text_features([words, words + " and an apple"]))


def test_features_do_not_depend_on_the_batch(clip_folder, clip):
    for of in (load_clip(clip_folder), clip):
        pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        alone = of.image_features(pictures, batch=1), of.text_features(ASKED, batch=1)
        torch.testing.assert_close(of.image_features(pictures), alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(of.text_features(ASKED), alone[1], atol=1e-5, rtol=0)


def test_the_score_of_three_pictures_by_hand(refused):
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    assert clip_score(images, texts) == pytest.approx([100, 60, 0])
    refused(clip_score, images, texts[:2], says=["3 pictures", "2 prompts"])


def test_the_embedded_clip_prefers_the_prompt_of_the_picture(clip, judge):
    some = judge.concepts[::5]
    table = prompt_table([(c, judge.styles[i % 4]) for i, c in enumerate(some)])
    images = clip.image_features(real_pictures(table))
    texts = clip.text_features(list(table["prompt"]))
    fitting, wrong = clip_score(images, texts), clip_score(images, texts.roll(1, 0))
    assert fitting.shape == (len(some),) and fitting.min() >= 0 and fitting.max() <= 100
    assert (fitting > wrong).mean() >= 0.95


def test_what_is_no_whole_clip_is_refused(clip_folder, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    begin = time.perf_counter()
    refused(load_clip, "nobody/no-such-clip", says="'nobody/no-such-clip' downloaded")
    assert time.perf_counter() - begin < 5
    model = CLIPModel.from_pretrained(clip_folder)
    model.save_pretrained(tmp_path / "bare")
    model.text_model.save_pretrained(tmp_path / "text")
    CLIPTokenizer.from_pretrained(clip_folder).save_pretrained(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    for name in ("bare", "text", "empty"):
        refused(load_clip, str(tmp_path / name), says=[str(tmp_path / name)])
    monkeypatch.setattr(quality, "MODELS", tmp_path)
    refused(load_clip, says="text_encoder missing")
