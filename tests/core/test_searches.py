"""Every search against the truth, on a student perturbed to damage one known concept."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from erase_lib import EraseConfig, erase
from erase_lib.diffusion import alpha_bar, predict, predict_clean, to_clean
from erase_lib.errors import NotFinite
from erase_lib.hold import in_place
from erase_lib.kv import KVPenalty, kv_names, kv_weights, movement
from erase_lib.search import (
    ExhaustiveSearch,
    GumbelSearch,
    MovementSearch,
    NearestSearch,
    PGDSearch,
    Probe,
    Search,
    SoftSearch,
    new_search,
)
from erase_lib.text import candidates, encode_prompts
from erase_lib.train import Run

WORDS = ["castle", "dog", "trumpet", "apple", "bus"]
VICTIM = 2


@pytest.fixture
def planted(tiny):
    """Embeddings `(1, n, tokens, dim)` and a student whose K and V have moved along the victim."""
    embeddings = encode_prompts(tiny, WORDS)
    shared = torch.cat([embeddings[i] for i in range(len(WORDS)) if i != VICTIM])
    basis = torch.linalg.svd(shared, full_matrices=True).Vh
    own = embeddings[VICTIM] - embeddings[VICTIM] @ basis[:12].T @ basis[:12]
    direction = torch.linalg.svd(own).Vh[0]
    g = torch.Generator().manual_seed(0)
    student = {}
    for name in kv_names(tiny.unet):
        weight = tiny.unet.get_parameter(name).detach()
        push = torch.randn(len(weight), generator=g)
        student[name] = weight + 3 * torch.outer(push, direction)
    return embeddings[None], student


@pytest.fixture
def clean():
    """Clean latents of the words' pictures."""
    return torch.randn(len(WORDS), 4, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def probe(tiny, planted, clean):
    return Probe(tiny, clean, planted[0][0])


def test_the_probe_is_a_mean_over_timesteps_and_noises(tiny, planted, clean):
    embeddings, student = planted
    found = Probe(tiny, clean, embeddings[0], timesteps=2, noises=3)(student)
    noise = torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(())
    for i, t in enumerate([250, 250, 250, 750, 750, 750]):
        t = torch.tensor([t])
        a = alpha_bar(tiny, t)
        z = a.sqrt() * clean[1:2] + (1 - a).sqrt() * noise[i]
        with torch.no_grad():
            outs = [predict(tiny, z, t, embeddings[0, 1:2])]
            with in_place(tiny.unet, student):
                outs.append(predict(tiny, z, t, embeddings[0, 1:2]))
        before, after = (to_clean(out, z, a, "v_prediction") for out in outs)
        total += (after - before).pow(2).mean() / 6
    assert found[1].item() == pytest.approx(total.item(), rel=1e-4)


def test_the_probe_counts_what_it_spends(tiny, planted, probe):
    calls = []
    with torch.no_grad():
        hook = tiny.unet.register_forward_hook(lambda *a, **k: calls.append(len(a[1][0])))
        probe(planted[1])
        hook.remove()
    assert sum(calls) == probe.evaluations == len(WORDS) * 8 * 4
    assert probe.evaluations == Probe(tiny, probe.z[:: probe.each], probe.embeddings).evaluations


def test_exhaustive_finds_the_victim(tiny, planted, probe):
    embeddings, student = planted
    truth = probe(student)
    assert truth.argmax() == VICTIM
    search = ExhaustiveSearch(WORDS, embeddings, tiny)
    search.probe = probe
    g = torch.Generator().manual_seed(0)
    # not at first, when the student is the teacher still; then at every tenth look
    assert [search.look(student, None) for _ in range(3)] == [0, probe.evaluations, 0]
    assert search.pick(3, g).tolist() == truth.argsort(descending=True)[:3].tolist()
    again = ExhaustiveSearch(WORDS, embeddings, tiny)
    again.load_state_dict(search.state_dict())
    assert again.pick(7, g).tolist() == search.pick(7, g).tolist()


def test_the_movement_of_k_and_v_finds_the_victim(tiny, planted):
    embeddings, student = planted
    search = MovementSearch(WORDS, embeddings, tiny.unet)
    g = torch.Generator().manual_seed(0)
    assert search.look(student, None) == 0
    search.most = 1
    counts = torch.bincount(torch.stack([search.pick(1, g) for _ in range(500)]).flatten())
    # every second time the victim, else any of the five: 0.5 + 0.5 / 5
    assert counts[VICTIM] / 500 == pytest.approx(0.6, abs=0.07)
    assert len(counts) == len(WORDS) and counts.min() > 20
    # of two, one is from the two most moved, the other anyone
    two = search.scores.argsort(descending=True)[:2].tolist()
    picked = torch.stack([search.pick(2, g) for _ in range(50)])
    assert set(picked[:, 1].tolist()) == set(two)
    assert set(picked[:, 0].tolist()) == set(range(len(WORDS)))
    original = {name: tiny.unet.get_parameter(name).detach() for name in kv_names(tiny.unet)}
    assert movement(original, student, embeddings[0]).argmax() == VICTIM


def test_soft_draws_by_the_movement_in_standard_deviations(tiny, planted):
    embeddings, student = planted
    search = SoftSearch(WORDS, embeddings, tiny.unet, temperature=1.0)
    assert search.weights().tolist() == pytest.approx([0.2] * 5)  # nothing has moved yet
    assert search.look(student, None) == 0 and search.weights().argmax() == VICTIM
    # by hand: mean 2, squares 1 + 1 + 4 + 0 + 4, four degrees of freedom
    search.scores = torch.tensor([1.0, 3.0, 4.0, 2.0, 0.0]).double()
    sd = math.sqrt(10 / 4)
    expected = [math.exp(score / sd) for score in (1, 3, 4, 2, 0)]
    expected = [e / sum(expected) for e in expected]
    assert search.weights().tolist() == pytest.approx(expected)
    g = torch.Generator().manual_seed(0)
    share = torch.bincount(search.pick(20_000, g), minlength=5) / 20_000
    assert share.tolist() == pytest.approx(expected, abs=0.015)
    search.scores *= 1e-4  # has no unit
    assert search.weights().tolist() == pytest.approx(expected)
    for temperature in (1e-3, 1e-300):
        search.temperature = temperature
        assert search.pick(9, g).tolist() == [VICTIM] * 9
    search.temperature = 1e6
    assert search.weights().tolist() == pytest.approx([0.2] * 5, abs=1e-6)


def test_the_temperature_follows_the_search():
    config = EraseConfig(targets=["church"])
    assert config.temperature == 2 and replace(config, search="soft").temperature == 1
    assert replace(config, search="soft", temperature=0.5).temperature == 0.5
    assert EraseConfig.from_dict(config.to_dict()) == config


def test_held_is_the_mean_square_of_the_movement_of_all(tiny, planted):
    embeddings, student = planted
    original = kv_weights(tiny.unet)
    held = KVPenalty(original, embeddings[0])
    expected = movement(original, student, embeddings[0]).square().mean().item()
    assert held(student).item() == pytest.approx(expected, rel=1e-4)
    assert held(original).item() == 0


def test_the_gradient_of_held_is_its_slope(tiny, planted):
    embeddings, student = planted
    name = kv_names(tiny.unet)[0]
    held = KVPenalty(kv_weights(tiny.unet), embeddings[0])
    weight = student[name].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(held(student | {name: weight}), weight)
    step = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4))
    h = 1e-2
    ends = [held(student | {name: student[name] + e * step}).item() for e in (h, -h)]
    assert (gradient * step).sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-2)


def test_what_holds_keeps_the_candidates_still(tiny):
    given = {"targets": ["church"], "method": "eap", "steps": 30, "lr": 3e-3, "styles": ()}
    given |= {"search": "random", "train_method": "kv", "lam": 0.0}
    ends = {}
    for lam_kv in (0.0, 100.0):
        config = EraseConfig.from_profile("smoke", **given, lam_kv=lam_kv)
        erasure = erase(tiny, config, [])
        words = encode_prompts(tiny, candidates(tiny, config)[0])
        ends[lam_kv] = movement(kv_weights(tiny.unet), erasure.tensors, words).square().mean()
        assert ("l2_kv" in erasure.history[-1]) == (lam_kv > 0)
        assert set(erasure.tensors) == set(kv_names(tiny.unet))
    assert ends[100.0] < 0.5 * ends[0.0]


def test_gumbel_climbs_to_the_victim_only_by_the_whole_gradient(tiny, planted, probe):
    embeddings, student = planted
    found = {}
    for full, hard in ((True, True), (True, False), (False, True)):
        search = GumbelSearch(WORDS, embeddings, lr=0.4, temperature=1.0, hard=hard)
        g = torch.Generator().manual_seed(0)
        for _ in range(25):
            choice = search.choose(8, g)
            c_a = choice.embeddings
            rows = torch.randint(probe.each, (8,), generator=g)
            z, t = probe.z[rows], probe.t[rows]
            still = predict(tiny, z, t, c_a if full else c_a.detach())
            with in_place(tiny.unet, student):
                l2 = (predict(tiny, z, t, c_a) - still).pow(2).mean()
            search.ascend(*torch.autograd.grad(l2, search.pi))
        found[full, hard] = search.pi.detach().softmax(0)[VICTIM]
    assert found[True, True] > 0.9 and found[True, False] > 0.9
    assert found[False, True] < 0.1  # as published: the teacher's prediction held constant


def test_the_gradient_of_pi_is_the_slope_of_the_loss(planted):
    embeddings = planted[0].double()
    search = GumbelSearch(WORDS, embeddings, lr=0.1, temperature=2.0, hard=False)
    search.pi.data = search.pi.data.double()

    def loss():
        return search.choose(3, torch.Generator().manual_seed(3)).embeddings.pow(3).mean()

    (gradient,) = torch.autograd.grad(loss(), search.pi)
    for i in range(len(WORDS)):
        ends = []
        for h in (1e-5, -1e-5):
            with torch.no_grad():
                search.pi[i] += h
                ends.append(loss().item())
                search.pi[i] -= h
        assert gradient[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-9)


def test_ascent_without_words_climbs_and_stays_within_its_ball(tiny, planted, probe):
    """Against a random step as long, on a student that moved along one direction."""
    embeddings, student = planted
    z, t = probe.z[:4], probe.t[:4]

    def l2(choice):
        with in_place(tiny.unet, student):
            clean = predict_clean(tiny, z, t, choice.embeddings)
        return (clean - predict_clean(tiny, z, t, choice.embeddings)).pow(2).mean()

    search, g = PGDSearch(WORDS, embeddings, lr=0.05), torch.Generator().manual_seed(0)
    begin = l2(search.choose(4, g)).item()
    assert search.choose(4, g).chosen.tolist() == [0] * 4 and search.row()["delta"] == 0
    torch.testing.assert_close(search.choose(1, g).embeddings[0], embeddings[0, 0])
    for _ in range(10):
        search.ascend(*torch.autograd.grad(l2(search.choose(4, g)), search.learns))
    climbed = l2(search.choose(4, g)).item()
    step = torch.randn(search.delta.shape, generator=g)
    search.delta.data = step / step.norm() * search.delta.norm()
    assert climbed > 2 * begin and climbed > 2 * l2(search.choose(4, g)).item()
    for _ in range(5):
        search.ascend(1e6 * step)
    before = search.delta.detach().clone()
    assert search.row()["delta"] <= 0.5 + 0.25 + 1e-6
    search.lr = 9.0
    search.ascend(step)
    assert search.row()["delta"] == pytest.approx(1)
    with pytest.raises(NotFinite):
        search.ascend(step * float("nan"))
    again = PGDSearch(WORDS, embeddings, lr=0.05)
    again.load_state_dict(search.state_dict())
    assert torch.equal(again.delta, search.delta) and not torch.equal(before, search.delta)


def test_ascent_in_a_run_follows_the_slope_of_both_predictions(tiny):
    """The gradient that a run leaves for δ, against finite differences of its own L2."""
    given = {"search": "pgd", "preserve_at": "target", "lr": 1e-2, "lam": 1.0, "steps": 3}
    config = EraseConfig.from_profile("smoke", targets=["church"], method="eap", **given)
    run = Run(tiny, config, new_search)
    (search,) = run.searches
    assert search.words != ["church"] and len(search.words) == 1
    slopes = []
    search.ascend = lambda gradient: slopes.append(gradient.clone())
    run.update()  # the student is the teacher at first: there is no slope yet
    assert slopes[0].norm() < 1e-9
    run.ahead = run.draws()
    k, z, t, c_e, goal, z_r, t_r, _, choice, _ = run.ahead[0]
    base = choice.embeddings.detach()

    def l2(delta):
        with torch.no_grad():
            original = run.teacher(z_r, t_r, base + delta)
            with in_place(tiny.unet, run.student):
                return run.distance(run.latents.predict(z_r, t_r, base + delta), original, t_r)

    way = torch.randn(base[0].shape, generator=torch.Generator().manual_seed(0))
    slope = (l2(1e-2 * way) - l2(-1e-2 * way)) / 2e-2
    run.update()
    assert (slopes[1] * way).sum().item() == pytest.approx(slope.item(), rel=0.05)


def test_controls(tiny, planted):
    embeddings, g = planted[0], torch.Generator().manual_seed(0)
    assert NearestSearch(WORDS, embeddings).pick(7, g).tolist() == [0, 1, 2, 3, 4, 0, 1]
    counts = torch.bincount(Search(WORDS, embeddings).pick(5000, g), minlength=5)
    assert counts.min() > 900
    # only what chooses without the student may be drawn ahead
    looking = {"exhaustive": ExhaustiveSearch, "movement": MovementSearch, "gumbel": GumbelSearch}
    looking |= {"soft": SoftSearch, "pgd": PGDSearch}
    for name, kind in (looking | {"nearest": NearestSearch, "random": Search}).items():
        config = EraseConfig(targets=["church"], search=name)
        search = new_search(config, WORDS, embeddings, tiny)
        assert type(search) is kind and search.blind is (name not in looking)
