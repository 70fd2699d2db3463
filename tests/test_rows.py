"""From pictures to rows: every metric by hand, with instruments that say what they are told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from erase_lib.instruments import Instruments
from erase_lib.judge import Judge
from erase_lib.rows import COLUMNS, summarise
from erase_lib.suites import Group, Suite

CONCEPTS = ["dog", "cat", "bus", "hat", "rose", "key", "pen"]
BEFORE = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(6)]
AFTER = [Image.new("RGB", (8, 8), (i, 255, 0)) for i in range(6)]


def place(picture):
    """Which picture of which list it is."""
    red, green, _ = picture.getpixel((0, 0))
    return red + 6 * (green > 0)


class FakeClassifier:
    name, concepts = "a classifier", CONCEPTS
    # the rank of "dog" in each picture: before all first, after 0, 1, 4, 5 …
    ranks = [0, 0, 1, 0, 0, 0] + [0, 1, 4, 5, 0, 2]

    def concept_probabilities(self, pictures):
        rows = []
        for picture in pictures:
            order = CONCEPTS[1:]
            order.insert(self.ranks[place(picture)], "dog")
            rows.append([7.0 - order.index(c) for c in CONCEPTS])
        return torch.tensor(rows) / 28

    def index(self, names):
        return np.array([CONCEPTS.index(name) for name in names], dtype=int)


class FakeClip:
    name = "a clip"
    angle = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0] + [0.0, 0.3, 0.6, 0.9, 1.2, 1.5]

    def image_features(self, pictures):
        angles = torch.tensor([self.angle[place(p)] for p in pictures])
        return torch.stack([angles.cos(), angles.sin()], 1)

    def text_features(self, prompts):
        return torch.tensor([[1.0, 0.0]]).expand(len(prompts), 2)


class FakeDetector:
    name = "a detector"
    found = [0.9, 0.9, 0.9, 0.4, 0.4, 0.4] + [0.9, 0.35, 0.2, 0.1, 0.1, 0.1]

    def scores(self, pictures):
        return np.array([self.found[place(p)] for p in pictures])


PROMPTS = pd.DataFrame(
    {
        "group": ["target"] * 4 + ["theme"] * 2,
        "prompt": ["a dog", "a dog", "one dog", "one dog", "a pack", "a leash"],
        "concept": ["dog"] * 4 + [None] * 2,
        "style": None,
        "seed": [1, 2, 1, 2, 1, 1],
        "noise": range(6),
    }
)


def suite(**groups):
    return Suite("mine", "", groups, thresholds=(0.3, 0.5))


def rows_of(metrics, prompts=PROMPTS, clip=None):
    of = suite(target=Group(metrics), theme=Group(("NER",)))
    given = Instruments(FakeClassifier(), clip or FakeClip(), FakeDetector(), net="clip")
    pictures, rows = summarise(of, prompts, BEFORE, AFTER, given)
    return pictures, rows.set_index(["group", "metric", "model"]).sort_index()


def test_every_metric_by_hand():
    # of each: difference, erased, original
    _, rows = rows_of(("ESR-1", "ESR-5", "PSR-1", "NER", "CLIP score", "distance"))
    value = rows["value"]
    # dog is first in 3 of 4 before and 1 of 4 after; in the first five in 4 and 3
    assert value["target", "ESR-1"].tolist() == [0.5, 0.75, 0.25]
    assert value["target", "ESR-5"].tolist() == [0.25, 0.25, 0.0]
    assert value["target", "PSR-1"].tolist() == [-0.5, 0.25, 0.75]
    assert value["target", "NER-0.3"].tolist() == [-0.5, 0.5, 1.0]
    assert value["target", "NER-0.5"].tolist() == [-0.5, 0.25, 0.75]
    assert value["theme", "NER-0.3"].tolist() == [-1.0, 0.0, 1.0]
    cosines = np.cos([0.0, 0.3, 0.6, 0.9])
    assert value["target", "CLIP score"].tolist() == pytest.approx(
        [100 * (cosines.mean() - 1), 100 * cosines.mean(), 100], abs=1e-4
    )
    assert rows.loc[("target", "distance")].index.tolist() == ["erased"]
    assert value["target", "distance", "erased"] == pytest.approx((1 - cosines).mean(), abs=1e-5)
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()


def test_every_row_says_of_what_and_by_what():
    pictures, rows = rows_of(("ESR-1", "NER", "CLIP score", "distance"))
    assert set(rows.index.names) | set(rows.columns) == set(COLUMNS)
    by = rows["measured_by"]
    assert by["target", "ESR-1", "erased"] == "a classifier"
    assert by["target", "NER-0.3", "erased"] == "a detector"
    assert by["target", "CLIP score", "erased"] == "a clip"
    assert by["target", "distance", "erased"] == "CLIP feature distance (a clip)"
    row = rows.loc[("target", "ESR-1", "difference")]
    assert (row["n"], row["prompts"], row["seeds"]) == (4, 2, "1, 2") and row["seconds"] >= 0
    assert len(pictures) == 12 and set(pictures["model"]) == {"original", "erased"}
    assert pictures["measured_by"].nunique() == 1 and "a detector" in pictures["measured_by"][0]


def test_a_prompt_without_a_concept_is_seen_but_not_ranked():
    pictures, _ = rows_of(("ESR-1",))
    theme = pictures[pictures["group"] == "theme"]
    assert theme["rank"].isna().all() and theme["seen"].isin(CONCEPTS).all()
    assert pictures[pictures["group"] == "target"]["rank"].notna().all()


def test_the_interval_draws_prompts_and_pairs_the_pictures():
    _, rows = rows_of(("ESR-1",))
    # both prompts changed by the same: the difference is sure, the levels are not
    change = rows.loc[("target", "ESR-1", "difference")]
    assert change["low"] == change["high"] == change["value"] == 0.5
    assert rows.loc[("target", "ESR-1", "erased"), "low"] < 0.75


def test_a_group_without_prompts_is_left_out():
    _, rows = rows_of(("ESR-1",), PROMPTS.assign(group="target").head(6).assign(concept="dog"))
    assert set(rows.index.get_level_values("group")) == {"target"}


def test_sets_are_held_against_the_unedited_model_where_nothing_is_real():
    prompts = PROMPTS.assign(group="target", concept="dog", prompt=list("abcdef"))
    with pytest.warns(UserWarning, match="fewer than 2,000"):
        _, rows = rows_of(("FID", "KID"), prompts)
    assert rows.index.tolist() == [("target", "FID", "erased"), ("target", "KID", "erased")]
    assert "against 6 pictures of the unedited model" in rows["measured_by"].iloc[0]
    assert "biased" in rows["note"].iloc[0] and (rows["value"] > 0).all()
    with pytest.warns(UserWarning, match="left out: 4 pictures of 2 prompts, expected of 3"):
        _, rows = rows_of(("FID", "ESR-1"))
    assert "FID" not in rows.index.get_level_values("metric")


def test_real_pictures_of_the_data_set_are_the_reference():
    prompts = PROMPTS.assign(group="target", concept=["dog", "cat", "bus"] * 2, style="noto")
    prompts = prompts.assign(prompt=list("abcdef"))
    with pytest.warns(UserWarning, match="fewer than 2,000"):
        of = suite(target=Group(("FID",)))
        clip = FakeClip()
        clip.image_features = lambda pictures: torch.rand(
            len(pictures), 2, generator=torch.Generator().manual_seed(len(pictures))
        )
        given = Instruments(FakeClassifier(), clip, net="clip")
        _, rows = summarise(of, prompts, BEFORE, AFTER, given)
    assert list(rows["model"]) == ["original", "erased"]
    assert rows["measured_by"].str.contains("against 6 real pictures").all()


def test_a_style_is_ranked_among_the_styles():
    judge = Judge.load()
    from erase_lib.instruments import real_pictures

    prompts = pd.DataFrame(
        {"concept": ["dog", "cat", "bus"], "style": ["noto", "fluent", "openmoji"], "seed": 1}
    ).assign(prompt=list("abc"), group="target", noise=0)
    right = real_pictures(prompts)
    wrong = real_pictures(prompts.assign(style=["fluent", "noto", "twemoji"]))
    of = suite(target=Group(("ESR-1 style", "PSR-1 style", "PSR-1")))
    _, rows = summarise(of, prompts, right, wrong, Instruments(judge, FakeLike(), net="clip"))
    value = rows.set_index(["metric", "model"])["value"]
    assert value["PSR-1 style", "original"] == 1 and value["ESR-1 style", "erased"] == 1
    assert value["PSR-1", "original"] == value["PSR-1", "erased"] == 1


class FakeLike(FakeClip):
    def image_features(self, pictures):
        return torch.tensor([[1.0, 0.0]]).expand(len(pictures), 2)
