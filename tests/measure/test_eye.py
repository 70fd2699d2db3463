"""The second witness: what it takes for gone, where its thresholds come from, and who asks it."""

from importlib import import_module
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFilter
from torch.nn import functional as F

from erase_lib import EraseConfig, erase
from erase_lib.measure import (
    BOTH,
    METRIC,
    Eye,
    first_strength,
    picture_tensor,
    sharpness,
    summary,
)
from erase_lib.measure import eye as module
from erase_lib.measure.evaluate import successes, suite_rows
from erase_lib.measure.instruments import Instruments
from erase_lib.measure.suite import Group, Suite

measuring = import_module("erase_lib.measure.evaluate")  # of the same name as its function
ESR, BOTH_ESR = "ESR-1", f"ESR-1{BOTH}"


class Shades:
    """A CLIP that sees the mean colour alone; one that judges too: bright is the dog, red noto."""

    name = "shades"
    concepts, styles = ["dog", "cat"], ["noto", "fluent"]

    def image_features(self, pictures):
        means = [np.asarray(p, float).mean((0, 1)) / 255 for p in pictures]
        return F.normalize(torch.tensor(np.array(means).reshape(-1, 3) + 0.05).float(), dim=1)

    def text_features(self, prompts):
        return torch.ones(len(prompts), 3) / 3**0.5

    def likelihoods(self, pictures):
        bright = np.array([np.asarray(p).mean() > 60 for p in pictures])
        rows = np.stack([bright, ~bright], 1).astype(float)
        return rows, rows

    def index(self, names):
        return np.array([self.concepts.index(name) for name in names])


def checks(colour, light=255):
    """A crisp board of black and a colour."""
    board = np.indices((16, 16)).sum(0) % 2 * light
    return Image.fromarray((board[..., None] * np.array(colour)).astype(np.uint8))


RED, GREEN, ORANGE = checks((1, 0, 0)), checks((0, 1, 0)), checks((1, 0.2, 0))
PALE = GREEN.filter(ImageFilter.GaussianBlur(2))


def test_sharpness_by_hand():
    stripes = torch.zeros(1, 3, 8, 8)
    stripes[..., ::2] = 1.0
    assert sharpness(stripes).tolist() == [0.5]  # 1 across, 0 down
    assert sharpness(torch.cat([stripes, stripes / 2, stripes * 0])).tolist() == [0.5, 0.25, 0.0]


def test_gone_is_far_away_and_crisp():
    eye = Eye(Shades(), apart=0.2, style_apart=0.01)
    after = [RED, ORANGE, GREEN, PALE]
    assert eye.gone([RED] * 4, after).tolist() == [0, 0, 1, 0]
    # of another style less is asked
    assert eye.gone([RED] * 4, after, np.array([True, True, False, False])).tolist() == [0, 1, 1, 0]
    known = tuple(eye.clip.image_features(some) for some in ([RED] * 4, after))
    assert eye.gone([RED] * 4, after, features=known).tolist() == [0, 0, 1, 0]
    assert eye.gone([], []).tolist() == [] and "0.200" in eye.name and "0.9" in eye.name


def test_thresholds_are_the_percentile_of_what_the_model_draws(tiny, monkeypatch):
    monkeypatch.setattr(module, "STEPS", 1)
    asked = {}
    monkeypatch.setattr(module, "CONCEPTS", 3)

    def drawn(pipe, prompts, seeds, steps, **named):
        asked["pairs"] = list(zip(prompts, seeds, strict=True))
        g = np.random.default_rng(0)
        colours = g.integers(0, 256, (len(prompts), 1, 1, 3), np.uint8)
        asked["pictures"] = [Image.fromarray(np.tile(c, (4, 4, 1))) for c in colours]
        return asked["pictures"]

    monkeypatch.setattr(module, "draw", drawn)
    words = [f"word{i}" for i in range(9)]
    eye = Eye.of(tiny, words, Shades())
    assert len(set(asked["pairs"])) == len(asked["pairs"]) == 3 * 4 * len(module.SEEDS)
    features = Shades().image_features(asked["pictures"])
    told = [(*p.removeprefix("a ").split()[::2][:2], seed) for p, seed in asked["pairs"]]
    every = list(zip(told, features, strict=True))
    for apart, same in ((eye.apart, 1), (eye.style_apart, 0)):
        far = [
            1 - float(x @ y)
            for (a, x), (b, y) in combinations(every, 2)
            if a[2] == b[2] and a[same] == b[same] and a[1 - same] != b[1 - same]
        ]
        assert apart == pytest.approx(np.percentile(far, module.SHARE), abs=1e-6)


def test_both_witnesses_must_say_so():
    table = pd.DataFrame({"rank": [3, 3, 0, np.nan], "eye": [1.0, 0.0, 1.0, 1.0]})
    assert successes(ESR, table)[:3].tolist() == [1, 1, 0]
    assert successes(BOTH_ESR, table)[:3].tolist() == [1, 0, 0]
    assert np.isnan(successes(BOTH_ESR, table)[3])
    assert METRIC.fullmatch(BOTH_ESR) and METRIC.fullmatch(f"ESR-5 style{BOTH}")
    assert not METRIC.fullmatch(f"PSR-1{BOTH}")


def test_a_suite_that_asks_has_a_row_and_a_column(refused):
    prompts = pd.DataFrame({"prompt": list("abc"), "style": None, "group": "target"})
    prompts = prompts.assign(concept="dog", seed=[1, 2, 3], noise=range(3))
    suite = Suite("mine", "", {"target": Group((ESR, BOTH_ESR))})
    before, after = [checks((1, 0, 0)), RED, RED], [ORANGE, PALE, checks((0, 1, 0), 254)]
    given = Instruments(Shades(), Shades(), net="clip")
    refused(given.check, suite, prompts, says="judge+eye")
    given.eye = Eye(given.clip, 0.2)
    given.check(suite, prompts)
    pictures, rows = suite_rows(suite, prompts, before, after, given)
    value = rows.set_index(["metric", "model"])["value"]
    assert value[ESR, "original"] == value[ESR, "erased"] == 1  # none is bright
    assert value[BOTH_ESR, "original"] == 0 and value[BOTH_ESR, "erased"] == pytest.approx(1 / 3)
    assert pictures["eye"].tolist() == [0, 0, 0, 0, 0, 1]
    named = rows.set_index("metric")["measured_by"]
    assert given.eye.name in named[BOTH_ESR].iloc[0] and given.eye.name not in named[ESR].iloc[0]


def test_a_summary_counts_both_where_the_eye_was_asked():
    before = pd.DataFrame({"prompt": list("ab"), "concept": ["dog", "cat"], "seed": 1, "rank": 0})
    before = before.assign(measured_by="by hand", seconds=0.1)
    after = before.assign(rank=[4, 0], eye=[0.0, 0.0])
    rows = summary(before, after, ["dog"]).set_index(["metric", "model"])["value"]
    assert rows[ESR, "erased"] == 1 and rows[BOTH_ESR, "erased"] == 0
    assert BOTH_ESR not in set(summary(before, after.drop(columns="eye"), ["dog"])["metric"])


def test_a_strength_that_both_witnesses_grant(tiny, monkeypatch):
    config = EraseConfig.from_profile("smoke", targets=["church"], method="uce")
    erasure, tried = erase(tiny, config), []
    monkeypatch.setattr(measuring, "draw", lambda *a, erasure=None, **b: [erasure and tried[-1]])
    scaled = lambda pipe, s: tried.append(s) or erasure  # noqa: E731
    monkeypatch.setattr(type(erasure), "scaled", lambda self, pipe, s: scaled(pipe, s))

    def verdicts(judge, drawn, prompts):
        return prompts.assign(rank=int(tried[-1] >= 0.4))

    monkeypatch.setattr(measuring, "verdicts", verdicts)

    class Between:
        def gone(self, before, after, styled):
            assert before == [None] and not styled.any()
            return np.full(len(styled), float(0.75 < after[0] < 1.1))

    assert first_strength(tiny, erasure, Shades()) == (0.4, True)
    # by bisection it would miss that it is a picture no more from 1.2 on
    assert first_strength(tiny, erasure, Shades(), eye=Between()) == (0.8, True)
    with pytest.warns(UserWarning, match=r"judge\+eye stays below"):
        few = (0.2, 0.5)
        assert first_strength(tiny, erasure, Shades(), strengths=few, eye=Between()) == (0.5, False)


def test_pictures_are_compared_at_their_own_size():
    fine = Image.fromarray((np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    assert sharpness(picture_tensor([fine], 96)) > 1.5 * sharpness(picture_tensor([fine], 64))
    eye = Eye(Shades(), apart=-1.0)  # only crispness decides
    grey = Image.new("RGB", (96, 96), (127, 127, 127))
    assert eye.gone([grey, fine], [fine, grey]).tolist() == [1, 0]
