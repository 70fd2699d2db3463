"""What others published, as their code does it: EAP's schedule and candidates, ESD, UCE, SPEED."""

from __future__ import annotations

import pytest
import torch

from erase_lib import EraseConfig, bank, closed_form, erase
from erase_lib.bank import Start
from erase_lib.diffusion import guided, noise, predict, sampler
from erase_lib.hold import in_place
from erase_lib.kv import kv_weights
from erase_lib.models import trained_names
from erase_lib.text import candidates, encode_prompts, searchable, thinned
from erase_lib.train import Run


def paper(**values):
    given = {"targets": ["church"], "steps": 2, "sampling_steps": 5, "vocabulary": "concepts"}
    given |= {"nearest": 12, "candidates": 6} | values
    return EraseConfig.from_profile("paper", **given)


def moved(run):
    """The run with a student that is not the teacher."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in run.student.values():
            p += 0.3 * p.std() * torch.randn(p.shape, generator=g)
    return run


def ddim(pipe, z, c, empty, levels):
    """Guided DDIM by hand (Song et al. 2021, eq. 12), from each timestep to ᾱ of the next level."""
    alphas = pipe.scheduler.alphas_cumprod
    for t, after in levels:
        at = torch.tensor([t]).expand(len(z))
        v, a, b = guided(pipe, z, at, c, empty, 3.0)[0], alphas[t], alphas[after]
        clean, epsilon = a.sqrt() * z - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * z
        z = b.sqrt() * clean + (1 - b).sqrt() * epsilon
    return z


# of each bin: the steps taken, as (timestep told, timestep whose ᾱ z has afterwards)
DOWN = [(601, 401), (401, 201), (201, 1), (1, 0)]  # 801 is left out


@torch.no_grad()
@pytest.mark.parametrize(("at", "steps"), [(4, 1), (3, 2), (2, 3), (1, 4), (0, 4)])
def test_z_is_sampled_by_the_student_and_stands_two_bins_cleaner(tiny, at, steps):
    run = moved(Run(tiny, paper()))
    assert sampler(tiny, 5).timesteps.tolist() == [801, 601, 401, 201, 1]
    begin = Start(at, torch.tensor([200 * at + 57]), noise(tiny, 1, run.g))
    run.latents.begin = lambda n: begin
    c, empty = encode_prompts(tiny, ["church"]), encode_prompts(tiny, [""])
    _, z, t, _ = run.at_target(0, 1)
    with in_place(tiny.unet, run.student):
        by_hand = ddim(tiny, begin.noise, c, empty, DOWN[:steps])
    torch.testing.assert_close(z, by_hand, rtol=1e-4, atol=1e-5)
    assert t.tolist() == [200 * at + 57] and run.evaluations == 2 * steps
    # and ẑ₀ is taken with ᾱ of the bin, whatever t the denoiser is told
    a, v = tiny.scheduler.alphas_cumprod[200 * at + 1], predict(tiny, z, t, c)
    expected = a.sqrt() * z - (1 - a).sqrt() * v
    torch.testing.assert_close(run.latents.predict(z, t, c), expected)


def test_t_is_any_of_its_bin(tiny):
    run = Run(tiny, paper())
    found = [run.latents.begin(1)[:2] for _ in range(300)]
    told = {int(t) for _, t in found}
    assert all(t // 200 == at for at, t in found) and {at for at, _ in found} == set(range(5))
    assert len(told) > 200 and max(told) > 980 and min(told) < 20
    t = torch.arange(1000)
    alphas = tiny.scheduler.alphas_cumprod[200 * (t // 200) + 1]
    assert torch.equal(run.latents.share(t).flatten(), alphas)


def test_z_and_z_r_have_one_start_and_pi_a_draw_of_its_own(tiny):
    run, starts = Run(tiny, paper(targets=["church", "dog"], steps=8)), []
    draw = run.latents.draw

    def drawn(*given, **more):
        found = draw(*given, **more)
        starts.append(run.latents.start)
        return found

    run.latents.draw = drawn
    before = [search.pi.detach().clone() for search in run.searches]
    targets = []
    for i in range(8):
        row = run.update()
        z, z_r, own, own_r = starts[4 * i : 4 * i + 4]
        assert z is z_r and own is own_r and not torch.equal(z.noise, own.noise)
        targets.append((row["target"], row["target_search"]))
        after = [search.pi.detach().clone() for search in run.searches]
        changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert changed == [row["target_search"] == target for target in ("church", "dog")]
        before = after
    assert len(set(targets)) == 4  # all pairs: the second is drawn apart from the first


def test_what_an_update_takes_is_counted_over_every_bin(tiny, monkeypatch):
    asked = []

    def along(pipe, z, *given, skip):
        steps = given[2]
        return (asked.append((i, skip)) or (0, z) for i in range(steps + 1 - skip))

    monkeypatch.setattr(bank, "trajectory", along)
    run = Run(tiny, paper(sampling_steps=10, steps=10))
    for at in range(10):
        begin = Start(at, torch.tensor([100 * at + 7]), noise(tiny, 1, run.g))
        run.latents.begin = lambda n, begin=begin: begin
        row = run.update()
    # 9, 9, 8 … 1 guided steps, four times, and 16 beside them: with 50 steps it is the 219.84 of
    # tests/tools/test_cost.py
    assert row["evaluations"] / 10 == pytest.approx(4 * 2 * 5.4 + 16)
    assert {skip for _, skip in asked} == {1} and max(i for i, _ in asked) == 9


def test_the_target_is_among_the_candidates_as_published(tiny):
    (near,) = candidates(tiny, paper(nearest=6))
    assert near[0] == "church"
    (near,) = candidates(tiny, paper(nearest=6, thinning="meaning"))
    assert "church" not in near
    # k-means of two far groups: the nearest of all to each centre, once
    points = torch.tensor([[0.0], [0.9], [2.1], [10.0], [11.1], [12.0]])
    assert thinned(points, 2, 0, any_member=True) == [1, 4]


def test_train_methods_by_the_names_of_others(tiny):
    names = {m: set(trained_names(tiny.unet, m)) for m in ("full", "xattn", "noxattn", "kv")}
    ends = names["full"] - names["xattn"] - names["noxattn"]
    layers = ("conv_norm_out", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")
    assert ends == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(trained_names(tiny.unet, "esd-x")) == names["xattn"]
    assert set(trained_names(tiny.unet, "esd-x-strict")) == names["kv"]
    every = set(trained_names(tiny.unet, "esd-u"))
    norms = {name for name in names["full"] - names["xattn"] if "norm" in name}
    assert every == names["full"] - names["xattn"] - norms and norms


@pytest.mark.parametrize("source", ["", "house"])
def test_esd_as_its_own_code_does(tiny, source):
    config = EraseConfig.from_profile("paper", targets=["church"], method="esd")
    assert (config.lr, config.steps, config.eta, config.guidance_scale) == (5e-5, 200, 1.0, 3.0)
    assert (config.train_method, config.sampling_steps, config.batch) == ("xattn", 50, 1)
    run = moved(Run(tiny, paper(method="esd", steps=None, erase_from=source)))
    begin = Start(2, torch.tensor([401]), noise(tiny, 1, run.g))
    run.latents.begin = lambda n: begin
    student = {name: p.detach().clone() for name, p in run.student.items()}
    row = run.update()
    of = ["church", source or "church", ""]
    c_e, asked, empty = (encode_prompts(tiny, [word]) for word in of)
    with torch.no_grad():  # the teacher samples, exactly to t
        z = ddim(tiny, begin.noise, asked, empty, [(801, 601), (601, 401)])
        own, target, null = (predict(tiny, z, begin.t, c) for c in (asked, c_e, empty))
        with in_place(tiny.unet, student):
            ours = predict(tiny, z, begin.t, asked)
    expected = (ours - (own - 2 * (target - null))).pow(2).mean().item()
    assert row["l1"] == pytest.approx(expected, rel=1e-3)
    assert row["evaluations"] == 2 * 2 + (3 if source else 2) + 3


@pytest.mark.parametrize("preserved", [(), ("dog", "sailboat")])
def test_uce_as_its_own_code_does(tiny, preserved):
    given = {"targets": ["church", "rose"], "method": "uce", "preserved": preserved}
    config = EraseConfig.from_profile("paper", **given)
    assert (config.ridge, config.schedule) == (0.5, "published")
    found = erase(tiny, config)

    def last(word):
        ids = tiny.tokenizer(word).input_ids  # start and end are two of them
        return encode_prompts(tiny, [word])[0, len(ids) - 2].double()

    assert torch.equal(last(""), encode_prompts(tiny, ["dog"])[0, 0].double())  # the start token
    for name, w in kv_weights(tiny.unet).items():
        w = w.double()
        right, matrix = 0.5 * w, 0.5 * torch.eye(w.shape[1], dtype=torch.float64)
        pairs = [(word, "") for word in config.targets] + [(word, word) for word in preserved]
        for word, becomes in pairs:
            right = right + torch.outer(w @ last(becomes), last(word))
            matrix = matrix + torch.outer(last(word), last(word))
        expected = (right @ torch.linalg.inv(matrix)).float()
        torch.testing.assert_close(found.tensors[name], expected, rtol=1e-4, atol=1e-6)


def test_speed_is_told_of_all_its_parts(tiny, monkeypatch):
    seen, speed = [], closed_form.speed
    monkeypatch.setattr(
        closed_form, "speed", lambda *given, **more: seen.append(more) or speed(*given)
    )
    config = paper(method="speed", nearest=4, candidates=4, seed=3)
    erase(tiny, config)
    erase(tiny, EraseConfig.from_dict(config.to_dict() | {"schedule": "replay"}))
    published, plain = seen
    assert (published["copies"], published["seed"], plain) == (10, 3, {})
    assert torch.equal(published["exact"], encode_prompts(tiny, [""]))


def test_what_speed_keeps_exactly_does_not_move(refused):
    g = torch.Generator().manual_seed(0)
    weights = {"k": torch.randn(9, 12, generator=g), "v": torch.randn(5, 12, generator=g)}
    e, a, p, exact = torch.randn(4, 1, 2, 12, generator=g)
    plain, whole = (
        closed_form.speed(weights, e, a, p, 0.1, exact=given)[0] for given in (None, exact)
    )
    for name, w in weights.items():
        size = (w @ exact[0].T).norm()
        assert ((plain[name] - w) @ exact[0].T).norm() > 1e-2 * size
        assert ((whole[name] - w) @ exact[0].T).norm() < 1e-5 * size
        assert ((whole[name] - w) @ e[0].T).norm() > 1e-2 * size  # and what is erased does
    every = torch.eye(12)[None]
    refused(closed_form.speed, weights, e, a, p, 0.1, exact=every[:, :12], says="directions")


def test_noise_of_speed_is_along_what_k_and_v_hear_least(monkeypatch):
    g, eigh, seen = torch.Generator().manual_seed(0), torch.linalg.eigh, []
    weights = {"k": torch.diag(torch.tensor([3.0, 3.0, 3.0, 3.0, 3.0, 0.1]))}
    e, a, p = torch.randn(3, 1, 2, 6, generator=g)
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: seen.append(m) or eigh(m))
    kept = []
    for copies in (0, 3):
        _, (row,) = closed_form.speed(weights, e, a, p, 0.1, copies=copies)
        kept.append((row["kept"], seen[-1]))
    (few, plain), (many, noisy) = kept
    assert few < many <= 4 * few - 6  # the two columns of the anchor have no copies
    ranks = [torch.linalg.matrix_rank(m).item() for m in (plain, noisy)]
    heard = [torch.linalg.matrix_rank(m[:5, :5]).item() for m in (plain, noisy)]
    assert ranks[1] == ranks[0] + 1 and heard[0] == heard[1]


def test_the_tokenizers_own_words(tiny):
    words = searchable(tiny, "tokens", ["church"])
    assert {"dog", "house"} <= set(words) and "church" not in words and "" not in words
    assert len(words) == len({word.casefold() for word in words}) > 1000
    assert not any("</w>" in word or "<|" in word for word in words)


def test_settings_that_contradict(refused):
    refused(paper, sampling_steps=1, says="sampling_steps published")
    refused(paper, method="ca", anchors=["dog"], erase_from="cat", says="erase_from 'ca'")
    refused(paper, method="uce", erase_from="cat", says="erase_from 'uce'")
    refused(paper, method="esd", erase_from="Church", says="erase_from 'Church' target")
    refused(paper, loss="epsilon", says="'epsilon' output")
    nudity = paper(targets=["nudity"], nearest=2000, candidates=50, train_method="noxattn")
    assert (nudity.nearest, nudity.schedule) == (2000, "published")
