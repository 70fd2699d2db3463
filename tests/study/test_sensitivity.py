"""Sensitivity: δ by hand, its intervals and its reliability on data whose truth is known."""

from __future__ import annotations

import importlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from erase_lib import EraseConfig, EraseError, erase
from erase_lib.concepts import concept_table
from erase_lib.diffusion import generate
from erase_lib.measure import Judge, draw, sensitivity_prompts
from erase_lib.study.sensitivity import (
    SCORES,
    changes,
    damage,
    described,
    measure,
    reliability,
)
from erase_lib.text import encode_prompts

sensitivity = importlib.import_module("erase_lib.study.sensitivity")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(sensitivity, "draw", partial(draw, folder=tmp_path))


@pytest.fixture
def erasure(tiny):
    config = EraseConfig.from_profile("smoke", targets=["church"], method="esd", steps=1, lr=1e-2)
    return erase(tiny, config, progress=False)


def prompts_by_hand():
    rows = {"concept": ["dog", "cat", ""], "prompt": ["a dog", "a cat", ""], "seed": [0, 1, 2]}
    return pd.DataFrame(rows | {"style": ["noto", "noto", None]})


def pairs_by_hand(**values):
    """Pairs of pictures: a δ for each concept's picture, by the judge unless another score."""
    rows = [(c, d) for c, deltas in values.items() for d in deltas]
    return pd.DataFrame(rows, columns=["concept", "judge"])


def test_delta_by_every_score_against_a_hand_calculation():
    black, white = -torch.ones(3, 3, 64, 64), torch.ones(3, 3, 64, 64)
    before, after = black, black.clone()
    after[0] = white[0]  # all of it, half of it, and nothing
    after[1, :, :32] = 1

    def told(old, new):
        return lambda pictures: torch.tensor(old if pictures is before else new)

    judge = SimpleNamespace(
        concepts=["cat", "dog"],
        index=lambda names: np.array([["cat", "dog"].index(name) for name in names]),
        concept_probabilities=told(
            [[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]], [[0.75, 0.25], [1.0, 0.0], [0.5, 0.5]]
        ),
    )
    clip = SimpleNamespace(
        image_features=told(
            [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0], [0.0, 1.0]]
        ),
        text_features=lambda prompts: torch.tensor([[1.0, 0.0], [-0.6, 0.8], [0.0, 1.0]]),
    )
    found = changes(before, after, prompts_by_hand(), judge, clip)
    # a dog is lost, a cat has won; of the neutral concept the judge says nothing
    assert found["judge"].tolist() == pytest.approx([0.65, -0.2, np.nan], nan_ok=True)
    assert found["clip"].tolist() == pytest.approx([100 - 60, 28 - 80, 0], abs=1e-4)
    assert found["features"].tolist() == pytest.approx([0.4, 0.2, 0], abs=1e-6)
    assert found["pixels"].tolist() == pytest.approx([1, 0.5**0.5, 0])
    assert set(prompts_by_hand()) | set(SCORES) == set(found)


def test_a_fit_below_zero_counts_as_none():
    pictures = torch.zeros(3, 3, 64, 64)
    judge = SimpleNamespace(
        concepts=["cat", "dog"],
        index=lambda names: np.zeros(len(names), int),
        concept_probabilities=lambda pictures: torch.full((3, 2), 0.5),
    )
    fit = iter((-1.0, 1.0))  # of the original pictures, of the erased
    clip = SimpleNamespace(
        image_features=lambda pictures: torch.tensor([[next(fit), 0.0]]).expand(3, 2),
        text_features=lambda prompts: torch.tensor([[1.0, 0.0]]).expand(3, 2),
    )
    found = changes(pictures, pictures, prompts_by_hand(), judge, clip)
    assert found["clip"].tolist() == [-100] * 3 and found["features"].tolist() == [2] * 3


def test_damage_is_the_mean_of_a_concepts_pictures_in_their_order():
    pairs = pairs_by_hand(dog=[0.1, 0.3], cat=[0.2], bus=[0.5, 0.5, 0.5], ant=[0.0, np.nan])
    pairs = pairs.iloc[[0, 2, 3, 1, *range(4, 8)]]  # a concept's pictures may stand apart
    found = damage(pairs).set_index("concept")
    assert found.index.tolist() == ["dog", "cat", "bus", "ant"]
    assert found["delta"].to_dict() == pytest.approx({"dog": 0.2, "cat": 0.2, "bus": 0.5, "ant": 0})
    assert found["n"].to_dict() == {"dog": 2, "cat": 1, "bus": 3, "ant": 1}
    assert found.loc[["cat", "ant"], ["low", "high"]].isna().all().all()
    assert found.loc["bus", ["low", "high"]].tolist() == [0.5, 0.5]
    # two pictures know next to nothing: t of one degree of freedom, and √2 for the variance
    wide = 0.1 * 12.7062 / 1.95996 * 2**0.5
    expected = [0.2 - wide, 0.2 + wide]
    assert found.loc["dog", ["low", "high"]].tolist() == pytest.approx(expected, rel=1e-4)


def test_damage_leaves_out_what_the_score_says_nothing_of():
    pairs = pairs_by_hand(dog=[0.1, 0.3], photo=[np.nan, np.nan]).assign(pixels=[0, 1, 2, 3])
    assert damage(pairs)["concept"].tolist() == ["dog"]
    assert damage(pairs, "pixels")["delta"].tolist() == [0.5, 2.5]
    with pytest.raises(EraseError, match="no pair of pictures has a score 'judge'"):
        damage(pairs[pairs["concept"] == "photo"])


def test_damage_by_another_column():
    pairs = pairs_by_hand(dog=[0.1, 0.3], cat=[0.5, 0.7])
    pairs["category"] = ["animals"] * 4
    (row,) = damage(pairs, by="category").to_dict("records")
    assert row["category"] == "animals" and row["n"] == 4
    assert row["delta"] == pytest.approx(0.4)


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


def test_reliability_needs_enough_to_split():
    for pairs in (
        pairs_by_hand(dog=[0.1, 0.2], cat=[0.1, 0.2]),
        pairs_by_hand(dog=[0.1], cat=[0.2], bus=[0.3]),
        pairs_by_hand(dog=[0.1, 0.2], cat=[0.2, 0.1], bus=[0.3]),
    ):
        with pytest.raises(EraseError, match="needs 3 concepts or more"):
            reliability(pairs, "judge")


def test_a_concept_has_the_same_pictures_whatever_else_is_asked_for():
    alone = sensitivity_prompts(["dog"], 6)
    beside = sensitivity_prompts(["cat", "dog", "church"], 9, ["", "a photo"])
    dog = beside[beside["concept"] == "dog"].head(6).reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, dog)
    assert alone["style"].value_counts().tolist() == [2, 2, 1, 1]  # the styles in turn
    assert (alone["prompt"] == "a dog in " + alone["style"] + " style").all()
    assert beside["seed"].is_unique


def test_all_concepts_have_seeds_of_their_own():
    table = sensitivity_prompts(concept_table()["concept"].tolist(), 3, ["", "a photo"])
    assert table["seed"].is_unique
    assert not table["seed"].isin(range(1000, 9000)).any()  # of the evaluations, of the strengths


def test_neutral_concepts_are_their_own_prompt_without_a_style():
    table = sensitivity_prompts(["dog"], 2, ["", "a photo"], styles=["oil"])
    assert table["prompt"].tolist() == ["a dog in oil style"] * 2 + ["", "", "a photo", "a photo"]
    assert table["style"].notna().tolist() == [True] * 2 + [False] * 4


@pytest.mark.parametrize(
    ("concepts", "values", "words"),
    [
        ([], {}, r"concepts is \[\]: expected a list of at least one"),
        ("dog", {}, "concepts is 'dog': expected a list"),
        (["dog", "cat", "dog"], {}, "concept 'dog' is there twice"),
        (["dog", "a photo"], {"neutral": ["a photo"]}, "concept 'a photo' is there twice"),
        (["dog"], {"pictures": 0}, "pictures is 0: expected 1 to 32"),
    ],
)
def test_prompts_that_make_no_sense(concepts, values, words):
    with pytest.raises(EraseError, match=words):
        sensitivity_prompts(concepts, **values)


def test_the_sensitivity_of_three_concepts(tiny, erasure):
    asked, given = ["dog", "church", "cat"], {"pictures": 2, "steps": 2, "progress": False}
    table = sensitivity.sensitivity(tiny, erasure, asked, **given)
    columns = "concept category distance delta low high n score measured_by"
    assert table.columns.tolist() == columns.split() and table["concept"].tolist() == asked
    assert set(table["n"]) == {2} and set(table["score"]) == {"judge"}
    assert set(table["measured_by"]) == {Judge.load().name}
    assert table["category"].tolist() == ["animals & nature", "travel & places", "animals & nature"]
    apart = encode_prompts(tiny, asked) - encode_prompts(tiny, ["church"])
    assert table["distance"].tolist() == pytest.approx(apart.flatten(1).norm(dim=1).tolist())
    assert (table["low"] <= table["delta"]).all() and (table["delta"] <= table["high"]).all()
    pairs = measure(tiny, erasure, sensitivity_prompts(asked, 2), steps=2, progress=False)
    table = sensitivity.sensitivity(tiny, erasure, asked, "pixels", **given)
    expected = pairs.groupby("concept", sort=False)["pixels"].mean()
    assert table["delta"].tolist() == pytest.approx(expected.tolist())
    assert (table["delta"] > 0).all() and set(table["measured_by"]) == {"pixels"}


def test_the_distance_is_that_to_the_nearest_of_several_targets(tiny):
    words = ["church", "castle", "dog"]
    table = described(
        tiny, pd.DataFrame({"concept": [*words, ""], "delta": 0.0}), ["dog", "church"]
    )
    assert table.columns.tolist() == ["concept", "category", "distance", "delta"]
    dog, church = encode_prompts(tiny, ["dog", "church"])
    castle = encode_prompts(tiny, ["castle"])[0]
    near = min((castle - dog).norm().item(), (castle - church).norm().item())
    assert table["distance"][:3].tolist() == pytest.approx([0, near, 0], abs=1e-5)
    assert table["category"].notna().tolist() == [True] * 3 + [False]


def test_an_erasure_of_strength_0_changes_nothing(tiny, erasure):
    prompts = sensitivity_prompts(["dog", "church"], 2, [""])
    pairs = measure(tiny, erasure.scaled(tiny, 0), prompts, steps=2, progress=False)
    for score in SCORES:
        assert (pairs[score].dropna() == 0).all(), score
    assert pairs["judge"].isna().tolist() == [False] * 4 + [True] * 2


def test_both_pictures_are_of_the_same_noise_first_the_original_then_the_erased(
    tiny, erasure, monkeypatch
):
    drawn, name = [], next(iter(erasure.tensors))

    def look(pipe, prompts, seeds, steps, **given):
        edited = torch.equal(pipe.unet.get_parameter(name), erasure.tensors[name])
        drawn.append((edited, prompts, seeds, steps))
        return generate(pipe, prompts, seeds, steps, **given)

    monkeypatch.setattr(sensitivity, "generate", look)
    monkeypatch.setattr(sensitivity, "draw", look)
    before = {n: t.clone() for n, t in tiny.unet.state_dict().items()}
    measure(tiny, erasure, sensitivity_prompts(["dog"], 2), steps=2, progress=False)
    assert [edited for edited, *_ in drawn] == [False, True] and drawn[0][1:] == drawn[1][1:]
    assert drawn[0][2] == sensitivity_prompts(["dog"], 2)["seed"].tolist()
    assert all(torch.equal(t, before[n]) for n, t in tiny.unet.state_dict().items())


def test_what_cannot_be_measured_is_said(tiny, erasure):
    with pytest.raises(EraseError, match="unknown score 'pixel': did you mean 'pixels'"):
        sensitivity.sensitivity(tiny, erasure, ["dog"], "pixel")
    with pytest.raises(EraseError, match="expected a list of at least one"):
        sensitivity.sensitivity(tiny, erasure, [])
    with pytest.raises(EraseError, match="no pair of pictures has a score 'judge'"):
        sensitivity.sensitivity(
            tiny, erasure, ["a photo", "something"], pictures=1, steps=1, progress=False
        )
    erasure.base = "another"
    with pytest.raises(EraseError, match="made for base model another"):
        sensitivity.sensitivity(tiny, erasure, ["dog"])
