"""The checks of notebooks 04 and 07 to 10, as their cells call them: open, solved, and mistaken.

Each solution is the notebook's own, each context a small made-up one.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from course import checks
from course.plan import notebook, tagged
from erase_lib import search, study

NAMES = {
    "04": "04_the_method",
    "07": "07_compare",
    "08": "08_diffusion_primer",
    "09": "09_damage_atlas",
    "10": "10_adversarial_search",
}
WORDS = ["sofa", "tent", "boat", "fork"]


def the_method() -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    gumbel = -(-torch.rand(6, 5, generator=g).log()).log()
    pi, alphas = torch.full((5,), 0.2), torch.linspace(0.99, 0.01, 10)
    return {
        "torch": torch,
        "search": search,
        "pi": pi,
        "gumbel": gumbel,
        "weights": [((pi + gumbel) / tau).softmax(-1) for tau in (0.1, 1.0, 10.0)],
        "config": SimpleNamespace(temperature=2.0),
        "pipe": SimpleNamespace(scheduler=SimpleNamespace(alphas_cumprod=alphas)),
        "bank": SimpleNamespace(timesteps=torch.tensor([9, 5, 1])),
        "near": WORDS,
        "worst": WORDS[1:],
        "E": torch.zeros(2, 4, 3, 5),
        "g": g,
    }


@cache
def methods() -> dict[str, Any]:
    """Five methods in three splits: one ruins all, chance and two searches are hardly apart."""
    rng, rows = np.random.default_rng(0), []
    share = {"esd": 0.3, "ca": 0.45, "eap, random": 0.7, "eap, movement": 0.97, "uce": 0.5}
    for split in ("sofa|tent", "boat|fork", "cat|dog"):
        for concept in range(12):
            for setting, p in share.items():
                for picture in range(20):
                    rank = int(rng.random() > p)
                    rows.append(("near", split, f"c{concept}", setting, picture, rank))
    names = ["group", "targets", "concept", "setting", "picture", "rank"]
    pictures = pd.DataFrame(rows, columns=names)
    levels = study.levels(pictures, [("near", "PSR-1")])
    strength = {"esd": 0.4, "ca": 0.8, "eap, random": 0.9, "eap, movement": 1.0, "uce": 1.1}
    gaps = study.differences(pictures, [("near", "PSR-1")], "esd")
    unit = study.units(pictures, "PSR-1").pivot(index=study.UNIT, columns="setting", values="value")
    gaps3 = (unit["uce"] - unit["ca"]).to_numpy()
    return {
        "np": np,
        "study": study,
        "display": lambda *tables: None,
        "base": "esd",
        "pictures": pictures,
        "levels": levels,
        "runs": pd.DataFrame({"setting": list(strength), "strength": list(strength.values())}),
        "gaps": gaps,
        "overlap2": pd.DataFrame(index=["ca", "none of them"]),
        "gaps3": gaps3,
        "signs3": np.random.default_rng(0).choice([-1.0, 1.0], (10_000, len(gaps3))),
    }


def primer() -> dict[str, Any]:
    alphas = torch.linspace(0.999, 0.001, 1000)

    def add_noise(z, epsilon, t):
        a = alphas[t].view(-1, 1, 1, 1)
        return a.sqrt() * z + (1 - a).sqrt() * epsilon

    blank = Image.new("RGB", (8, 8))
    judge = SimpleNamespace(sees=lambda pictures: ["church"] * (len(pictures) - 1) + ["dog"])
    names = ["start", "a", "church", "in", "noto", "style", "end", "padding"]
    return {
        "torch": torch,
        "study": study,
        "z": torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(1)),
        "pipe": SimpleNamespace(
            scheduler=SimpleNamespace(add_noise=add_noise, alphas_cumprod=alphas),
            vae=SimpleNamespace(config=SimpleNamespace(latent_channels=16)),
            vae_scale_factor=8,
        ),
        "pair": [Image.new("RGB", (64, 64))],
        "shown": [blank],
        "generate": lambda pipe, prompts, **drawing: [blank],
        "drawing": {},
        "concept": "church",
        "names": names,
        "weights": torch.tensor([0.6, 0.05, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05]),
        "judge": judge,
        "plan": [],
        "seed": 0,
        "steps": 4,
        "seen": ["church", "church", "church", "dog", "dog"],
    }


def atlas() -> dict[str, Any]:
    rng, targets = np.random.default_rng(0), [f"t{i}" for i in range(20)]
    names = [*targets, *(f"c{i}" for i in range(30))]
    harm = rng.normal(size=(20, 50)) + rng.normal(size=(20, 1)) + 2
    harm[:, :20] += 3 * (np.eye(20)[rng.permutation(20)])  # some arrows are strong
    delta = pd.DataFrame(harm, targets, names)
    own = delta.sub(delta.mean(1), axis=0).sub(delta.mean(0), axis=1) + delta.to_numpy().mean()
    pairs = pd.DataFrame({"p": rng.random(190), "q": 1.0})
    shares = {"erased": 0.2, "harmed": 0.1, "specific": 0.5, "noise": 0.2}
    return {
        "np": np,
        "study": study,
        "score": "features",
        "smoke": False,
        "own": pd.DataFrame({"share": shares}),
        "clean2": delta.drop(columns=targets),
        "lopsided": {"specific": pairs},
        "delta": SimpleNamespace(targets=targets, table=lambda: delta),
        "own_harm": SimpleNamespace(table=lambda: own),
        "arrows": 3,
    }


def searches() -> dict[str, Any]:
    n = 8
    ends = pd.DataFrame({"concept": list("abcdefgh"), "moved": np.linspace(1, 0.1, n)})
    ends["percentile"] = 100 * (1 - np.arange(n) / (n - 1))
    found = {"gumbel": 45, "movement": 70, "nearest": 20, "random": 51}
    hits = pd.DataFrame({"search": list(found), "value": list(found.values())})
    rows = [
        (s, t, seed, metric, 0.1 * i + 0.01 * j * (s == "movement") + 0.2 * k * (s == "random"))
        for s in ("movement", "random")
        for i, t in enumerate("xyz")
        for j, seed in enumerate((0, 1), 1)
        for k, metric in enumerate(("δ near", "δ far"), 1)
    ]
    deltas = pd.DataFrame(rows, columns=["search", "targets", "seed", "metric", "value"])
    return {
        "searches": ["gumbel", "movement"],
        "ends": {"movement": ends},
        "hits": hits.assign(metric="percentile 200"),
        "deltas": deltas,
    }


CONTEXTS = {"04": the_method, "07": methods, "08": primer, "09": atlas, "10": searches}


class Anyone(search.Search):
    def pick(self, k, g):
        return torch.randint(4, (k,), generator=g)


class Unseeded(search.Search):
    def pick(self, k, g):
        return 1 + torch.randint(3, (k,))


def one_sided(gaps, signs):
    return (1 + (signs @ gaps >= gaps.sum() - 1e-9).sum()) / (1 + len(signs))


def uncounted(gaps, signs):
    return (np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-9).mean()


def twice_off(table):
    return table.sub(table.mean(1), axis=0) - table.mean(0)


def by_n(moved, chosen):
    return (100 * (moved.rank() - 1) / len(moved))[chosen].mean()


def once_each(moved, chosen):
    return (100 * (moved.rank() - 1) / (len(moved) - 1))[list(set(chosen))].mean()


# an answer that is likely and wrong, and a word of what is said of it
WRONG = {
    ("04", 1): [("all others", "order"), ("some", "one of")],
    ("04", 2): [(0.01, "go up"), (100.0, "go down"), (-1.0, "above 0")],
    ("04", 3): [(lambda a: a / (1 - a), "upside down"), (lambda a: 1 - a, "divide")],
    ("04", 4): [
        (lambda n: float(np.log(n - 1)) / 2, "more"),
        (lambda n: float(n), "less"),
        (lambda n: float(np.log(n)), "among 3 candidates"),
        (lambda n: float(np.log(n - 2)), "among 3 candidates"),
        (lambda n: -1.0, "below 0"),
    ],
    ("04", 5): [(Anyone, "others"), (Unseeded, "generator=g")],
    ("07", 1): [("most", "small part"), ("between", "at an end"), ("first", "answer")],
    ("07", 2): [(0, "hide"), (2, "sharpens"), (9, "from 0 to 2")],
    ("07", 3): [(one_sided, "one direction"), (uncounted, "almost")],
    ("07", 4): [(0, "count"), (9, "from 0 to 4")],
    ("07", 5): [(0, "look for"), (9, "3 splits")],
    ("08", 1): [(1 / 12, "upside down"), (64, "colours"), (3.0, "count")],
    ("08", 2): [
        (lambda z, e, a: a * z + (1 - a) * e, "roots"),
        (lambda z, e, a: (1 - a) ** 0.5 * z + a**0.5 * e, "exchanged"),
    ],
    ("08", 3): [("noise", "noise out"), ("a faint concept", "s = 1")],
    ("08", 4): [("church", "10.0%"), ("end", "5.0%"), ("dog", "one of")],
    ("08", 5): [((0, 3), "already"), ((1, 2), "count")],
    ("09", 1): [("noise", "agree better"), ("erased", "stripes"), ("luck", "one of")],
    ("09", 2): [(twice_off, "twice"), (lambda t: t.to_numpy()[1:], "shape")],
    ("09", 3): [(0.05, "share"), (19.0, "once"), (190, "all pairs"), (0, "no proof")],
    ("09", 4): [((3, 0.5), "another"), ((4, 2.0), "share"), ((99, 0.1), "from 1 to 19")],
    ("10", 1): [(by_n, "n − 1"), (once_each, "twice")],
    ("10", 2): [("random", "near 50"), ("gumbel", "held"), ("chance", "four names")],
    ("10", 3): [(0.19, "upside down"), (7.0, "matched")],
}


def cells(number: str, exercise: int) -> dict[str, str]:
    """The source of an exercise's stub, solution and check."""
    kinds = ("exercise", "solution", "check")
    every = {kind: [c for c in notebook(NAMES[number]).cells if tagged(c, kind)] for kind in kinds}
    call = f"checks.n{number}.exercise{exercise}("
    place = [c.source.startswith(call) for c in every["check"]].index(True)
    return {kind: every[kind][place].source for kind in kinds}


@pytest.fixture
def context(request, monkeypatch):
    """The made-up variables of a notebook."""
    monkeypatch.setattr(study, "draw_embeddings", lambda pipe, plan, seeds: list(seeds))
    erased = SimpleNamespace(history=[{"chosen": "tent|boat"}])
    monkeypatch.setattr(checks.n04, "erase", lambda *a, **k: erased)
    monkeypatch.setattr(checks.n04.dataclasses, "replace", lambda config, **changed: config)
    return CONTEXTS[request.param[0]]() | {"checks": checks, "F": F, "pd": pd}


@pytest.mark.parametrize(("context", "key"), [(key, key) for key in WRONG], indirect=["context"])
def test_a_check_knows_what_is_open_solved_and_mistaken(context, key, capsys):
    number, exercise = key
    of = cells(number, exercise)
    call = of["check"]
    answer = call.partition("(")[2].partition(",")[0].partition(")")[0]

    def said() -> str:
        capsys.readouterr()
        exec(call, context)
        return capsys.readouterr().out

    exec(of["exercise"], context)
    assert said() == "not yet\n"
    exec(of["solution"], context)
    assert said().startswith("right: ")
    for wrong, word in WRONG[key]:
        context[answer] = wrong
        found = said()
        assert found.startswith("not right: ") and word in found, found


def test_every_check_of_these_notebooks_is_tried():
    found = [
        (number, i)
        for number, name in NAMES.items()
        for i, cell in enumerate((c for c in notebook(name).cells if tagged(c, "check")), 1)
        if "\n" not in cell.source
    ]
    assert sorted(found) == sorted(WRONG)
