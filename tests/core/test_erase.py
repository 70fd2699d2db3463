"""The loop, the search and the erasure object, on a tiny random pipeline; bad input and damage
are in test_errors.py."""

from __future__ import annotations

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from erase_lib import EraseConfig, Erasure, diffusion, erase, generate, load_pipeline, text, train
from erase_lib.concepts import forms_of
from erase_lib.erasure import Interrupted
from erase_lib.hold import in_place
from erase_lib.models import fingerprint, trained_names
from erase_lib.search import GumbelSearch, Search
from erase_lib.text import embed, encode_prompts
from erase_lib.train import Run
from tools.benchmarks.shapes import TINY, random_family

PROMPTS = ["a church in noto style", "dog"]


def smoke(**values):
    given = {"targets": ["church"], "steps": 2, "nearest": 6, "candidates": 3, "lr": 1e-2}
    given |= {"search": "gumbel", "preserve_at": "own"} | values
    return EraseConfig.from_profile("smoke", **given).settled(True)


def equal(tensors, others):
    return all(torch.equal(t, others[name]) for name, t in tensors.items())


def copied(pipe):
    return {name: t.clone() for name, t in pipe.unet.state_dict().items()}


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("kind", "output"), [("epsilon", -1.0), ("v_prediction", -2.0)])
def test_the_clean_latent_against_hand_values(kind, output):
    # ᾱ = 0.64: √ᾱ = 0.8, √(1−ᾱ) = 0.6; z0 = 2, ε = −1 give z = 1.0 and v = 0.8·(−1) − 0.6·2 = −2
    z0 = diffusion.to_clean(*torch.tensor([[output], [1.0], [0.64]]), kind)
    assert z0.item() == pytest.approx(2.0, abs=1e-6)


def test_esd_loss_against_a_hand_calculation(tiny):
    run = Run(tiny, smoke(method="esd", batch=1, styles=(), eta=0.7))
    torch.manual_seed(1)
    z, t = torch.randn(1, 4, 4, 4), torch.tensor([500])
    run.at_target = lambda *_: (torch.zeros(1, dtype=torch.int64), z, t, None)
    row = run.update()
    c_e, c_n = encode_prompts(tiny, ["church"]), encode_prompts(tiny, [""])
    a = diffusion.alpha_bar(tiny, t)
    with torch.no_grad():
        on_target = a.sqrt() * z - (1 - a).sqrt() * diffusion.predict(tiny, z, t, c_e)
        on_neutral = a.sqrt() * z - (1 - a).sqrt() * diffusion.predict(tiny, z, t, c_n)
    goal = on_neutral - 0.7 * (on_target - on_neutral)
    # before the first update the student is the teacher
    assert row["l1"] == pytest.approx((on_target - goal).pow(2).mean().item(), rel=1e-5)


def test_gradient_against_finite_differences(tiny):
    tiny.unet.double()
    name = trained_names(tiny.unet, "xattn")[0]
    weight = dict(tiny.unet.named_parameters())[name].detach().clone().requires_grad_()
    torch.manual_seed(2)
    z, e = torch.randn(2, 4, 4, 4).double(), torch.randn(2, 16, 16).double()
    t = torch.tensor([100, 800])

    def loss(w):
        with in_place(tiny.unet, {name: w}):
            return tiny.unet(z, t, e).sample.pow(2).mean()

    (gradient,) = torch.autograd.grad(loss(weight), weight)
    direction, h = torch.randn_like(weight), 1e-6
    with torch.no_grad():
        slope = (loss(weight + h * direction) - loss(weight - h * direction)) / (2 * h)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_generate_draws_what_the_stock_pipeline_draws(tmp_path, kind):
    model = TINY["sd"]["model"] | {"sample_size": 8}  # stock takes multiples of 8
    random_family("sd", TINY["sd"] | {"model": model}, kind).save_pretrained(tmp_path)
    pipe = load_pipeline(tmp_path, device="cpu")
    stock = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config, clip_sample=False)
    for seed, scale in ((3, 4.0), (4, 7.5)):
        ours = generate(pipe, PROMPTS, seed=[seed, seed + 1], steps=5, guidance_scale=scale)
        z = diffusion.start_noise(pipe, [seed, seed + 1]) * stock.scheduler.init_noise_sigma
        given = {"num_inference_steps": 5, "guidance_scale": scale, "output_type": "np"}
        theirs = stock(PROMPTS, latents=z, **given).images
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(np.asarray(a) / 255 - b).max() <= 1.01 / 255


def test_guidance_starts_from_the_empty_prompt(tiny):
    c, empty = encode_prompts(tiny, PROMPTS), encode_prompts(tiny, [""])
    z, t = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([9, 9])
    with torch.no_grad():
        u, alone = (diffusion.predict(tiny, z, t, e) for e in (empty.expand_as(c), c))
        both, conditional = diffusion.guided(tiny, z, t, c, empty, 3.0)
    torch.testing.assert_close(both, u + 3 * (alone - u), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(conditional, alone, rtol=1e-4, atol=1e-5)


def test_losses_are_means_over_their_latents(tiny):
    """L1 and L2 of an update, by hand, of more than one latent each."""
    config = smoke(search="random", batch=3, preserve_batch=4, lam=2.5, styles=())
    run = Run(tiny, config)
    run.update()  # the student is no longer the teacher
    run.ahead = run.draws()
    draw, student = run.ahead[0], {k: p.detach().clone() for k, p in run.student.items()}
    seen = []
    run.descend = lambda loss, row: seen.append(loss.item())
    row = run.update()

    def by_hand(*latents):
        return [
            (diffusion.predict_clean(tiny, z[None], t[None], c[None]) - goal).pow(2).mean().item()
            for z, t, c, goal in zip(*latents, strict=True)
        ]

    with torch.no_grad(), in_place(tiny.unet, student):
        l1 = by_hand(draw.z, draw.t, draw.c_e, draw.goal)
        l2 = by_hand(draw.z_r, draw.t_r, draw.choice.embeddings, draw.original)
    assert (len(l1), len(l2)) == (3, 4) and min(l2) > 0
    assert row["l1"] == pytest.approx(np.mean(l1), rel=1e-4)
    assert row["l2"] == pytest.approx(np.mean(l2), rel=1e-4)
    assert seen == [pytest.approx(row["l1"] + 2.5 * row["l2"], rel=1e-5)]


def test_a_latent_comes_with_its_timestep_and_its_goal(tiny):
    run = Run(tiny, smoke(method="esd", eta=0.7))
    which, z, t, goal = run.at_target(0, 5)
    bank = run.latents.banks["target 0"]
    for i in range(5):
        step = (bank.timesteps == t[i]).nonzero().item()
        row = (bank.of == which[i]).nonzero().item()
        assert torch.equal(bank.z[step, row], z[i]) and torch.equal(bank.goal[step, row], goal[i])
    # what the trajectory predicted for its prompt is what the teacher predicts there
    expected = run.goal(z, t, run.become[0][which], run.targets[0][which])
    torch.testing.assert_close(goal, expected, rtol=1e-3, atol=1e-4)


def test_what_is_preserved_is_drawn_on_its_own_trajectory(tiny):
    config = smoke(search="random", preserve_batch=6, nearest=6, candidates=6)
    run = Run(tiny, config)
    (search,), draw = run.searches, run.draws()[0]
    bank = run.latents.banks["preserved 0"]
    for i, candidate in enumerate(draw.choice.chosen.tolist()):
        row = (bank.of == candidate).nonzero().item()
        step = (bank.timesteps == draw.t_r[i]).nonzero().item()
        assert torch.equal(bank.z[step, row], draw.z_r[i])
    # each under a template of its own, from pure noise
    word, prompts = search.words[2], forms_of(search.words[2], config.styles)
    expected = encode_prompts(tiny, [prompts[2 % len(prompts)]])
    torch.testing.assert_close(search.prompts(torch.tensor([2])), expected)
    assert word in prompts[2]
    with torch.no_grad():
        by_hand = diffusion.predict_clean(tiny, draw.z_r, draw.t_r, draw.choice.embeddings)
    torch.testing.assert_close(draw.original, by_hand, rtol=1e-3, atol=1e-4)


def test_draws_ahead_are_those_that_one_at_a_time_would_take(tiny, monkeypatch):
    given = {"search": "random", "steps": 5, "targets": ["church", "dog"], "batch": 1}
    ahead = erase(tiny, smoke(**given), []).history
    monkeypatch.setattr(train, "TOGETHER", 1)
    alone = erase(tiny, smoke(**given), []).history
    for a, b in zip(ahead, alone, strict=True):
        assert all(a[k] == b[k] for k in ("step", "target", "chosen", "evaluations"))
        assert a["l1"] == pytest.approx(b["l1"], rel=1e-2)


def test_prompts_are_encoded_when_they_are_asked_for(tiny, monkeypatch):
    words, styles, asked = ["dog", "castle", "bus"], ("noto", "fluent"), []
    every = torch.stack([embed(tiny, word, styles) for word in words], 1)
    encode = text.encode_prompts
    watched = lambda pipe, some: asked.extend(some) or encode(pipe, some)  # noqa: E731
    monkeypatch.setattr(text, "encode_prompts", watched)
    prompts = text.Prompts(tiny, words, styles)
    assert prompts.shape == every.shape[:2] and len(prompts) == 5 and not asked
    for at in ((torch.tensor([4, 0, 4]), torch.tensor([1, 2, 1])), 0, slice(None)):
        torch.testing.assert_close(prompts[at], every[at])
    assert len(asked) == len(set(asked)) == 15  # each once


@pytest.mark.parametrize("schedule", ["replay", "published"])
def test_teacher_untouched_and_same_seed_same_erasure(tiny, schedule):
    before = copied(tiny)
    config = smoke(schedule=schedule, targets=["church", "dog"])
    first, second = (erase(tiny, config, []) for _ in range(2))
    assert equal(tiny.unet.state_dict(), before) and equal(first.tensors, second.tensors)
    assert not equal(first.tensors, before)
    assert len(first.history) == 2 and first.history[-1]["evaluations"] > 0


def test_gradient_checkpointing_gives_the_same_erasure(tiny):
    plain, lean = (erase(tiny, smoke(gradient_checkpointing=on), []) for on in (False, True))
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(tensor, lean.tensors[name], rtol=1e-4, atol=1e-6)
    assert not tiny.unet.training


@pytest.mark.parametrize(
    ("method", "inside", "outside"),
    [("xattn", "attn2", "attn1"), ("selfattn", "attn1", "attn2"), ("noxattn", "conv", "attn2")],
)
def test_train_methods_choose_their_tensors(tiny, method, inside, outside):
    names = trained_names(tiny.unet, method)
    assert any(inside in n for n in names) and not any(outside in n for n in names)
    assert len(trained_names(tiny.unet, "full")) == len(list(tiny.unet.parameters()))


def test_with_replay_pi_climbs_the_loss_that_the_student_descends(tiny):
    config = smoke(lam=3.0, nearest=6, candidates=4, steps=3, preserve_batch=8)
    run = Run(tiny, config)
    run.update()
    search, seen = run.searches[0], {}
    before = search.pi.detach().clone()
    choose, original, ascend = search.choose, run.original, search.ascend

    def chosen(n, g, *rest):
        seen["asked"] = n, torch.Generator().set_state(g.get_state()), *rest
        return choose(n, g, *rest)

    search.choose = chosen
    run.original = lambda *given: seen.update(at=given[1:3]) or original(*given)
    search.ascend = lambda gradient: seen.update(gradient=gradient.clone()) or ascend(gradient)
    student = {name: p.detach().clone() for name, p in run.student.items()}
    run.update()
    assert not torch.equal(search.pi, before)
    # the gradient that moved π, by the definition of L2 on the same draws
    with torch.no_grad():
        search.pi.copy_(before)
    c_a, (z, t) = choose(*seen["asked"]).embeddings, seen["at"]
    still = run.teacher(z, t, c_a.detach())
    with in_place(tiny.unet, student):
        l2 = (diffusion.predict_clean(tiny, z, t, c_a) - still).pow(2).mean()
    (expected,) = torch.autograd.grad(config.lam * l2, search.pi)
    torch.testing.assert_close(seen["gradient"], expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("schedule", ["replay", "published"])
def test_preserving_at_the_targets_latents_draws_no_other(tiny, schedule):
    run = Run(tiny, smoke(preserve_at="target", search="random", schedule=schedule))
    drawn, draw = [], run.latents.draw
    run.latents.draw = lambda *given: drawn.append(given[-1]) or draw(*given)
    run.update()
    assert set(run.latents.banks) == ({"target 0"} if schedule == "replay" else set())
    assert all((e == run.targets[0]).all((1, 2)).any() for es in drawn for e in es)


@pytest.mark.parametrize("schedule", ["replay", "published"])
@pytest.mark.parametrize(
    "given",
    [
        {"method": "esd"},
        {"method": "esd_neutral"},
        {"method": "ca", "anchors": ["house"]},
        {"method": "eap", "search": "gumbel_full"},
        {"method": "eap", "search": "exhaustive"},
        {"method": "eap", "search": "auto", "preserve_at": "target"},  # the defaults
        {"method": "age"},
    ],
)
def test_counted_evaluations_are_those_that_the_unet_sees(tiny, given, schedule):
    seen = []

    def count(module, inputs, output):
        n = len(inputs[0])
        seen.append(n)
        if output.sample.requires_grad:  # one more for each half of the backward pass
            output.sample.register_hook(lambda _: seen.append(2 * n))

    tiny.unet.register_forward_hook(count)
    erasure = erase(tiny, smoke(schedule=schedule, **given), [])
    # the yardstick's own teacher is no method's need
    unseen = 3 * 8 * 4 if given.get("search") == "exhaustive" else 0
    assert erasure.history[-1]["evaluations"] == sum(seen) - unseen


def test_ca_turns_the_target_into_its_anchor(tiny):
    config = smoke(method="ca", targets=["church", "dog"], anchors=["house", "cat"], styles=())
    run = Run(tiny, config)
    assert [search.words for search in run.searches] == [["house"], ["cat"]]
    run.at_target(1, 1)
    bank = run.latents.banks["target 1"]
    z, t, goal = bank.draw(torch.zeros(3, dtype=torch.int64), run.g)
    c_a, empty = encode_prompts(tiny, ["cat"]), encode_prompts(tiny, [""])
    with torch.no_grad():
        expected = diffusion.predict_clean(tiny, z, t, c_a.expand(3, -1, -1))
    torch.testing.assert_close(goal, expected)
    # and the latents are those of the anchor's trajectory
    sampling = config.sampling_steps, config.guidance_scale
    *_, (_, end) = diffusion.trajectory(tiny, bank.z[0], c_a, empty, *sampling)
    torch.testing.assert_close(bank.clean, end)


def test_age_erases_towards_the_mixture_that_it_preserves(tiny):
    run = Run(tiny, smoke(method="age", batch=3, eta=0.5, nearest=9, candidates=9))
    seen, search, goal, original = {}, run.searches[0], run.goal, run.original
    choose = search.choose
    search.choose = lambda *given: seen.update(template=given[2]) or choose(*given)
    run.goal = lambda *given: seen.update(become=given[2]) or goal(*given)
    run.original = lambda *given: seen.update(kept=given[0].embeddings) or original(*given)
    run.update()
    mixture = seen["kept"]
    assert torch.equal(seen["become"], mixture) and not seen["become"].requires_grad
    assert len(mixture) == 3
    # of the five largest weights, under the target's own training prompt
    words = search.embeddings[seen["template"][0]].flatten(1)
    weight = torch.linalg.lstsq(words.T, mixture[0].flatten()[:, None]).solution[:, 0]
    assert weight.sum().item() == pytest.approx(1, abs=1e-3)
    assert (weight > 1e-3).sum() == 5 and weight.max() < 0.99


def test_the_learning_rate_falls_along_half_a_cosine(tiny, monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def watched(optimiser):
        rates.append(optimiser.param_groups[0]["lr"])
        return step(optimiser)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    for anneal in (True, False):
        erase(tiny, smoke(method="esd", steps=4, lr=0.1, anneal=anneal), [])
    cosine = [0.1, 0.1 * (1 + 0.5**0.5) / 2, 0.05, 0.1 * (1 - 0.5**0.5) / 2]
    assert rates == pytest.approx(cosine + [0.1] * 4)


def test_a_search_of_ones_own(tiny):
    class Last(Search):
        def pick(self, k, g):
            return torch.full((k,), len(self.words) - 1)

    made = []

    def new(config, words, embeddings, pipe):
        made.append(Last(words, embeddings))
        return made[-1]

    (row, *_) = erase(tiny, smoke(), [], search=new).history
    (search,) = made
    assert search.embeddings.shape[:2] == (7, 3)
    assert set(row["chosen"].split("|")) == {search.words[-1]}


def test_picture_does_not_depend_on_its_batch(tiny):
    alone = [generate(tiny, [p], seed=i, steps=3, progress=False)[0] for i, p in enumerate(PROMPTS)]
    together = generate(tiny, PROMPTS, seed=0, steps=3, progress=False)
    for a, b in zip(alone, together, strict=True):
        assert np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() <= 2


def test_save_load_apply_and_export_give_the_same_pictures(tiny, tmp_path):
    def draw(pipe):
        return generate(pipe, PROMPTS, steps=3, progress=False)

    before = draw(tiny)
    erasure = erase(tiny, smoke(), [])
    with erasure.applied(tiny):
        erased = draw(tiny)
    assert same(before, draw(tiny)) and not same(before, erased)
    loaded = Erasure.load(erasure.save(tmp_path / "run"))
    assert loaded.config == erasure.config
    assert loaded.history == [{k: v for k, v in r.items() if k != "pi"} for r in erasure.history]
    with loaded.applied(tiny):
        assert same(erased, draw(tiny))
    exported = load_pipeline(erasure.export(tiny, tmp_path / "whole"), device="cpu")
    assert same(erased, draw(exported))
    StableDiffusionPipeline.from_pretrained(tmp_path / "whole")


@pytest.mark.parametrize("train_method", ["kv", "full"])
def test_half_precision_teacher_with_a_float32_student(tiny, tiny_folder, train_method):
    half = load_pipeline(tiny_folder, device="cpu", dtype=torch.bfloat16)
    lean = train_method == "full"
    config = smoke(train_method=train_method, lr=1e-3, gradient_checkpointing=lean)
    before = copied(half)
    erasure, reference = (erase(pipe, config, []) for pipe in (half, tiny))
    assert all(t.dtype == torch.float32 and t.isfinite().all() for t in erasure.tensors.values())
    assert equal(half.unet.state_dict(), before)
    for ours, theirs in zip(erasure.history, reference.history, strict=True):
        assert ours["l1"] == pytest.approx(theirs["l1"], rel=0.2)
    # what was trained in half precision goes onto the model in any
    for pipe in (half, tiny):
        with erasure.applied(pipe):
            assert len(generate(pipe, PROMPTS, steps=2, progress=False)) == 2


def test_fingerprint_tells_weights_apart_and_not_precisions(tiny, tiny_folder):
    base, earlier = (fingerprint(tiny.unet, earlier=earlier) for earlier in (False, True))
    edit = erase(tiny, smoke(method="uce"), [])
    for dtype in (torch.bfloat16, torch.float16):
        half = load_pipeline(tiny_folder, device="cpu", dtype=dtype)
        assert fingerprint(half.unet) == base
        edit.check(half)
    # an erasure that was saved before 0.2.0
    replace(edit, base=earlier).check(tiny)
    weight = tiny.unet.conv_in.weight
    with torch.no_grad():  # less than a short fine-tuning moves
        weight += (
            0.02
            * weight.std()
            * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        )
    assert fingerprint(tiny.unet) != base and fingerprint(tiny.unet, earlier=True) != earlier


def gradient_is_nan(run, loss):
    """The same loss with a gradient of 0 · ∞."""
    parameter = next(iter(run.student.values()))
    return loss + 0 * (0 * parameter).sum().sqrt()


@pytest.mark.parametrize("breaks", [lambda _, loss: loss * float("nan"), gradient_is_nan])
def test_nan_stops_before_it_reaches_a_tensor(tiny, monkeypatch, refused, breaks):
    whole = erase(tiny, smoke(steps=1), [])
    descend = Run.descend

    def broken(run, loss, row):
        descend(run, breaks(run, loss) if row["step"] == 1 else loss, row)

    monkeypatch.setattr(Run, "descend", broken)
    with pytest.warns(UserWarning, match="NaN .* 1"):
        erasure = erase(tiny, smoke(steps=3), [])
    assert erasure.history == whole.history and equal(erasure.tensors, whole.tensors)
    monkeypatch.setattr(Run, "descend", lambda run, loss, row: descend(run, breaks(run, loss), row))
    assert "update 0" in refused(erase, tiny, smoke(), [])  # nothing to keep


def test_nan_in_the_search_leaves_pi_and_stops(tiny, monkeypatch):
    ascend, searches = GumbelSearch.ascend, []

    def broken(search, loss):
        searches.append(search)
        ascend(search, loss * float("inf"))

    monkeypatch.setattr(GumbelSearch, "ascend", broken)
    with pytest.warns(UserWarning, match="NaN .* 0"):
        erasure = erase(tiny, smoke(), [])
    assert len(erasure.history) == len(searches) == 1
    assert torch.equal(searches[0].pi, torch.full((3,), 1 / 3))
    assert all(t.isfinite().all() for t in erasure.tensors.values())


@pytest.fixture
def ctrl_c():
    """Python's own handler, also where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_inside_an_optimiser_step_waits_for_its_end(tiny, monkeypatch, ctrl_c):
    constant = {"method": "esd", "anneal": False}
    whole = erase(tiny, smoke(steps=2, **constant), [])
    step, calls = torch.optim.Adam.step, []

    def interrupted(self):
        calls.append(self)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    with pytest.raises(Interrupted, match="2 of 4 updates .* sys.last_value.erasure") as stopped:
        erase(tiny, smoke(steps=4, **constant), [])
    erasure = stopped.value.erasure
    assert erasure.history == whole.history and equal(erasure.tensors, whole.tensors)
    with pytest.raises(KeyboardInterrupt):  # and Ctrl-C is what it was
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("done", [0, 1])
def test_what_an_interrupt_leaves_is_kept_saved_and_loaded(tiny, tmp_path, done):
    def stop(run):
        if len(run.history) == done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=f"{done} of 2") as stopped:
        erase(tiny, smoke(), [stop])
    stopped.value.erasure.save(tmp_path)
    loaded = Erasure.load(tmp_path)
    assert len(loaded.history) == done and loaded.partial
    assert not Erasure.load(erase(tiny, smoke(), []).save(tmp_path)).partial


def test_loading_shows_no_bars_and_leaves_the_libraries_as_they_were(tiny_folder, tmp_path, capfd):
    pipe = load_pipeline(tiny_folder, device="cpu")
    erase(pipe, smoke(method="esd"), []).export(pipe, tmp_path / "whole")
    assert capfd.readouterr() == ("", "")
    for library in (diffusers_logging, transformers_logging):
        assert library.is_progress_bar_enabled()
        library.disable_progress_bar()
        try:
            load_pipeline(tiny_folder, device="cpu")
            assert not library.is_progress_bar_enabled()
        finally:
            library.enable_progress_bar()


def test_a_random_search_leaves_every_candidate_as_likely(tiny):
    given = {"steps": 12, "sampling_steps": 2, "nearest": 8, "candidates": 4, "search_lr": 0.5}
    random, gumbel = (
        erase(tiny, EraseConfig(targets=["church"], search=search, **given), []).history
        for search in ("random", "gumbel")
    )
    assert all("pi" not in row for row in random)
    assert gumbel[-1]["pi"] != gumbel[0]["pi"]
    chosen = {word for row in random for word in row["chosen"].split("|")}
    assert len(chosen) == 4 and random[-1]["evaluations"] == gumbel[-1]["evaluations"]


def test_replay_and_published_agree_in_the_expectation_of_the_loss(tiny):
    means = {}
    for schedule in ("replay", "published"):
        rows = []
        for seed in range(3):  # a run's bank is one draw of its trajectories' noise
            settings = {"schedule": schedule, "seed": seed, "batch": 16, "preserve_batch": 16}
            config = smoke(search="random", lr=1e-30, anneal=False, steps=4, **settings)
            run = Run(tiny, config)
            g, begin = torch.Generator().manual_seed(5), run.latents.begin
            with torch.no_grad():  # one fixed student, whatever the seed, that is not the teacher
                for p in run.student.values():
                    p += 0.05 * p.std() * torch.randn(p.shape, generator=g)
            for at in range(4):  # the middle of each of its four bins, instead of some of their t
                start = begin(16)._replace(bin=at, t=torch.tensor([250 * at + 125]))
                run.latents.begin = lambda n, start=start: start
                rows.append(run.update())
        means[schedule] = [np.mean([row[name] for row in rows]) for name in ("l1", "l2")]
    # not the same numbers, but a loss of half or twice the size would not pass
    assert means["replay"] == pytest.approx(means["published"], rel=0.4)
