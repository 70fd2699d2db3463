"""Closed forms against least squares, and each against what it promises; then as erasures."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from erase_lib import EraseConfig, Erasure, erase, load_pipeline
from erase_lib import closed_form as edit
from erase_lib.closed_form import (
    adversarial,
    erase_closed_form,
    rece,
    recovered,
    solve,
    speed,
    uce,
)
from erase_lib.concepts import forms_of, prompts_of, search_words
from erase_lib.config import CLOSED_FORMS
from erase_lib.export import matrices
from erase_lib.kv import gram, kv_names, kv_weights, movement, reversal
from erase_lib.rivals import projected
from erase_lib.text import encode_prompts

DIM = 12


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights():
    return {"k": random(5, DIM, seed=1), "v": random(7, DIM, seed=2), "deep.k": random(9, DIM)}


def problem(erased=1, preserved=2, tokens=2):
    """Independent columns: erased, anchors and preserved together are fewer than dim."""
    numbers = erased, erased, preserved
    return tuple(random(n, tokens, DIM, seed=3 + i) for i, n in enumerate(numbers))


def stacked(tensors):
    return torch.cat(list(tensors.values()))


def config(**values):
    given = {"targets": ["church", "dog"], "method": "uce", "nearest": 6, "candidates": 4}
    return EraseConfig.from_profile("smoke", **(given | {"per_round": 1} | values)).settled(True)


@pytest.mark.parametrize(("ridge", "by", "kept"), [(0.3, 1.0, 1.0), (2.0, 0.2, 5.0), (0.0, 1, 1)])
def test_solve_is_the_least_squares_solution(ridge, by, kept):
    shapes = (5, DIM), (9, DIM), (9, 5), (8, DIM)
    w, c, v, p = (random(*shape, seed=i).double() for i, shape in enumerate(shapes))
    rows = [by**0.5 * c, kept**0.5 * p, ridge**0.5 * torch.eye(DIM).double()]
    right = [by**0.5 * v, kept**0.5 * p @ w.T, ridge**0.5 * w.T]
    expected = torch.linalg.lstsq(torch.cat(rows), torch.cat(right)).solution.T
    torch.testing.assert_close(solve(w, c, v, p, ridge, by, kept), expected)


def test_one_change_of_the_embedding_serves_every_layer():
    w, (erased, anchors, preserved) = weights(), problem()
    edited, _ = uce(w, erased, anchors, preserved, ridge=0.5, lam=3.0)
    c, a, p = (e.flatten(0, 1).double() for e in (erased, anchors, preserved))
    for name, tensor in w.items():
        alone = solve(tensor.double(), c, a @ tensor.double().T, p, 0.5, 1 / len(c), 3 / len(p))
        torch.testing.assert_close(edited[name], alone.float(), rtol=1e-4, atol=1e-5)


def test_without_ridge_uce_gives_the_anchors_values_and_moves_nothing_preserved():
    w, (erased, anchors, preserved) = weights(), problem(erased=2)
    edited, (row,) = uce(w, erased, anchors, preserved, ridge=1e-9, lam=1.0)
    before, after = stacked(w), stacked(edited)
    torch.testing.assert_close(erased @ after.T, anchors @ before.T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(preserved @ after.T, preserved @ before.T, rtol=1e-3, atol=1e-4)
    assert row["l1"] < 1e-6 and row["l2"] < 1e-6
    _, (held,) = uce(w, erased, anchors, preserved, ridge=10.0, lam=1.0)
    assert 0.2 < held["l1"] < 1 and held["l2"] > 1e-6


def test_movement_against_its_definition():
    w, (erased, anchors, preserved) = weights(), problem()
    edited, (row,) = uce(w, erased, anchors, preserved, ridge=1.0, lam=1.0)
    before, change = stacked(w), stacked(edited) - stacked(w)
    expected = [((c @ change.T).norm() / (c @ before.T).norm()).item() for c in preserved]
    assert movement(w, edited, preserved).tolist() == pytest.approx(expected, rel=1e-4)
    total = (preserved @ change.T).norm() / (preserved @ before.T).norm()
    assert row["l2"] == pytest.approx(total.item() ** 2, rel=1e-4)
    gap, left = (anchors - erased) @ before.T, anchors @ before.T - erased @ stacked(edited).T
    assert row["l1"] == pytest.approx((left.norm() / gap.norm()).item() ** 2, rel=1e-4)


def test_recovered_is_the_least_squares_solution():
    w, (erased, anchors, preserved) = weights(), problem()
    edited, _ = uce(w, erased, anchors, preserved, ridge=0.1, lam=1.0)
    columns, reg = erased.flatten(0, 1), 0.7
    rows = torch.cat([stacked(edited), reg**0.5 * torch.eye(DIM)])
    right = torch.cat([stacked(w) @ columns.T, torch.zeros(DIM, len(columns))])
    expected = torch.linalg.lstsq(rows, right).solution.T.view_as(erased)
    torch.testing.assert_close(recovered(edited, w, erased, reg).float(), expected)


def test_rece_takes_away_what_brought_the_concept_back():
    w, (erased, anchors, preserved) = weights(), problem()

    def distance(edited, columns):
        return (columns @ stacked(edited).T - erased @ stacked(w).T).norm().item()

    plain, _ = uce(w, erased, anchors, preserved, ridge=0.1, lam=1.0)
    back = recovered(plain, w, erased, 0.1).float()
    assert distance(plain, back) < 0.3 * distance(plain, erased)
    edited, history = rece(w, erased, anchors, preserved, ridge=0.1, lam=1.0, rounds=1, reg=0.1)
    assert distance(edited, back) > 2 * distance(plain, back)
    # it now draws the anchor, instead of the concept
    gaps = [(back @ stacked(e).T - anchors @ stacked(w).T).norm() for e in (plain, edited)]
    assert gaps[1] < 0.25 * gaps[0]
    assert distance(edited, erased) > 0.5 * distance(plain, erased)  # and the concept stays erased
    edited, history = rece(w, erased, anchors, preserved, ridge=0.1, lam=1.0, rounds=3)
    assert [row["step"] for row in history] == [0, 1, 2]
    assert all(row["after"] > row["before"] for row in history)


def test_speed_moves_only_what_it_need_not_keep():
    w, (erased, anchors, preserved) = weights(), problem(preserved=4)
    columns = preserved.flatten(0, 1)
    for concept in (erased, 30 * erased, random(1, 2, DIM, seed=9)):  # whatever is erased
        free, _ = uce(w, concept, anchors, preserved[:0], ridge=0.1, lam=0.0)
        influence = (columns @ (stacked(free) - stacked(w)).T).norm(dim=1)
        hurt = influence > influence.mean()
        assert 0 < hurt.sum() < len(columns)
        edited, (row,) = speed(w, concept, anchors, preserved, ridge=0.1)
        change = stacked(edited) - stacked(w)
        kept = torch.cat([columns[hurt], anchors.flatten(0, 1)])
        assert row["kept"] == len(kept) and row["free"] >= DIM - len(kept)
        assert (kept @ change.T).norm() < 0.02 * (kept @ stacked(w).T).norm()
        assert (columns[~hurt] @ change.T).norm() > 0.1 * (columns[~hurt] @ stacked(w).T).norm()
        assert row["l1"] < 0.9
        exact, _ = speed(w, concept, anchors, preserved, ridge=0.1, tolerance=1e-12)
        assert (kept @ (stacked(exact) - stacked(w)).T).norm() < 1e-5 * kept.norm()


def test_speed_needs_a_free_direction(refused):
    text = refused(speed, weights(), *problem(preserved=20), ridge=0.1)
    assert "12 directions" in text and "fewer" in text


def test_adversarial_finds_the_planted_concept_first_and_protects_it():
    w, (erased, anchors, preserved) = weights(), problem()
    candidates = random(5, 1, 2, DIM, seed=8)
    candidates[3, 0] = 0.9 * erased[0] + 0.3 * candidates[3, 0]
    given = w, erased, anchors, preserved
    plain, _ = uce(*given, ridge=0.5, lam=2.0)
    edited, history = adversarial(*given, candidates, ridge=0.5, lam=2.0, rounds=9, most=2)
    by_hand = movement(w, plain, candidates[:, 0])
    assert history[0]["chosen"] == by_hand.topk(2).indices.tolist()
    assert history[0]["chosen"][0] == 3
    assert movement(w, edited, candidates[3])[0] < 0.8 * by_hand[3]
    # every candidate once, and then it ends
    assert sorted(i for row in history for i in row["chosen"]) == [0, 1, 2, 3, 4]
    assert len(history) == 3 and history[0]["after"] < history[0]["before"]


@pytest.mark.parametrize("seed", range(20))
def test_a_singular_matrix_names_a_ridge_that_helps(refused, seed):
    w, c = random(4, DIM).double(), random(11, DIM, seed=seed).double()
    values = random(11, 4, seed=100).double()
    text = refused(solve, w, c, values, c[:0], 0.0)
    assert "ridge is 0.0" in text
    enough = float(re.findall(r"at least (\S+)$", text)[0])
    torch.testing.assert_close(c @ solve(w, c, values, c[:0], enough).T, values, rtol=0, atol=0.1)


def test_problems_that_make_no_sense(refused):
    w, (erased, anchors, preserved) = weights(), problem(erased=3)
    both, wrong = torch.cat([preserved, erased[1:2]]), {"k": random(4, 8)}
    candidates = torch.stack([preserved[0], erased[0]])[:, None]
    for words, call, *given in (
        ("preserved prompt 2 is also erased (prompt 1)", uce, w, erased, anchors, both),
        ("prompt 1", adversarial, w, erased, anchors, preserved, candidates),
        ("2 anchors for 3", rece, w, erased, anchors[:2], preserved),
        ("(2, 1, 12)", speed, w, erased, anchors, preserved[:, :1]),
        ("[8]", uce, wrong, erased, anchors, preserved),
    ):
        assert words in refused(call, *given, 0.1, *([] if call is speed else [1.0]))
    assert "Linear" in refused(kv_names, nn.Linear(2, 2))
    assert "'esd'" in refused(erase_closed_form, None, config(method="esd"))


@pytest.mark.parametrize("method", CLOSED_FORMS)
def test_erasure_edits_k_and_v_alone_and_is_saved_and_loaded(tiny, tmp_path, method):
    before, calls = {k: v.clone() for k, v in tiny.unet.state_dict().items()}, []
    erasure, again = (erase(tiny, config(method=method), [calls.append]) for _ in range(2))
    assert not calls  # nothing is trained
    assert all(torch.equal(v, before[k]) for k, v in tiny.unet.state_dict().items())
    assert again.history == erasure.history
    assert all(torch.equal(v, again.tensors[k]) for k, v in erasure.tensors.items())
    loaded = Erasure.load(erasure.save(tmp_path / "run"))
    assert loaded.config == erasure.config
    for row, read in zip(erasure.history, loaded.history, strict=True):
        assert row["evaluations"] == 0 and read == pytest.approx(row)
    with loaded.applied(tiny):
        changed = [k for k, v in tiny.unet.state_dict().items() if not torch.equal(v, before[k])]
    assert sorted(changed) == sorted(kv_names(tiny.unet)) == sorted(erasure.tensors)
    assert all(t.dtype == torch.float32 for t in erasure.tensors.values())


def test_all_of_several_targets_go_towards_the_neutral_concept(tiny):
    w = stacked({k: tiny.unet.get_parameter(k).detach() for k in kv_names(tiny.unet)})
    after = stacked(erase(tiny, config(styles=(), lam=0.1, ridge=1e-3)).tensors)
    anchor = encode_prompts(tiny, [""]) @ w.T
    for target in encode_prompts(tiny, ["church", "dog"]):
        assert (target @ after.T - anchor).norm() < 0.6 * (target @ w.T - anchor).norm()


def near(pipe, c):
    return edit.near_words(pipe, c.targets, search_words(c.vocabulary, c.targets), c.candidates)


def test_eap_closed_names_the_words_that_it_added(tiny):
    c = config(method="eap_closed", rounds=2, per_round=2)
    chosen = [word for row in erase(tiny, c).history for word in row["chosen"].split("|")]
    assert len(set(chosen)) == len(chosen) == 4
    assert set(chosen) <= set(near(tiny, c)) and not {"church", "dog"} & set(near(tiny, c))


@pytest.mark.parametrize("method", ["uce", "eap_closed"])
def test_what_is_preserved_by_hand_stands_beside_the_nearest(tiny, method):
    c = config(method=method, targets=["church"], lam=20.0)
    own, given = near(tiny, c), "accordion"
    assert given not in own

    def moved(**more):
        tensors = erase(tiny, replace(c, **more)).tensors
        return movement(kv_weights(tiny.unet), tensors, encode_prompts(tiny, [given, *own]))

    plain, both = moved(), moved(preserved=(given,))
    assert both[0] < 0.8 * plain[0]
    assert both[1:].mean() < 1.1 * plain[1:].mean()  # instead of them it would be far more


def test_a_vocabulary_of_the_preserved_alone_has_no_others(tiny, tmp_path):
    words = ["bell", "tower"]
    (tmp_path / "words.txt").write_text("bell\ntower\n")
    c = config(targets=["church"], preserved=words, vocabulary=str(tmp_path / "words.txt"))
    every = [encode_prompts(tiny, prompts_of(w, c.styles)) for w in words]
    neutral = encode_prompts(tiny, forms_of("", c.styles))
    erased, become = (encode_prompts(tiny, forms_of(w, c.styles, "church")) for w in ("church", ""))
    expected = uce(
        kv_weights(tiny.unet), erased, become, torch.cat([neutral, *every]), c.ridge, c.lam
    )
    for method in ("uce", "eap_closed"):  # which has nothing to choose from
        for name, tensor in erase(tiny, replace(c, method=method)).tensors.items():
            torch.testing.assert_close(tensor, expected[0][name])


def test_eap_closed_looks_closely_at_what_uce_moves_most(tiny, monkeypatch):
    seen = {}

    def look(weights, erased, anchors, preserved, every, *numbers):
        seen["every"] = every
        seen["plain"] = uce(weights, erased, anchors, preserved, *numbers[:2])[0]
        return adversarial(weights, erased, anchors, preserved, every, *numbers)

    monkeypatch.setattr(edit, "adversarial", look)
    c = config(method="eap_closed", rounds=1, per_round=1, nearest=12, candidates=12)
    erase(tiny, c)
    nearest = near(tiny, c)
    far = movement(kv_weights(tiny.unet), seen["plain"], encode_prompts(tiny, nearest))
    most = [nearest[i] for i in far.argsort(descending=True)[: edit.SHORTLIST].tolist()]
    assert len(nearest) > edit.SHORTLIST == len(seen["every"])
    assert torch.allclose(seen["every"][:, 0], encode_prompts(tiny, most), atol=1e-5)


def test_targets_are_never_among_the_preserved_words(tiny, tmp_path, refused):
    file = tmp_path / "words.txt"
    file.write_text("Church\nbell\ndog \ntower\nhouse\n")
    words = search_words(str(file), ["church", "dog"])
    assert words == ["bell", "tower", "house"]
    near = edit.near_words(tiny, ["church", "dog"], words, 1)
    assert len(near) in (1, 2) and near == [word for word in words if word in near]
    file.write_text("church\nbell\n")
    assert "fewer than two" in refused(erase, tiny, config(vocabulary=str(file)))


@pytest.mark.parametrize(("target", "styles"), [("church", ("noto",)), ("noto style", ())])
def test_what_stands_before_the_concept_is_its_own_anchor(tiny, target, styles):
    neutral = forms_of("", styles, target)
    texts = prompts_of(target, styles), neutral
    erased, become = (encode_prompts(tiny, some) for some in texts)
    same = (erased - become).abs().amax(-1) < 1e-5
    # the start and every word before the target's: all of them before a style
    words = [1 + len(text.split()) for text in neutral]
    if target == "church":
        assert neutral == ["", "a", "a picture of a", "a in noto style"]
        words[-1] = 2
    assert same.long().cumprod(1).sum(1).tolist() == words


def test_a_half_precision_model_is_edited_too(tiny_folder, tiny):
    half = load_pipeline(tiny_folder, device="cpu", dtype=torch.float16)
    tensors = erase(tiny, config()).tensors
    for name, tensor in erase(half, config()).tensors.items():
        torch.testing.assert_close(tensor, tensors[name], rtol=0.1, atol=0.02)


def test_projected_takes_away_what_only_the_target_uses_and_has_no_inverse():
    _, (erased, anchors, preserved) = weights(), problem()
    every = erased.double(), anchors.double(), torch.cat([anchors, preserved]).double()
    t, (c, a, p) = projected(*every, 1e-6, 1.0), (e.flatten(0, 1) for e in every)
    torch.testing.assert_close(t @ t, t)
    torch.testing.assert_close(c @ t.T, a, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(p @ t.T, p, rtol=1e-3, atol=1e-3)
    assert torch.linalg.matrix_rank(t) == DIM - len(c)
    s = gram(weights())
    told, free = reversal(s, t, c, a), (c - a).T
    assert "key" not in told and told["cond"] > 1e12
    # the embedding that comes nearest, by least squares in all layers at once
    w = stacked(weights()).double()
    best = torch.linalg.lstsq(w @ t, w @ c.T, driver="gelsd").solution
    expected = ((w @ t @ best - w @ c.T).norm() / (w @ free).norm()).item()
    assert told["left"] == pytest.approx(expected, rel=1e-4) and 0 < expected < 1
    # of all that take the same away, the least movement: any other projector along it moves more
    wide = random(9, 2, DIM, seed=8).double()
    t = projected(*every[:2], wide, 0.1, 0.01)
    taken = DIM - int(torch.linalg.matrix_rank(t))
    u, columns = torch.linalg.svd(t - one(t))[0][:, :taken], wide.flatten(0, 1)
    m = 0.01 / len(columns) * columns.T @ columns + 0.1 * one(t)

    def cost(t):
        return torch.trace((t - one(t)) @ m @ (t - one(t)).T)

    assert 0 < taken < DIM and cost(t) < cost(one(t) - u @ u.T)


def one(like):
    return torch.eye(len(like), dtype=like.dtype)


def test_the_history_says_what_undoing_takes(tiny):
    erasure = erase(tiny, config(method="uce"))
    (r,) = matrices(erasure, tiny)
    t, (row,) = r + one(r), erasure.history
    s = torch.linalg.svdvals(t)
    assert row["cond"] == pytest.approx((s[0] / s[-1]).item(), rel=1e-2)
    assert row["key"] > 1
    singular = erase(tiny, config(method="eap_projected", lam=1e-4, ridge=1e-3)).history[-1]
    assert singular["cond"] > 1e12 and "key" not in singular and singular["left"] > 0
