"""The checks of notebooks 11 to 17: nothing filled in, a mistake, the solution."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from course import checks
from erase_lib import EraseConfig, erase
from erase_lib.concepts import style_names
from tools.benchmarks.cost import erasing_evaluations
from tools.embedded.vae import new_vae


@pytest.fixture
def says(told):
    """What the check of an exercise says: nothing, to a mistake, and to the solution."""

    def ask(number, exercise, solution, wrong, *context):
        check = getattr(getattr(checks, f"n{number}"), f"exercise{exercise}")
        told(check, None, solution, [(wrong, "")], *context)

    return ask


def test_which_setting_matters(solved, says):
    strengths = pd.DataFrame({"metric": "strength", "eta": [0.0, 1.0], "value": [1.5, 1.0]})
    says(11, 1, solved(11, 1)["guess1"], "smaller", strengths)

    index = pd.MultiIndex.from_product(
        [["lam 1.0", "eta 0.0"], ["church", "dog"], [0]], names=["change", "targets", "seed"]
    )
    pairs = {"PSR-1 near": [-0.1, -0.2, 0.0, 0.1], "δ near": [0.2, 0.1, 0.1, 0.3]}
    pairs = pd.DataFrame(pairs, index=index)
    says(11, 2, solved(11, 2, pairs=pairs)["worse2"], 1, pairs)

    grid = solved(11, 3)["grid3"]
    corner = grid | {"grid": grid["grid"] | {"eta": [1.0]}}
    says(11, 3, grid, corner, ["lam", "eta"])


def test_the_price_of_an_update(solved, says):
    says(12, 1, solved(12, 1)["evaluations1"], 40)
    given = {"schedule": "published", "search": "gumbel", "preserve_at": "own", "batch": 1}
    given |= {"preserve_batch": 1, "candidates": 50, "sampling_steps": 50}
    published = EraseConfig.from_profile("course", targets=["church"], **given)
    names = {"published2": published, "EraseConfig": EraseConfig}
    most = solved(12, 2, erasing_evaluations=erasing_evaluations, **names)["most2"]
    says(12, 2, most, "preserve_at", published)

    ours, theirs = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    drift = solved(12, 3)["drift3"]
    truth = (ours - theirs).pow(2).sum((1, 2, 3)).sqrt() / theirs.pow(2).sum((1, 2, 3)).sqrt()
    says(12, 3, drift, lambda a, b: drift(b, a), ours, theirs, truth)


@pytest.fixture
def runs():
    """Twelve targets and two settings: `other` is about .1 above `base`, for one target .5."""
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        hard, gap = rng.uniform(0.2, 0.5), 0.5 if i == 3 else rng.normal(0.1, 0.05)
        for setting, value in (("base", hard), ("other", hard + gap)):
            rows.append({"targets": f"t{i}", "seed": 0, "setting": setting, "value": value})
    return pd.DataFrame(rows).assign(metric="PSR-1 near")


def test_many_runs(solved, says, runs):
    says(13, 1, solved(13, 1)["guess1"], "wider", 0.4, False)
    part = {"part": runs, "base": "base", "rival": "other"}
    gain = solved(13, 2)["gain2"]
    says(13, 2, gain, lambda *given: -gain(*given), *part.values())
    says(13, 3, solved(13, 3, **part)["without3"], "t0", *part.values())
    says(13, 4, solved(13, 4)["times4"], 2, *part.values())


def test_side_doors_and_who_pays(solved, says):
    opened = {"original": 0.8, "erased": 0.3}
    says(14, 1, solved(14, 1)["share1"], 0.9, opened, False)
    says(14, 2, ["a slow fall"], ["a Parachute"], "parachute", [False, True], False)
    says(14, 3, ("uce", 3), ("eap_closed", 3), "eap_closed", 8, 8)
    says(14, 3, ("uce", 3), ("uce", 9), "eap_closed", 8, 8)

    delta = np.linspace(-0.1, 0.6, 15)
    hurt = {"concept": [f"c{i}" for i in range(15)], "delta": delta}
    hurt = pd.DataFrame(hurt).assign(low=delta - 0.3, high=delta + 0.3)
    report = solved(14, 4)["report4"]
    says(14, 4, report, lambda *given: report(*given)[::-1], hurt, ["c14"])


class Witness:
    """A judge that sees a church as long as the edit is weak: in the first of four pictures."""

    def __init__(self, *weak):
        self.weak = list(weak)

    def sees(self, pictures):
        return ["church" if self.weak.pop(0) else "dog", "dog", "dog", "dog"]


def test_the_studio(solved, says, tiny):
    table = pd.DataFrame({"pixels changed": [0.1, 0, 0, 0, 0.2, 0.1, 0.3, 0.1]})
    says(15, 1, solved(15, 1)["touched1"], 2, table)
    edit = erase(tiny, EraseConfig(targets=("church",), method="uce"))
    says(15, 2, solved(15, 2)["scaled2"], lambda theta, erased, s: s * erased, tiny, edit)
    prompts = [f"a church in {style} style" for style in style_names()]
    # asked twice: of a wrong answer and of the right one, each at four strengths
    judge = Witness(*2 * [True, True, False, False])
    says(15, 3, 1.5, 1.0, tiny, edit, judge, prompts, 0)


@pytest.mark.parametrize("edit", [None, SimpleNamespace(config=EraseConfig(targets=("church",)))])
def test_before_an_erasure_the_studio_asks_for_nothing(edit, capsys):
    checks.n15.exercise1(4, pd.DataFrame())
    checks.n15.exercise3(1.0, None, edit, None, [], 0)
    assert capsys.readouterr().out == "not yet\nnot yet\n"


def test_the_embedded_model(solved, says):
    says(16, 1, solved(16, 1, torch=torch)["logvar1"], 0.5, new_vae())

    g, alpha = torch.Generator().manual_seed(0), torch.tensor(0.3)
    z, noise = torch.randn(2, 50, generator=g)
    z_t, v = alpha.sqrt() * z + (1 - alpha).sqrt() * noise, alpha.sqrt() * noise
    v = v - (1 - alpha).sqrt() * z
    turned = solved(16, 2)["noise2"]
    says(16, 2, turned, lambda z_t, v, a: turned(z_t, v, 1 - a), z_t, v, alpha, noise)

    table = pd.DataFrame({"concept": ["church"], "keywords": ["tower, cross"]})
    says(16, 3, solved(16, 3)["words3"], ["tower", "senator", "tomorrow"], table)
    ten = pd.DataFrame({"n": [40]})
    says(16, 4, solved(16, 4, ten=ten)["pictures4"], 80, 40)


def test_gone_or_hidden(solved, says):
    says(17, 1, solved(17, 1)["longer1"], "as long", 117.0)
    without = solved(17, 2, torch=torch)["without2"]
    says(17, 2, without, lambda d, m: without(d, torch.eye(len(d), dtype=d.dtype)))
    says(17, 2, without, lambda d, m: without(d, m).T)
    says(17, 3, (60, 0.25), (1000, 0.25), 1800, False)

    names = ["strong, whole", "mild, whole", "weak, whole", "scaled"]
    hidden, near = [0.0, 0.2, 0.3, 0.1], [0.5, 0.88, 0.9, 0.99]
    parts = [("hidden", names, hidden), ("near", [*names, "original"], [*near, 1.0])]
    levels = pd.concat(
        pd.DataFrame({"setting": settings, "group": group, "value": values})
        for group, settings, values in parts
    )
    best = solved(17, 4, levels=levels)["best4"]
    assert best == "mild, whole"
    for wrong in ("strong, whole", "weak, whole", "scaled"):
        says(17, 4, best, wrong, levels)


def test_many_concepts(solved, says):
    def levels(*last):
        rows = [("1 at once", 1.0, 0.9, 1.0), ("20 at once", *last), ("original", 0, 1, 1)]
        return pd.DataFrame(
            {"setting": name, "group": group, "value": value, "units": 12}
            for name, *values in rows
            for group, value in zip(("target", "near", "far"), values, strict=True)
        )

    says(18, 1, "far", "near", levels(0.9, 0.7, 0.5))
    says(18, 1, "far", "target", levels(1.0, 0.75, 0.8))
    says(18, 1, solved(18, 1)["guess1"], "near", levels(0.95, 0.85, 0.92))

    g = torch.Generator().manual_seed(0)
    small = [torch.randn(4, 4, generator=g).double() for _ in range(4)]
    sizes = (0.01, 0.3, 0.3, 0.02)
    factors = [torch.eye(4).double() + s * m for s, m in zip(sizes, small, strict=True)]
    names = ["dog", "cat", "bus", "hat"]
    given = {"factors": factors, "ten": names, "torch": torch}
    says(18, 2, solved(18, 2, **given)["pair2"], (0, 1), factors, names)
    for wrong in (
        lambda product, known, k: product,
        lambda product, known, k: product @ torch.linalg.inv(known[k]),
        lambda product, known, k: torch.linalg.inv(known[k]) @ product,
    ):
        says(18, 3, solved(18, 3, torch=torch)["undo"], wrong, factors)
