"""Newer closed forms against their equations; the dial against brute force; what training took over
from others: Hellinger's loss, projected gradients, and λ shared by the targets."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from erase_lib import EraseConfig, erase
from erase_lib.closed_form import near_words, uce
from erase_lib.concepts import search_words
from erase_lib.export import matrices
from erase_lib.kv import kv_names, kv_weights
from erase_lib.rivals import NEIGHBOURS, cure, expanded, minimax, nlce, oce
from erase_lib.text import encode_prompts, last_tokens, near_each
from erase_lib.train import Run

DIM = 4


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def axes(*which):
    """Concepts of a token each, along these axes."""
    return torch.eye(DIM).double()[list(which)][:, None]


def test_no_other_turn_has_a_smaller_loss_than_oces():
    e, a, p = (random(n, 2, DIM, seed=n) for n in (2, 2, 3))
    a, lam = random(2, 2, DIM, seed=9), 0.7

    def loss(t):
        left, moved = (e @ t.T - a).square().sum(2).mean(), (p @ t.T - p).square().sum(2).mean()
        return float(left + lam * moved)

    t = oce(e, a, p, lam)
    torch.testing.assert_close(t @ t.T, torch.eye(DIM).double())
    for seed in range(20):
        turn = random(DIM, DIM, seed=seed)
        for size in (0.01, 0.3):
            assert loss(t) < loss(torch.matrix_exp(size * (turn - turn.T)) @ t)
    torch.testing.assert_close(oce(e, e, p, lam), torch.eye(DIM).double())  # nothing to turn


def test_directions_count_by_their_share_of_the_energy():
    columns = torch.diag(torch.tensor([3.0, 1.0, 0.0])).double()  # shares .9 and .1
    for alpha, expected in ((1, (0.9, 0.1)), (2, (1.8 / 1.9, 0.2 / 1.1)), (torch.inf, (1, 1))):
        found = expanded(columns, alpha)
        torch.testing.assert_close(found, torch.diag(torch.tensor([*expected, 0.0]).double()))
    assert expanded(columns, 2, most=1).diagonal().tolist() == pytest.approx([1.8 / 1.9, 0, 0])


def test_cure_cuts_out_what_the_target_alone_spans():
    e, other = axes(0), axes(1)
    t = cure(e, e, other, 1.0)
    assert (t @ e[0, 0]).norm() < 1e-9
    torch.testing.assert_close(other @ t.T, other)
    torch.testing.assert_close(axes(2) @ t.T, axes(2))  # nobody's, and untouched
    # of what the others span too only the rest goes
    both = (e + other) / 2**0.5
    torch.testing.assert_close(cure(e, e, both, 1.0) @ e[0, 0], e[0, 0] / 2)
    same = cure(e, e, torch.cat([e, 1e-3 * other]), 1.0)
    torch.testing.assert_close(same, torch.eye(DIM).double(), atol=1e-5, rtol=0)


def test_nlce_leaves_of_a_target_what_it_is_to_its_neighbours():
    e, neighbour = axes(0), (axes(0) + axes(1)) / 2**0.5
    t = nlce(e, e, neighbour, 1.0)
    torch.testing.assert_close(t @ e[0, 0], neighbour[0, 0] / 2**0.5)
    torch.testing.assert_close(axes(1, 2) @ t.T, axes(1, 2))
    # P_t is a projector, whatever the lengths
    two = torch.cat([axes(0), 1e-3 * axes(1)])
    gone = torch.diag(torch.tensor([0, 0, 1, 1.0])).double()
    torch.testing.assert_close(nlce(two, two, axes(2), 1.0), gone)


def problem(m=4):
    e, a, p = random(1, 2, DIM, seed=1), random(1, 2, DIM, seed=2), random(m, 2, DIM, seed=3)
    p[0] = 0.8 * e[0] + 0.3 * p[0]  # near the target
    w = random(6, DIM, seed=4)
    return w, e, a, p


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_the_dial_against_brute_force(share):
    (w, e, a, p), ridge, lam = problem(), 0.05, 2.0
    one = torch.eye(DIM).double()

    def parts(t):
        """The loss but for the preserved, and how far each of them moved."""
        fixed = ((e @ t.T - a) @ w.T).square().sum(2).mean() + ridge * (
            w @ (t - one)
        ).square().sum()
        return float(fixed), ((p @ t.T - p) @ w.T).square().sum(2).mean(1)

    def loss(t):
        fixed, moved = parts(t)
        return fixed + lam * float((1 - share) * moved.mean() + share * moved.max())

    def smooth(x):  # the largest as a variable that no movement may exceed
        fixed, moved = parts(torch.tensor(x[:-1]).view(DIM, DIM))
        return fixed + lam * ((1 - share) * float(moved.mean()) + share * x[-1])

    def room(x):
        return x[-1] - parts(torch.tensor(x[:-1]).view(DIM, DIM))[1].numpy()

    start = np.append(one.flatten().numpy(), 0.1)
    limits = {"type": "ineq", "fun": room}
    brute = minimize(smooth, start, constraints=limits, method="SLSQP", options={"maxiter": 500})
    assert brute.success
    t = minimax(w.T @ w, e, a, p, ridge, lam, share)
    assert loss(t) == pytest.approx(loss(torch.tensor(brute.x[:-1]).view(DIM, DIM)), rel=3e-3)
    assert loss(t) <= brute.fun * 1.003


def test_the_dial_turns_from_the_mean_to_the_worst():
    w, e, a, p = problem()

    def moved(share):
        t = minimax(w.T @ w, e, a, p, 0.05, 2.0, share)
        return ((p @ t.T - p) @ w.T).square().sum((1, 2))

    plain = uce({"k": w}, e, a, p, 0.05, 2.0)[0]["k"].double()
    by_uce = (p @ (plain - w).T).square().sum((1, 2))
    torch.testing.assert_close(moved(1e-6), by_uce, rtol=1e-3, atol=1e-6)
    worst = [float(moved(share).max()) for share in (1e-6, 0.3, 1.0)]
    assert worst[0] > 1.02 * worst[1] and worst[1] > 1.02 * worst[2]
    assert moved(1.0).min() > 1.2 * moved(1e-6).min()  # somebody else pays


def test_rivals_on_a_pipeline_see_the_bare_words_and_the_nearest(tiny):
    given = {"targets": ["church"], "vocabulary": "concepts", "nearest": 12, "lam": 1.0}
    near = near_words(tiny, ["church"], search_words("concepts", ["church"]), NEIGHBOURS)
    bare = [encode_prompts(tiny, some).double() for some in (["church"], [""], ["pizza", *near])]
    assert len(near) == NEIGHBOURS and "pizza" not in near
    for method, form in (("cure", cure), ("nlce", nlce)):
        config = EraseConfig(method=method, preserved=["pizza"], **given)
        tensors, t = erase(tiny, config).tensors, form(*bare, 1.0)
        for name, w in kv_weights(tiny.unet).items():
            torch.testing.assert_close(tensors[name], (w.double() @ t).float())
    (change,) = matrices(erase(tiny, EraseConfig(method="oce", **given)), tiny)
    turn = change + torch.eye(len(change)).to(change)
    torch.testing.assert_close(turn @ turn.T, torch.eye(len(turn)).to(turn), atol=1e-4, rtol=0)


def test_the_dial_on_a_pipeline(tiny):
    given = {"vocabulary": "concepts", "nearest": 12, "lam": 20.0, "styles": ()}
    near = near_words(tiny, ["church"], search_words("concepts", ["church"]), 12)

    def worst(**more):
        tensors = erase(tiny, EraseConfig(["church"], **(given | more))).tensors
        kept = encode_prompts(tiny, ["", *near]).double()
        change = torch.cat([tensors[n] - w for n, w in kv_weights(tiny.unet).items()]).double()
        return float((kept @ change.T).square().sum((1, 2)).max())

    by_share = [worst(method="eap_closed", minimax=share) for share in (0.1, 1.0)]
    assert by_share[1] < by_share[0] < worst(method="uce")


def test_hellinger_by_hand(tiny):
    half = SimpleNamespace(share=lambda t: torch.tensor([0.5, 0.5]).view(2, 1, 1, 1))
    run = SimpleNamespace(config=SimpleNamespace(loss="hellinger"), latents=half, pipe=tiny)
    clean = torch.zeros(2, 3, 2, 2)
    other = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    told = {}
    for loss in ("output", "hellinger"):
        run.config.loss = loss
        told[loss] = float(Run.distance(run, clean, other, torch.zeros(2)))
    # of two latents one is right, the other off by twice the mean
    assert told["hellinger"] == pytest.approx((1 - np.exp(-2 * told["output"])) / 2)


def settings(**values):
    return EraseConfig.from_profile("smoke", **({"targets": ["church"], "steps": 1} | values))


def test_projected_gradients_are_orthogonal_to_the_neighbours(tiny):
    seen = {}
    for project in (0, 5):
        config = settings(method="esd", project=project, vocabulary="concepts")
        run = Run(tiny, config)
        step = run.optimiser.step
        run.optimiser.step = lambda run=run, step=step: (
            seen.update({n: p.grad.clone() for n, p in run.student.items()}),
            step(),
        )
        run.update()
        words = near_each(tiny, ["church"], search_words("concepts", ["church"]), 5)
        c = last_tokens(tiny, words)[:, 0]
        for name in kv_names(tiny.unet):
            along = (seen[name] @ c.T).norm() / (seen[name].norm() * c.norm())
            assert (along < 1e-5) == bool(project) and seen[name].norm() > 0


@pytest.mark.parametrize(("schedule", "share"), [("replay", 0.5), ("published", 1.0)])
def test_lambda_is_shared_by_the_targets(tiny, monkeypatch, schedule, share):
    told = {}
    monkeypatch.setattr(Run, "descend", lambda self, loss, row: told.update(row, loss=loss.item()))
    config = settings(
        targets=["church", "dog"], schedule=schedule, lam=4.0, search="random", lr=0.1
    )
    run = Run(tiny, config)
    for p in run.student.values():  # or nothing has moved, and L2 is 0
        p.data.mul_(1.1)
    run.update()
    assert told["l2"] > 0
    assert told["loss"] == pytest.approx(told["l1"] + 4.0 * share * told["l2"], rel=1e-5)


def test_settings_that_do_not_go_together(refused):
    for values, words in (
        ({"minimax": 1.5, "method": "eap_closed"}, "1.5"),
        ({"minimax": 0.5, "method": "uce"}, "eap_closed"),
        ({"project": 5, "train_method": "selfattn"}, "selfattn"),
        ({"project": 5, "method": "uce"}, "uce"),
        ({"loss": "helinger"}, "hellinger"),
    ):
        refused(settings, says=words, **values)
