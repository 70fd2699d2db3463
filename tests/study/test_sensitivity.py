"""Sensitivity: δ by hand, and its reliability on data whose truth is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from erase_lib import EraseConfig, erase, measure
from erase_lib.diffusion import generate
from erase_lib.measure import Judge, load_clip, sensitivity_prompts
from erase_lib.study.sensitivity import SCORES, deltas, measure_pairs, reliability, sensitivity
from erase_lib.text import encode_prompts


@pytest.fixture
def erasure(tiny):
    config = EraseConfig.from_profile("smoke", targets=["church"], method="esd", steps=1, lr=1e-2)
    return erase(tiny, config, [])


def prompts_by_hand():
    rows = {"concept": ["dog", "cat", ""], "prompt": ["a dog", "a cat", ""], "seed": [0, 1, 2]}
    return pd.DataFrame(rows | {"style": ["noto", "noto", None]})


def pairs_by_hand(**values):
    """Pairs of pictures: a δ for each concept's picture, by the judge unless another score."""
    rows = [(c, d) for c, deltas in values.items() for d in deltas]
    return pd.DataFrame(rows, columns=["concept", "judge"])


def pairs_of(before, after, *given):
    """`measure_pairs` of these pictures, as if they had been drawn."""

    def drawn(*asked, erasure=None, **how):
        return after if erasure else before

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "draw", drawn)
        erasure = SimpleNamespace(check=lambda pipe: None)
        return measure_pairs(SimpleNamespace(scheduler=None), erasure, *given)


def instruments(judged, seen, texts):
    """A judge of cats and dogs and a CLIP that say these of pictures, and of texts."""
    place = {"cat": 0, "dog": 1}
    judge = SimpleNamespace(concepts=list(place), place=place, concept_probabilities=judged)
    judge.index = lambda names: np.array([judge.concepts.index(name) for name in names])
    return judge, SimpleNamespace(image_features=seen, text_features=lambda _: torch.tensor(texts))


def test_delta_by_every_score_against_a_hand_calculation():
    before = -torch.ones(3, 3, 64, 64)
    after = before.clone()
    after[0] = 1  # all of it, half of it, and nothing
    after[1, :, :32] = 1

    def told(old, new):
        return lambda pictures: torch.tensor(old if pictures is before else new)

    judge, clip = instruments(
        told([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]], [[0.75, 0.25], [1.0, 0.0], [0.5, 0.5]]),
        told([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0], [0.0, 1.0]]),
        [[1.0, 0.0], [-0.6, 0.8], [0.0, 1.0]],
    )
    found = pairs_of(before, after, prompts_by_hand(), judge, clip)
    # a dog is lost, a cat has won; of the neutral concept the judge says nothing
    assert found["judge"].tolist() == pytest.approx([0.65, -0.2, np.nan], nan_ok=True)
    assert found["clip"].tolist() == pytest.approx([100 - 60, 28 - 80, 0], abs=1e-4)
    assert found["features"].tolist() == pytest.approx([0.4, 0.2, 0], abs=1e-6)
    assert found["pixels"].tolist() == pytest.approx([1, 0.5**0.5, 0])
    assert set(prompts_by_hand()) | set(SCORES) == set(found)


def test_a_fit_below_zero_counts_as_none():
    before, after = torch.zeros(3, 3, 64, 64), torch.ones(3, 3, 64, 64)
    judge, clip = instruments(
        lambda pictures: torch.full((3, 2), 0.5),
        lambda pictures: torch.tensor([[2 * pictures.max() - 1, 0.0]]).expand(3, 2),
        [[1.0, 0.0]] * 3,
    )
    found = pairs_of(before, after, prompts_by_hand(), judge, clip)
    assert found["clip"].tolist() == [-100] * 3 and found["features"].tolist() == [2] * 3


def test_delta_is_the_mean_of_a_concepts_pictures_in_their_order():
    pairs = pairs_by_hand(dog=[0.1, 0.3], cat=[0.2], bus=[0.5, 0.5, 0.5], ant=[0.0, np.nan])
    pairs = pairs.iloc[[0, 2, 3, 1, *range(4, 8)]]  # a concept's pictures may stand apart
    found = deltas(pairs).set_index("concept")
    assert found.index.tolist() == ["dog", "cat", "bus", "ant"]
    assert found["delta"].to_dict() == pytest.approx({"dog": 0.2, "cat": 0.2, "bus": 0.5, "ant": 0})
    assert found["n"].to_dict() == {"dog": 2, "cat": 1, "bus": 3, "ant": 1}
    assert found.loc[["cat", "ant"], ["low", "high"]].isna().all().all()
    assert found.loc["bus", ["low", "high"]].tolist() == [0.5, 0.5]
    # two pictures know next to nothing: t of one degree of freedom, and √2 for the variance
    wide = 0.1 * 12.7062 / 1.95996 * 2**0.5
    expected = [0.2 - wide, 0.2 + wide]
    assert found.loc["dog", ["low", "high"]].tolist() == pytest.approx(expected, rel=1e-4)


def test_delta_leaves_out_what_the_score_says_nothing_of(refused):
    pairs = pairs_by_hand(dog=[0.1, 0.3], photo=[np.nan, np.nan]).assign(pixels=[0, 1, 2, 3])
    assert deltas(pairs)["concept"].tolist() == ["dog"]
    assert deltas(pairs, "pixels")["delta"].tolist() == [0.5, 2.5]
    assert "'judge'" in refused(deltas, pairs[pairs["concept"] == "photo"])


def simulated(truth, noise, n, concepts=400):
    rng = np.random.default_rng(0)
    delta = rng.normal(0, truth, (concepts, 1)) + rng.normal(0, noise, (concepts, n))
    return pd.DataFrame({"concept": np.repeat(range(concepts), n), "pixels": delta.ravel()})


@pytest.mark.parametrize("n", [2, 4, 8])
def test_reliability_is_the_share_of_the_variance_that_is_not_noise(n):
    found = reliability(simulated(1.0, 1.5, n), "pixels")
    assert found == pytest.approx(1 / (1 + 1.5**2 / n), abs=0.06)  # of ranks, hence not quite


def test_reliability_without_noise_and_of_nothing_but_noise():
    assert reliability(simulated(1.0, 0.0, 4), "pixels") == pytest.approx(1)
    assert abs(reliability(simulated(0.0, 1.0, 4), "pixels")) < 0.15
    pairs = simulated(1.0, 1.0, 4, concepts=20)
    assert reliability(pairs, "pixels", seed=3) == reliability(pairs, "pixels", seed=3)


def test_reliability_needs_enough_to_split(refused):
    for values in ([0.1, 0.2], [0.1, 0.2], []), ([0.1], [0.2], [0.3]), ([0.1, 0.2], [0.2], [0.3]):
        pairs = pairs_by_hand(**dict(zip(("dog", "cat", "bus"), values, strict=True)))
        assert "3 concepts" in refused(reliability, pairs, "judge")


def test_the_sensitivity_of_three_concepts(tiny, erasure):
    asked, given = ["dog", "church", "cat"], {"steps": 2, "progress": False}
    table = sensitivity(tiny, erasure, asked, pictures=2, **given)
    columns = "concept category distance delta low high n score measured_by"
    assert table.columns.tolist() == columns.split() and table["concept"].tolist() == asked
    assert set(table["n"]) == {2} and set(table["score"]) == {"judge"}
    assert set(table["measured_by"]) == {Judge.load().name}
    assert table["category"].tolist() == ["animals & nature", "travel & places", "animals & nature"]
    apart = encode_prompts(tiny, asked) - encode_prompts(tiny, ["church"])
    assert table["distance"].tolist() == pytest.approx(apart.flatten(1).norm(dim=1).tolist())
    assert ((table["low"] <= table["delta"]) & (table["delta"] <= table["high"])).all()
    pairs = measure_pairs(tiny, erasure, sensitivity_prompts(asked, 2), **given)
    table = sensitivity(tiny, erasure, asked, "pixels", pictures=2, **given)
    expected = pairs.groupby("concept", sort=False)["pixels"].mean()
    assert table["delta"].tolist() == pytest.approx(expected.tolist()) and expected.min() > 0
    assert set(table["measured_by"]) == {"pixels"}


def test_the_distance_is_that_to_the_nearest_of_several_targets(tiny):
    erasure = erase(tiny, EraseConfig(targets=("dog", "church"), method="uce"), [])
    given = {"pictures": 1, "steps": 1, "progress": False}
    table = sensitivity(tiny, erasure, ["church", "castle", "dog"], "pixels", **given)
    dog, church, castle = encode_prompts(tiny, ["dog", "church", "castle"])
    near = min((castle - dog).norm().item(), (castle - church).norm().item())
    assert table["distance"].tolist() == pytest.approx([0, near, 0], abs=1e-5)


def test_an_erasure_of_strength_0_changes_nothing(tiny, erasure):
    prompts = sensitivity_prompts(["dog", "church"], 2, [""])
    pairs = measure_pairs(tiny, erasure.scaled(tiny, 0), prompts, steps=2, progress=False)
    for score in SCORES:
        assert (pairs[score].dropna() == 0).all(), score
    assert pairs["judge"].isna().tolist() == [False] * 4 + [True] * 2


def test_pairs_are_the_original_and_the_erased_picture_of_the_same_noise(tiny, erasure):
    prompts = sensitivity_prompts(["dog"], 2)
    given = list(prompts["prompt"]), list(prompts["seed"]), 2
    before = generate(tiny, *given, progress=False)
    with erasure.applied(tiny):
        after = generate(tiny, *given, progress=False)
    weights = {n: p.clone() for n, p in tiny.unet.state_dict().items()}
    pairs = measure_pairs(tiny, erasure, prompts, steps=2, progress=False)
    expected = pairs_of(before, after, prompts, Judge.load(), load_clip())
    pd.testing.assert_frame_equal(pairs, expected)
    assert all(torch.equal(p, weights[n]) for n, p in tiny.unet.state_dict().items())


def test_what_cannot_be_measured_is_said(tiny, erasure, refused):
    given = {"pictures": 1, "steps": 1, "progress": False}
    assert "'pixels'" in refused(sensitivity, tiny, erasure, ["dog"], "pixel")
    assert "list" in refused(sensitivity, tiny, erasure, [])
    assert "'judge'" in refused(sensitivity, tiny, erasure, ["a photo", "something"], **given)
    erasure.base = "another"
    assert "another" in refused(sensitivity, tiny, erasure, ["dog"])
