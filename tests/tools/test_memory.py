"""The memory benchmark on a toy: what its tracker counts, and what an arrangement holds."""

from __future__ import annotations

import json

import pytest
import torch

from erase_lib.models import trained_names
from tools.benchmarks import memory
from tools.benchmarks.memory import ARRANGEMENTS, PARTS, Live, followed, main, ours, published
from tools.benchmarks.shapes import TINY, random_family


@pytest.fixture(scope="module")
def unet():
    return random_family("sd").unet


def test_tracker_follows_storages_to_their_end():
    with Live() as live:
        a = torch.zeros(100)
        a.add_(1)
        view = a.view(10, 10)[:2]
        del a
        assert live.held == {"activations": 400}  # the view holds all of it
        b = torch.ones(50)
        live.mark(b, "weights")
        assert live.held == {"activations": 400, "weights": 200}
        del view, b
    assert live.held.total() == 0 and live.peak == 600
    assert live.most == {"activations": 600, "weights": 200}  # b was not at once a weight


def test_tracker_sees_the_backward_pass():
    x = torch.zeros(1000, requires_grad=True)
    with Live() as live:
        y = x.exp().exp()  # each keeps its result
        assert live.held["activations"] == 8000
        y.sum().backward()
        assert live.peak >= 12000  # and a gradient on its way
        del y
    live.mark(x.grad, "gradients")
    assert +live.held == {"gradients": 4000}


@pytest.mark.parametrize("train_method", ["xattn", "full"])
@pytest.mark.parametrize("arrangement", ["published", "ours"])
def test_what_is_held_is_what_parameters_say(unet, arrangement, train_method):
    made = ARRANGEMENTS[arrangement](TINY["sd"], train_method, "cpu")
    live, _ = followed(made)
    sizes = {name: p.numel() for name, p in unet.named_parameters()}
    names = trained_names(unet, train_method)
    every, trained = sum(sizes.values()), sum(sizes[name] for name in names)
    weights = 2 * 4 * every if arrangement == "published" else 2 * every + 4 * trained
    assert live.held["weights"] == live.most["weights"] == weights
    assert live.most["gradients"] == 4 * trained
    assert live.held["gradients"] == (4 * trained if arrangement == "published" else 0)
    assert live.held["optimiser"] == 2 * 4 * trained + 4 * len(names)
    assert live.held.total() < live.peak <= sum(live.most[part] for part in PARTS)
    # of the activations only the inputs outlive an update: embeddings, z_t, t
    assert live.held["activations"] == 4 * (3 * 77 * 16 + 2 * 4 * 4 * 4) + 8 * 2


@pytest.mark.parametrize("make", [published, ours])
def test_checkpointing_holds_fewer_activations(make):
    plain, lean = (followed(make(TINY["sd"], "xattn", "cpu", on))[0].most for on in (False, True))
    assert lean["activations"] < plain["activations"] and lean["weights"] == plain["weights"]


def changed(made):
    """Which of the weights an update changed."""
    before = [t.clone() for t in made.weights]
    made.update()
    return [not torch.equal(a, b) for a, b in zip(made.weights, before, strict=True)]


def test_published_holds_two_copies_and_trains_one(unet):
    made = published(TINY["sd"], "xattn", "cpu")
    moved, each = changed(made), len(list(unet.parameters()))
    assert len({t.data_ptr() for t in made.weights}) == len(moved) == 2 * each
    assert not any(moved[:each])  # the teacher
    assert all(map(torch.equal, made.weights[:each], unet.parameters()))
    assert sum(moved[each:]) == len(made.trained) == len(trained_names(unet, "xattn"))


def test_ours_leaves_the_teacher_as_it_was():
    made = ours(TINY["sd"], "xattn", "cpu")
    n, trained = len(made.weights), len(made.trained)
    assert changed(made) == [False] * (n - trained) + [True] * trained


def test_a_row_is_the_last_line(capsys):
    main(["--row", "ours", "--methods", "full", "--small", "--device", "cpu"])
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (row["arrangement"], row["train_method"]) == ("ours", "full")
    assert 0 < row["weights_mb"] < row["peak_mb"] < row["maxrss_mb"] and row["seconds"] > 0


def test_table_and_ratios(tmp_path, capsys, monkeypatch):
    def fake(module, arguments):
        peak = {"published": 8.0, "checkpointed": 4.0, "ours": 2.0}[arguments[1]]
        return {"arrangement": arguments[1], "train_method": arguments[3], "peak_mb": peak}

    monkeypatch.setattr(memory, "in_a_process", fake)
    main(["--small", "--device", "cpu", "--out", str(tmp_path / "memory.json")])
    found = json.loads((tmp_path / "memory.json").read_text())
    assert found["shapes"] == "toy" and len(found["rows"]) == 9 and len(found["ratios"]) == 6
    shares = [tuple(ratio.values()) for ratio in found["ratios"]]
    assert shares[:2] == [("published", "xattn", 0.25), ("checkpointed", "xattn", 0.5)]
    assert "checkpointed" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["memory.json"]
