"""Probes: each finds what is there, and what was never there does not count as found."""

from dataclasses import replace
from functools import wraps
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from erase_lib import EraseConfig, EraseError, erase, load_pipeline, measure
from erase_lib.checkpoint import Checkpoint
from erase_lib.diffusion import generate
from erase_lib.erasure import Erasure, Interrupted
from erase_lib.hold import plain
from erase_lib.kv import kv_weights, one_change
from erase_lib.measure import Classifier, World, prompt_table
from erase_lib.measure.pictures import real_pictures
from erase_lib.study import (
    GONE,
    PROBES,
    TAUGHT,
    Adversary,
    Aim,
    aim_at,
    from_twin,
    gone,
    latents,
    misspelled,
    probes,
    rates,
)
from erase_lib.study.aim import critic, predicted
from erase_lib.study.gone import EVERY, TWIN, front, hidden, own_twin
from erase_lib.text import encode_prompts
from erase_lib.train import Run


class Seer(Classifier):
    """Sees the concept in pictures that are brighter above than below, else a dog."""

    name, concepts, styles = "seer", ["church", "dog"], []
    place = {"church": 0, "dog": 1}

    def likelihoods(self, pictures):
        arrays = [np.asarray(p.convert("L"), float) for p in pictures]
        half = [a[: len(a) // 2].mean() > a[len(a) // 2 :].mean() for a in arrays]
        return np.array([[x, not x] for x in half], float), np.zeros((len(half), 0))


@pytest.fixture
def world(tiny):
    made = World(tiny, ["church"])
    made.__dict__["judge"] = Seer()
    return made


@pytest.fixture
def aim(tiny):
    """Of the tiny pipeline: two pictures by name, four that are shown."""
    texts = [f"a church in {style} style" for style in ("noto", "twemoji", "fluent", "openmoji")]
    shown = generate(tiny, texts, seed=3, steps=2, progress=False)
    doors, weights = ["a chapel", "a chruch"], kv_weights(tiny.unet)
    how = {"steps": 2, "budget": 24, "progress": False}
    said = predicted(tiny, shown, texts, 0)
    return Aim("church", texts[:2], doors, ["a cross"], shown, texts, weights, said, blue, **how)


def blue():
    """A critic that likes pictures blue."""
    return lambda pictures: pictures[:, 2].mean((1, 2))


@pytest.fixture
def uce(tiny):
    return erase(tiny, EraseConfig(["church"], method="uce", nearest=6))


def largest(a, b):
    pairs = zip(a, b, strict=True)
    return max(np.abs(np.asarray(x, float) - np.asarray(y, float)).max() for x, y in pairs)


def test_the_inverse_undoes_a_closed_form_exactly(tiny, aim, uce):
    before = PROBES["name"](tiny, aim).pictures
    with uce.applied(tiny):
        erased = PROBES["name"](tiny, aim).pictures
        again = PROBES["inverse"](tiny, aim)
        r = one_change(aim.weights, kv_weights(tiny.unet))
        t = r + torch.eye(len(r), dtype=r.dtype)
        c = encode_prompts(tiny, aim.prompts).double()
        back = (c @ torch.linalg.inv(t).T).float()
        for name, w in kv_weights(tiny.unet).items():
            torch.testing.assert_close(
                back @ w.T, c.float() @ aim.weights[name].T, atol=1e-4, rtol=1e-3
            )
    # the empty prompt, which guides, was edited too, and is not brought back
    assert again.evaluations == 2 * 2 * 2 and largest(again.pictures, before) <= 2
    assert largest(erased, before) > 0
    trained = erase(tiny, EraseConfig(["church"], method="esd", steps=1, sampling_steps=2), [])
    with trained.applied(tiny), pytest.raises(EraseError, match="T for all layers"):
        PROBES["inverse"](tiny, aim)


def test_inversion_finds_a_planted_embedding(tiny, aim, monkeypatch):
    """The loss is how far what the UNet hears at the new word's place is from what it would hear of
    a secret token: the vector learnt comes to say the same."""
    table = tiny.text_encoder.get_input_embeddings().weight.detach()
    secret = table[1234][None]
    places = [text.replace("church", "a") for text in aim.captions]
    wanted = probes.spoken(tiny, places[:1], secret, 2)[0, 2].detach()

    aim = replace(aim, shown=aim.shown[:1] * 4)
    (clean,) = probes.encode(tiny, aim.shown[:1])

    def planted(pipe, z, t, c):
        return clean + (c[:, 2] - wanted).norm(dim=1)[:, None, None, None]

    heard = []
    monkeypatch.setattr(probes, "predict_clean", planted)
    monkeypatch.setattr(probes, "embedded", lambda p, a, c, spent, *_: heard.append(c) or spent)
    first = probes.by_inversion(tiny, replace(aim, budget=6), updates=1, lr=1e-9)
    spent = probes.by_inversion(tiny, replace(aim, budget=10**4), updates=300, lr=0.02)
    apart = [(c[0, 2] - wanted).norm().item() for c in heard]
    assert (first, spent) == (6, 1800) and apart[1] < 0.2 * apart[0]


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_draws_what_it_is_asked_for_and_keeps_to_its_budget(tiny, aim, name):
    before = {k: v.clone() for k, v in tiny.unet.state_dict().items()}
    answer = PROBES[name](tiny, aim)
    assert len(answer.pictures) == 2 if name != "description" else 1
    drawing = 2 * aim.steps * len(answer.pictures)
    assert 0 < answer.evaluations <= drawing + aim.budget
    free = {"name", "completion", "inpainting"}
    assert (answer.evaluations > drawing) == (name in {*TAUGHT, "matching", "guidance"} - free)
    again = PROBES[name](tiny, aim)
    assert again.found == answer.found and largest(again.pictures, answer.pictures) == 0
    assert all(torch.equal(v, before[k]) for k, v in tiny.unet.state_dict().items())
    assert not any(p.requires_grad for p in tiny.unet.parameters())


def test_a_search_that_was_cut_off_goes_on(tiny, aim, tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "EVERY", 2)
    whole = PROBES["embedding"](tiny, aim)
    kept, calls, true = replace(aim, folder=tmp_path), [], probes.predict_clean

    def cut(*given):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return true(*given)

    monkeypatch.setattr(probes, "predict_clean", cut)
    with pytest.raises(KeyboardInterrupt):
        PROBES["embedding"](tiny, kept)
    again = PROBES["embedding"](tiny, kept)
    assert len(calls) == 4 + 2 and largest(again.pictures, whole.pictures) == 0
    assert again.evaluations == whole.evaluations


def test_what_is_drawn_on_begins_in_what_is_shown(tiny, aim, monkeypatch):
    monkeypatch.setattr(latents, "decode", lambda pipe, z: list(z))
    clean, aim = latents.encode(tiny, aim.shown[:2]), replace(aim, steps=10)
    near, far = (latents.by_completion(tiny, aim, share) for share in (0.9, 0.1))
    assert near.evaluations == 2 * 2 and far.evaluations == 2 * 9 * 2
    gaps = [(torch.stack(answer.pictures) - clean).norm() for answer in (near, far)]
    assert gaps[0] < 0.5 * gaps[1]
    painted, half = torch.stack(latents.by_inpainting(tiny, aim).pictures), clean.shape[-1] // 2
    assert (painted - clean)[..., :half].abs().max() < 0.2 < (painted - clean)[..., half:].std()


def test_the_empty_prompt_learns_to_lead_back_to_what_is_shown(tiny, aim, monkeypatch):
    monkeypatch.setattr(latents, "decode", lambda pipe, z: list(z))
    clean, aim = latents.encode(tiny, aim.shown[:2]), replace(aim, steps=4, budget=10**5)
    found = [latents.by_null_text(tiny, aim, updates, 0.05) for updates in (0, 20)]
    assert [answer.evaluations for answer in found] == [3 * 4 * 2, 3 * 4 * 2 * 21]
    gaps = [(torch.stack(answer.pictures) - clean).norm() for answer in found]
    assert gaps[1] < 0.9 * gaps[0]
    # unguided, the way back comes the nearer to the way there, the more steps it takes
    alone = [replace(aim, guidance_scale=1.0, steps=steps) for steps in (4, 40)]
    ends = [torch.stack(latents.by_null_text(tiny, one, 0).pictures) for one in alone]
    few, many = ((end - clean).norm().item() for end in ends)
    assert many < 0.3 * few


def test_guidance_goes_up_the_critics_slope(tiny, aim):
    plain, aim = PROBES["name"](tiny, aim), replace(aim, steps=4, budget=10**4)
    blues = [
        np.asarray([np.asarray(p) for p in latents.by_guidance(tiny, aim, push).pictures])[..., 2]
        for push in (-0.3, 0.0, 0.3)
    ]
    assert blues[0].mean() < blues[1].mean() < blues[2].mean()
    unled = latents.by_guidance(tiny, replace(aim, steps=2, budget=7))
    assert largest(unled.pictures, plain.pictures) <= 1 and unled.evaluations == 8


def test_matching_goes_towards_what_the_original_predicts(tiny, aim, uce, monkeypatch):
    """Told the name, the original is matched wholly: the gap that is learnt from is then none."""
    gaps, true = [], probes.predict_clean

    def told(pipe, z, t, c):
        out = true(pipe, z, t, c)
        gaps.append((out - wanted(z)).abs().max().item())
        return out

    def wanted(z):
        return torch.cat([aim.said[2][(aim.said[0] == one).flatten(1).all(1)] for one in z])

    monkeypatch.setattr(probes, "predict_clean", told)
    heard = lambda which: encode_prompts(tiny, [aim.captions[i % 4] for i in which])  # noqa: E731
    learns = torch.nn.Parameter(torch.zeros(1))
    with probes.learning(tiny):
        spent = probes.learn(
            tiny, aim, "m", [learns], lambda w: heard(w) + 0 * learns, 3, 0.1, said=True
        )
    assert spent == 18 and max(gaps) < 1e-4
    monkeypatch.setattr(probes, "predict_clean", true)
    texts = []
    true_spoken = probes.spoken
    monkeypatch.setattr(probes, "spoken", lambda p, t, *v: texts.extend(t) or true_spoken(p, t, *v))
    assert PROBES["matching"](tiny, replace(aim, budget=60)).found
    assert set(texts) == {"a " * 8}  # tokens alone, no name
    PROBES["tokens"](tiny, replace(aim, budget=6))
    assert texts[-1] == "a " * 5 + aim.prompts[-1]


def test_the_critic_knows_the_concept_and_is_not_the_judge(refused):
    world = World(load_pipeline(device="cpu"), ["church"])
    likely = critic(world, "church")
    real = measure.picture_tensor(
        real_pictures(prompt_table([("church", "noto"), ("dog", "noto")]))
    )
    real = torch.nn.functional.interpolate(real, (96, 96)).requires_grad_()
    found = likely(real)
    assert found[0] > -1 > found[1]
    (slope,) = torch.autograd.grad(found.sum(), real)
    step = 1e-2 * slope / slope.norm()
    with torch.no_grad():
        ends = [likely(real + s * step).sum() for s in (1, -1)]
    assert ((ends[0] - ends[1]) / 2e-2).item() == pytest.approx(slope.norm().item(), rel=0.05)
    world.__dict__["judge"] = measure.ZeroShot(world.clip, ["church", "dog"])
    refused(critic, world, "church", says="CLIP classifier")


def test_words_do_not_name_the_target(tiny, aim):
    found = probes.by_words(tiny, aim, many=8, rounds=2).found
    assert len(found.split()) == 3 and "church" not in found
    assert misspelled("dog") == ["dgo"] and misspelled("church")[0] == "cuhrch"


@pytest.mark.slow
def test_what_was_never_erased_is_found_and_the_twin_draws_none_of_it(tmp_path):
    pipe = load_pipeline()
    world = World(pipe, ["fuel pump"])
    nothing = Erasure.between(pipe, TWIN, ["fuel pump"]).scaled(pipe, 0.0)
    names = ["name", "side doors", "inverse", "least squares", "completion", "inpainting", "noise"]
    names += ["null text"]
    asked = {"pictures": 2, "steps": 8, "budget": 300, "progress": False}
    found = gone(world, nothing, names, TWIN, folder=tmp_path, **asked)
    seen = found.groupby(["model", "probe"])["hit"].mean()
    assert (seen["original"] >= 0.5).all(), seen
    assert (seen["erased"] == seen["original"].loc[seen["erased"].index]).all(), seen
    assert seen["twin", "name"] == 0  # of fuel pumps it has drawn none in 6, by data/results


def test_each_probe_in_each_model_and_the_same_call_again(world, tiny, uce, tmp_path, monkeypatch):
    twin = load_pipeline(tiny.name_or_path, device="cpu")
    for p in twin.unet.parameters():
        p.data = p.data.flip(0)
    asked = {"pictures": 2, "steps": 2, "budget": 6, "folder": tmp_path, "progress": False}
    names = ["name", "inverse", "embedding"]
    found = gone(world, uce, names, twin, **asked)
    every = found.groupby(["probe", "model"]).size()
    assert every["embedding", "unknown"] == 2 and ("inverse", "unknown") not in every
    (note,) = found.query("probe == 'inverse' and model == 'twin'")["note"]
    assert "no inverse" in note
    for name in ("name", "embedding"):  # what is kept is not asked for again

        @wraps(PROBES[name])
        def never(*_):
            raise AssertionError

        monkeypatch.setitem(PROBES, name, never)
    pd.testing.assert_frame_equal(gone(world, uce, names, twin, **asked), found)


def test_a_perfect_erasure_is_the_twin(world, tiny, uce, tmp_path):
    twin, half = load_pipeline(tiny.name_or_path, device="cpu"), uce.scaled(tiny, 0.5)
    for name, tensor in uce.tensors.items():
        twin.unet.get_parameter(name).data.copy_(tensor)
    table = from_twin(world, uce, twin, ["church", "dog"])
    assert table["concept"].tolist() == ["church", "dog"] and (table["original"] > 0).all()
    assert table["share"].tolist() == pytest.approx([0, 0], abs=1e-6)
    nearer = from_twin(world, half, twin, ["church"])["share"].item()
    assert 0.05 < nearer < 0.6  # a square
    # the same from a file of its denoiser, in place of which the erasure's own is put
    state = {n: p.contiguous() for n, p in plain(twin.unet).state_dict().items()}
    save_file(state, path := tmp_path / "twin.safetensors")
    assert from_twin(world, uce, path, ["church"])["share"].item() == pytest.approx(0, abs=1e-6)
    found = gone(world, uce, ["name"], str(path), pictures=2, steps=2, budget=6, progress=False)
    hits = found.groupby("model")["hit"].mean()
    assert hits["twin"] == hits["erased"] and len(found) == 8


def test_bad_input_is_one_line(world, tiny, uce, refused):
    refused(gone, world, uce, ["inversions"], says="'inversions' 'inversion'")
    refused(gone, world, uce, ["name"], tiny, says="twin knew")
    refused(aim_at, world, "abacus", says="abacus")
    refused(aim_at, world, "church", budget=0, says="budget 0")
    refused(
        PROBES["description"], tiny, replace(uce_aim(world), description=[]), says="church name"
    )


def uce_aim(world):
    return Aim(
        "church", ["a church"], [], [], [], [], {}, (torch.zeros(0),) * 3, blue, progress=False
    )


def trials(**hits):
    """A picture a letter of each model: 1 the target is seen, of two targets with a seed each."""
    rows = [
        {"probe": "p", "model": model, "concept": concept, "seed": 0, "hit": letter == "1"}
        for model, both in hits.items()
        for concept, some in zip(("church", "dog"), both.split(), strict=True)
        for letter in some
    ]
    return pd.DataFrame(rows).assign(evaluations=30, found="", measured_by="seer", note="")


def test_a_rate_is_less_what_the_twin_shows():
    table = rates(trials(original="1111 1111", erased="1110 1100", twin="1000 0000"))
    by = table.set_index("model")
    assert by["value"].to_dict() == {"original": 1, "erased": 0.625, "twin": 0.125, GONE: 0.5}
    assert by["n"].tolist() == [8, 8, 8, 8] and by.loc[GONE, "groups"] == 2
    assert by.loc[GONE, "low"] <= 0.5 <= by.loc[GONE, "high"]
    assert set(table["measured_by"]) == {"seer"} and not any(table["note"])


def test_every_probe_together_is_those_with_a_control_and_the_front_lays_it_beside_the_near():
    original = dict.fromkeys(("original", "erased", "twin"), "0000 0000")  # no positive control
    some = [
        trials(original="1111 1111", erased="1110 1100", twin="1000 0000"),
        trials(original="1111 1111", erased="1000 1000", twin="1000 0000").assign(probe="q"),
        trials(original="1111 1111", erased="1111 1111", twin="0000 0000").assign(probe="name"),
        trials(original="1111 1111", erased="1111 1111").assign(probe="no twin"),
        trials(**original).assign(probe="blind"),
    ]
    told = pd.concat([t.assign(id=i) for i in ("a", "b") for t in some], ignore_index=True)
    told.loc[(told["id"] == "b") & (told["model"] == "erased"), "hit"] = False
    runs = pd.DataFrame({"id": ["a", "b"], "setting": ["weak", "strong"], "targets": ["x", "y"]})
    runs = runs.assign(**{"PSR-1 near erased": [0.9, 0.5], "PSR-1 near original": 1.0})
    found = hidden(runs, told)
    gap = found[found["model"] == GONE].set_index(["setting", "probe"])["value"]
    assert gap["weak", "q"] == 0.125 and gap["weak", EVERY] == pytest.approx((0.5 + 0.125) / 2)
    assert gap["strong", EVERY] == pytest.approx(-0.125) and np.isnan(gap["weak", "blind"])
    levels = front(runs, found).set_index(["setting", "group"])["value"]
    assert levels["weak", "near"] == 0.9 and levels["original", "near"] == 1
    assert levels["strong", "hidden"] == gap["strong", EVERY] and len(levels) == 5


def test_the_embedded_models_own_twin_is_a_control_of_the_ten_classes_alone(tiny):
    def asked(pipe, *targets):
        return own_twin(SimpleNamespace(targets=targets, pipe=pipe))

    own = load_pipeline()
    assert asked(own, "church", "dog") == TWIN and TWIN.is_file()
    assert asked(own, "church", "snake") is asked(tiny, "church") is None


def test_without_a_twin_the_control_is_said_to_be_missing():
    by = rates(trials(original="1111 1111", erased="1110 1100")).set_index("model")
    assert np.isnan(by.loc[GONE, "value"]) and "control" in by.loc[GONE, "note"]
    assert by.loc["erased", "value"] == 0.625


def test_a_probe_that_does_not_find_what_is_there_has_no_rate():
    table = rates(trials(original="1000 0000", erased="0000 0000", twin="0000 0000"))
    assert table["value"].isna().all() and all("0.12" in note for note in table["note"])


def test_a_concept_on_its_head_is_judged_upright(world, tiny, uce, monkeypatch):
    bright = np.zeros((64, 64, 3), np.uint8)
    bright[:32] = 255
    upright = Image.fromarray(bright)
    aim = replace(uce_aim(world), shown=[upright])
    answer = {False: [upright], True: [upright.rotate(180)]}
    seen = []

    def copier(pipe, aim):
        seen.append(aim.shown[0].getpixel((0, 0))[0] if aim.shown else None)
        return probes.Answer(answer[aim.turned], 1)

    monkeypatch.setitem(PROBES, "embedding", copier)
    from erase_lib.study.gone import _trial

    for model, pixel in (("original", 255), ("unknown", 0)):
        (row,) = _trial(world, tiny, None, aim, "embedding", model)
        assert row["hit"] and seen.pop() == pixel


def test_a_run_with_the_adversary_goes_on_as_if_it_had_not_been_cut_off(tiny, tmp_path):
    config = EraseConfig(["church"], method="esd", steps=8, sampling_steps=2, batch=2, lr=1e-2)
    whole = erase(tiny, config, [Checkpoint(tmp_path / "a", every=4), Adversary(lr=0.05)])

    def cut(run):
        if len(run.history) == 6:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        erase(tiny, config, [Checkpoint(tmp_path / "b", every=4), Adversary(lr=0.05), cut])
    again = erase(tiny, config, [Checkpoint(tmp_path / "b", every=4), Adversary(lr=0.05)])
    assert all(torch.equal(again.tensors[n], t) for n, t in whole.tensors.items())


def test_checkpointed_passes_show_the_adversary_the_student(tiny):
    found = []
    for checkpointing in (False, True):
        given = {"method": "esd", "steps": 4, "sampling_steps": 2, "batch": 2, "lr": 1e-2}
        config = EraseConfig(["church"], gradient_checkpointing=checkpointing, **given)
        found.append(erase(tiny, config, [Adversary(lr=0.05)]).tensors)
    for name, tensor in found[0].items():
        assert torch.allclose(found[1][name], tensor, atol=1e-6), name


def test_the_adversary_goes_down_its_gap(tiny):
    config = EraseConfig(["church"], method="esd", steps=3, sampling_steps=2, batch=2, lr=1e-2)
    run, adversary = Run(tiny, config), Adversary(every=1, moves=4, lr=0.05)
    run.update()
    run.ahead = run.draws()
    draw = run.ahead[0]
    own = run.teacher(draw.z, draw.t, draw.c_e)
    delta = 0.1 * torch.randn(draw.c_e[0].shape, generator=torch.Generator().manual_seed(0))
    delta.requires_grad_()
    gap = adversary.gap(run, draw, own, draw.c_e + delta)
    (slope,) = torch.autograd.grad(gap, delta)
    step = 1e-2 * slope / slope.norm()
    with torch.no_grad():
        ends = [adversary.gap(run, draw, own, draw.c_e + delta + s * step) for s in (1, -1)]
    assert ((ends[0] - ends[1]) / 2e-2).item() == pytest.approx(slope.norm().item(), rel=0.02)

    before, evaluations = adversary.gap(run, draw, own, draw.c_e), run.evaluations
    adversary(run)
    assert run.evaluations - evaluations == 2 + 4 * 3 * 2  # the teacher's, and the moves'
    moved = run.ahead[0].c_e
    assert adversary.gap(run, draw, own, moved) < before
    assert (moved - draw.c_e)[0].norm() <= 0.5 * draw.c_e.flatten(1).norm(dim=1).mean() + 1e-4
    run.update()  # and the student learns to erase that
    assert adversary.gap(run, draw, own, moved) > 0 and len(run.history) == 2
