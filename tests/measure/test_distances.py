"""Distances of pictures, pair by pair and as sets, against other implementations and by hand."""

import warnings
from importlib.metadata import version

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from erase_lib.measure import distances as quality
from erase_lib.measure.distances import BACKBONES, fid, kid, perceptual, set_distances
from erase_lib.measure.pictures import picture_tensor


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


def test_fid_is_that_of_scipys_matrix_root():
    for n, m in ((40, 40), (30, 55)):
        real, drawn = features(n, 6, 0), features(m, 6, 1)
        assert fid(real, drawn) == pytest.approx(frechet(real, drawn), rel=1e-6)
        assert fid(drawn, real) == pytest.approx(fid(real, drawn), rel=1e-6)


def test_fid_of_two_diagonal_gaussians_in_closed_form():
    rng, sets = np.random.default_rng(0), []
    means, sigmas = np.array([[0, 1, 2.0], [3, 1, -1.0]]), np.array([[1, 2, 0.5], [1.5, 2, 3.0]])
    for n, mean, sigma in zip((20, 31), means, sigmas, strict=True):
        draws = rng.normal(size=(n, 3))
        axes = np.linalg.qr(draws - draws.mean(0))[0]  # their covariance is 1 / (n − 1) exactly
        sets.append(torch.tensor(axes * np.sqrt(n - 1) * sigma + mean))
    # 3² + 0 + 3² of the means, .5² + 0 + 2.5² of the deviations
    assert fid(*sets) == pytest.approx(9 + 9 + 0.25 + 6.25)


def test_a_set_has_no_distance_from_itself():
    for dim in (3, 40):  # also where the covariance has no full rank
        some = features(25, dim, 0)
        scale = float(some.double().var(0).sum())
        assert abs(fid(some, some.clone())) < 1e-6 * scale
        assert fid(some, some + 1) == pytest.approx(dim, rel=1e-3)


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


def test_sets_that_have_no_distance(refused):
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
    assert table["n"].tolist() == [24, 24]
    by = f"some-clip features, torchmetrics {version('torchmetrics')}"
    assert table["measured_by"].tolist() == [by, by]
    biased, noisy = table["note"]
    assert "24 pictures" in biased and "biased upwards" in biased
    assert "24 pictures" in noisy and "unbiased" in noisy

    # the interval leaves out prompts of the drawn pictures alone
    parts = np.array([frechet(real, drawn[groups != i]) for i in range(8)])
    half = stats.t.ppf(0.975, 7) * np.sqrt(7 / 8 * ((parts - parts.mean()) ** 2).sum())
    expected = frechet(real, drawn) + half * np.array([-1, 1])
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx(expected, rel=1e-5)


def test_fewer_pictures_than_features_are_noted():
    for dim, n, noted in ((24, 24, True), (24, 30, False), (4, 24, False)):
        table = measured(features(40, dim, 0), features(n, dim, 1), range(n), "x")
        assert [f"{dim} features" in note for note in table["note"]] == [noted, False]


def test_two_thousand_pictures_are_enough():
    some, halves = features(2000, 3, 0), np.arange(2000) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = set_distances(some, some + 0.1, halves, "x")
    assert table["note"].tolist() == ["", ""]
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    few = measured(some[:1999], some + 0.1, halves, "x")
    assert "1999 pictures" in few["note"][1]  # of the smaller


@pytest.mark.filterwarnings("ignore")
def test_pictures_of_one_prompt_have_no_interval(refused):
    refused(set_distances, features(9, 3, 0), features(4, 3, 1), list("aaaa"), "x", says="two")


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
    weightless = perceptual(*pair, clip)
    assert "LPIPS" not in weightless[1] and weightless[1].startswith("CLIP feature distance")
    # of another release of torchvision, which would fetch its own instead
    (shelf / "alexnet-owt-4df8aa71.pth").touch()
    assert "LPIPS" not in perceptual(*pair, clip)[1]
    for file in BACKBONES.values():
        (shelf / file).touch()
    monkeypatch.setattr(quality, "find_spec", lambda name: None)  # weights without torchvision
    found = perceptual(*pair, clip)
    assert found[1] == weightless[1]
    assert np.array_equal(found[0], perceptual(*pair, clip, "clip")[0])
    for net in BACKBONES:
        refused(perceptual, *pair, clip, net, says=f"{net!r} torchvision clip")


def test_a_net_that_is_unknown_or_has_no_weights(clip, shelf, refused, noise):
    pair = noise(2), noise(2, seed=1)
    (shelf / BACKBONES["vgg"]).touch()
    assert quality.backbone("vgg")
    for net in ("alex", "squeeze"):
        refused(perceptual, *pair, clip, net, says=f"{net!r} {BACKBONES[net]}")
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


def test_a_backbone_that_cannot_be_used_is_one_line(shelf, monkeypatch, refused, noise):
    def broken(*arguments, **options):
        raise RuntimeError("the file\nis damaged")

    (shelf / BACKBONES["alex"]).touch()
    monkeypatch.setattr(quality, "_lpips", broken)
    refused(perceptual, noise(1), noise(1), None, says="alex damaged")
