"""Predictions of sensitivity: against their formulas, and on an edit that hurts a known concept."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from erase_lib import EraseConfig, Erasure
from erase_lib.diffusion import predict_clean, start_noise
from erase_lib.hold import in_place
from erase_lib.kv import kv_names
from erase_lib.measure import sensitivity_prompts
from erase_lib.models import fingerprint
from erase_lib.study import predict
from erase_lib.study.sensitivity import SCORES, deltas, measure_pairs
from erase_lib.text import encode_prompts
from erase_lib.train import Run

CONCEPTS = ["castle", "dog", "trumpet", "apple", "bus"]
VICTIM = "trumpet"


@pytest.fixture
def planted(tiny):
    """An edit of K and V along what the victim's embeddings have and the others have least."""
    prompts = sensitivity_prompts(CONCEPTS, predict.FORMS, seed=predict.SEED)
    embeddings = encode_prompts(tiny, prompts["prompt"].tolist())
    victim = torch.tensor((prompts["concept"] == VICTIM).tolist())
    own, others = (embeddings[which].flatten(0, 1).double() for which in (victim, ~victim))
    matrix = others.T @ others + 1e-3 * torch.eye(own.shape[1]).double()
    direction = torch.linalg.eig(torch.linalg.solve(matrix, own.T @ own))
    along = direction.eigenvectors[:, direction.eigenvalues.real.argmax()].real.float()
    g = torch.Generator().manual_seed(0)
    tensors = {}
    for name in kv_names(tiny.unet):
        weight = tiny.unet.get_parameter(name).detach()
        push = torch.randn(len(weight), generator=g)
        tensors[name] = weight + 3 * torch.outer(push, along / along.norm())
    return Erasure(tensors, EraseConfig(targets=("church",)), fingerprint(tiny.unet))


def test_the_planted_victim_comes_first_for_whatever_looks_at_the_edit(tiny, planted, monkeypatch):
    monkeypatch.setattr(predict, "short_edit", lambda *given: planted)
    table = predict.predictions(tiny, ["church"], CONCEPTS).set_index("concept")
    for name in ("kv", "noise_closed", "gradient", "noise", "draft features", "draft pixels"):
        assert table[name].idxmax() == VICTIM, table[name]
    pairs = measure_pairs(tiny, planted, sensitivity_prompts(CONCEPTS, 4), steps=4, progress=False)
    for score in ("features", "pixels"):
        assert deltas(pairs, score).set_index("concept")["delta"].idxmax() == VICTIM


def test_kv_movement_is_what_the_layers_of_the_unet_put_out(tiny, planted):
    prompts, seen = ["a trumpet in noto style", "dog", ""], []
    for name, module in tiny.unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.register_forward_hook(lambda m, i, o: seen.append(o.flatten(1)))
    z, t, c = start_noise(tiny, [0] * 3), torch.full((3,), 500), encode_prompts(tiny, prompts)
    with torch.no_grad():
        tiny.unet(z, t, c)
        with planted.applied(tiny):
            tiny.unet(z, t, c)
    half = len(seen) // 2
    before, after = torch.cat(seen[:half], 1), torch.cat(seen[half:], 1)
    expected = (after - before).norm(dim=1) / before.norm(dim=1)
    assert predict.kv_movement(tiny, planted.tensors, prompts) == pytest.approx(expected, rel=1e-4)
    first = dict(list(planted.tensors.items())[:1])  # an edit of some of the layers
    assert (predict.kv_movement(tiny, first, prompts) < expected.numpy()).all()
    assert predict.kv_movement(tiny, {}, prompts).tolist() == [0, 0, 0]


def test_noise_movement_is_the_change_of_the_prediction_at_pure_noise(tiny, planted):
    prompts = sensitivity_prompts(["trumpet", "dog"], 2)
    z, t = start_noise(tiny, list(prompts["seed"])), torch.full((len(prompts),), 999)
    c = encode_prompts(tiny, list(prompts["prompt"]))
    with torch.no_grad():
        before = tiny.unet(z, t, c).sample
        with planted.applied(tiny):
            after = tiny.unet(z, t, c).sample
    expected = (after - before).pow(2).mean((1, 2, 3)).sqrt().tolist()
    for batch in (3, 64):
        found = predict.noise_movement(tiny, planted.tensors, prompts, batch)
        assert found == pytest.approx(expected, rel=1e-3)
    assert (predict.noise_movement(tiny, {}, prompts) == 0).all()


def smoke(**values):
    given = {"targets": ("church", "dog"), "method": "esd", "batch": 4, "lr": 1e-3}
    return EraseConfig.from_profile("smoke", **(given | values)).settled(True)


def test_the_gradient_step_goes_down_the_gradient_of_l1_and_as_far_as_adam(tiny):
    config = smoke()
    step = predict.gradient_step(tiny, config, latents=8)
    run = Run(tiny, config)
    drawn = [(k, *run.at_target(k, config.batch)) for k in (0, 1) for _ in range(2)]
    base = {name: p.detach() for name, p in run.student.items()}
    apart = {name: step.tensors[name] - base[name] for name in base}
    length = torch.cat([d.flatten() for d in apart.values()]).norm()
    count = sum(d.numel() for d in apart.values())
    assert length.item() == pytest.approx(config.lr * count**0.5, rel=1e-3)
    assert step.base == fingerprint(tiny.unet) and step.config == config

    def l1(tensors):
        with torch.no_grad(), in_place(tiny.unet, base | tensors):
            found = [
                (predict_clean(tiny, z, t, run.targets[k][i]) - goal).pow(2).mean()
                for k, i, z, t, goal in drawn
            ]
        return torch.stack(found).double().sum().item()

    def slope(part, h=0.5):
        along = {n: h * apart[n] for n in part}
        up, down = ({n: base[n] + s * d for n, d in along.items()} for s in (1, -1))
        return (l1(up) - l1(down)) / (2 * h)

    # −∇L1 in every part of θ, to one scale: the slope along a part is −‖part‖² / α
    whole = slope(base)
    assert whole < 0 and l1(step.tensors) < l1({})
    for kind in ("to_q", "to_k", "to_v", "to_out.0.weight"):
        part = [name for name in base if kind in name]
        share = sum(apart[name].pow(2).sum() for name in part) / length**2
        assert slope(part) / whole == pytest.approx(share.item(), rel=0.05, abs=1e-3)


def test_the_short_edits_are_what_they_say(tiny):
    uce, esd, step = (predict.short_edit(tiny, ["church"], k) for k in ("uce", "esd", "gradient"))
    assert uce.config.method == "uce" and set(uce.tensors) == set(kv_names(tiny.unet))
    assert len(esd.history) == predict.UPDATES and set(step.tensors) == set(esd.tensors)
    again = predict.short_edit(tiny, ["church"], "gradient", seed=1)
    assert any(not torch.equal(t, again.tensors[name]) for name, t in step.tensors.items())


@pytest.mark.parametrize(("method", "best"), [("distance", 0.0), ("cosine", 1.0)])
def test_nothing_is_nearer_to_a_target_than_itself(tiny, method, best):
    prompts = sensitivity_prompts(["castle", "dog", "church"], 4, ["", "a photo"])
    mine = pd.Series(predict.nearness(tiny, ["church", "dog"], prompts, method))
    own = prompts["concept"].isin(["church", "dog"])
    assert mine[own].tolist() == pytest.approx([best] * 8, abs=1e-5)
    assert (mine[~own] < best - 1e-3).all()


def test_nearness_compares_the_same_words_around_the_concept(tiny):
    prompts = sensitivity_prompts(["castle"], 1, ["", "a photo"])
    texts = encode_prompts(tiny, prompts["prompt"].tolist())
    for target, compared in (
        # a neutral concept has no style, and a style is a target as it stands
        ("church", [f"a church in {prompts['style'][0]} style", "church", "church"]),
        ("noto style", ["noto style"] * 3),
    ):
        expected = -(texts - encode_prompts(tiny, compared)).flatten(1).norm(dim=1)
        found = predict.nearness(tiny, [target], prompts, "distance")
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_predictions_have_a_row_a_concept_and_a_column_a_method(tiny, monkeypatch):
    monkeypatch.setattr(predict, "UPDATES", 2)
    table = predict.predictions(tiny, ["church"], ["dog", "church", "cat"], neutral=["", "a photo"])
    assert table["concept"].tolist() == ["dog", "church", "cat", "", "a photo"]
    single = [name for name in predict.PREDICTORS if name not in ("draft", "both")]
    assert table.columns.tolist() == ["concept", *single, *(f"draft {score}" for score in SCORES)]
    assert table.drop(columns="draft judge").notna().all().all()
    assert table["draft judge"].notna().tolist() == [True] * 3 + [False] * 2
    asked = table.set_index("concept")[["distance", "kv", "noise_closed"]]
    alone = predict.predictions(tiny, ["church"], ["cat"], ["distance", "kv", "noise_closed"])
    assert alone.iloc[0, 1:].tolist() == pytest.approx(asked.loc["cat"].tolist(), rel=1e-4)


def test_one_prediction_is_a_column_of_them_all(tiny, planted, monkeypatch):
    monkeypatch.setattr(predict, "short_edit", lambda *given: planted)
    given = ["church"], ["dog", "cat", "castle"]
    table = predict.predictions(tiny, *given, ["distance", "draft", "kv"], [""])
    for method, score in (("kv", "judge"), ("draft", "pixels"), ("both", "features")):
        found = predict.predict_sensitivity(tiny, "church", given[1], method, score, neutral=[""])
        assert found.columns.tolist() == ["concept", "prediction"]
        assert found["concept"].tolist() == [*given[1], ""]
        expected = predict.predicted(table, method, score)
        assert found["prediction"].tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6)


def test_both_is_the_mean_of_two_ranks():
    table = pd.DataFrame({"concept": list("abcd"), "distance": [-9.0, -1.0, -3.0, -3.0]})
    table = table.assign(**{"draft judge": [0.3, 0.2, 0.1, 0.0], "kv": [1.0, 2.0, 3.0, 4.0]})
    # distance 1, 4, 2.5, 2.5 and draft 4, 3, 2, 1
    for method, values in (
        ("both", [2.5, 3.5, 2.25, 1.75]),
        ("draft", [0.3, 0.2, 0.1, 0.0]),
        ("kv", [1, 2, 3, 4]),
    ):
        assert predict.predicted(table, method, "judge").tolist() == values


@pytest.fixture
def measured():
    """Pairs of pictures of ten concepts, a target and a neutral one, without noise; and their
    δ."""
    concepts = [f"c{i}" for i in range(10)] + ["church", ""]
    truth = pd.DataFrame({"concept": concepts, "delta": np.random.default_rng(0).normal(size=12)})
    pairs = truth.loc[truth.index.repeat(4), ["concept"]].reset_index(drop=True)
    pairs["style"] = pairs["concept"].map(lambda concept: "noto" if concept else None)
    return pairs.assign(**{score: np.repeat(truth["delta"].values, 4) for score in SCORES}), truth


def test_agreement_of_delta_itself_and_of_its_opposite(measured):
    pairs, truth = measured
    delta, table = truth["delta"], truth[["concept"]]
    table = table.assign(kv=delta, cosine=-delta, distance=delta**3)
    table = table.assign(**{"draft judge": delta, "draft pixels": -delta.round()})
    # a target and a neutral concept that would spoil it are not asked
    table.loc[table["concept"].isin(["church", ""]), ["kv", "cosine"]] = [99.0, -99.0]
    found = predict.agreement(pairs, table.sample(frac=1, random_state=0), ["church"])
    assert found.columns.tolist() == ["score", "predictor", "rho", "reliability", "n"]
    assert set(found["n"]) == {10} and found["reliability"].to_numpy() == pytest.approx(1)
    by = found.set_index(["score", "predictor"])["rho"]
    for score in SCORES:
        assert by[score, "kv"] == pytest.approx(1) == by[score, "distance"]
        assert by[score, "cosine"] == pytest.approx(-1)
    # each score has its own draft, or none
    assert by["judge", "draft"] == pytest.approx(1) == by["judge", "both"]
    assert by["pixels", "draft"] < -0.8 < by["pixels", "both"] < by["pixels", "distance"]
    assert ("clip", "draft") not in by and ("clip", "both") not in by


def test_what_cannot_be_predicted_is_said(tiny, refused):
    for words, concepts, method, score in (
        ("'drafts'", ["dog"], "drafts", "judge"),
        ("'pixels'", ["dog"], "kv", "pixel"),
        ("'dog' twice", ["dog", "dog"], "kv", "judge"),
        ("list", [], "kv", "judge"),
    ):
        given = tiny, "church", concepts, method, score
        assert words in refused(predict.predict_sensitivity, *given)
