"""Maps of concepts: spaces, projections, and whether nearness predicts δ."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from erase_lib import study
from erase_lib.study.maps import PROJECTIONS, image_space, nearness_rho, project, text_space
from erase_lib.text import encode_prompts

POINTS = np.random.default_rng(0).normal(size=(12, 5))


# UMAP is compiled first, which takes longest: the book's 03 asks for it
@pytest.mark.parametrize("name", ["pca", "tsne"])
def test_projections_are_on_a_plane(name):
    assert project(POINTS, name).shape == (12, 2)


def test_what_is_no_projection(refused):
    assert {*PROJECTIONS} == {"pca", "tsne", "umap"}
    assert "'umap'" in refused(project, POINTS, "umpa")
    assert "2 concepts" in refused(project, POINTS[:2], "pca")
    assert "seed is -1" in refused(project, POINTS, "pca", seed=-1)


@pytest.mark.parametrize("method", PROJECTIONS)
@pytest.mark.parametrize(
    "points",
    [
        np.ones((12, 4)),
        np.repeat([[0.0, 1.0], [1.0, 0.0]], 6, axis=0),
        np.full((12, 4), np.nan),
        np.r_[np.eye(4), [[np.inf] * 4]],
        np.eye(4) * 1e200,
        np.eye(4) * 1e-200,
        np.ones(12),
        np.arange(12.0)[:, None],
        np.ones((12, 0)),
        [],
        [[1.0, 2.0]],
        [[1.0, 2.0], [1.0]],
        [["a", "b"]] * 4,
        None,
    ],
)
def test_what_is_no_map_does_not_end_python(refused, points, method):
    refused(study.project, points, method)


def test_nearness_and_delta_that_go_together(refused):
    line, names = np.arange(12.0)[:, None], [str(i) for i in range(12)]
    delta = pd.Series(-np.arange(12.0), names)  # less δ farther from "0"
    assert nearness_rho(line, names, "0", delta) == pytest.approx(1)
    assert nearness_rho(line, names, "11", delta) == pytest.approx(-1)
    assert "'x'" in refused(nearness_rho, line, names, "x", delta)
    assert "2 concepts" in refused(nearness_rho, line, names, "0", delta.iloc[:3])


def test_text_space_has_the_distances_of_the_embeddings(tiny):
    a, b = text_space(tiny, ["dog", "church"])
    one, two = encode_prompts(tiny, ["dog", "church"])
    assert np.linalg.norm(a - b) == pytest.approx((one - two).norm().item())


def test_what_is_drawn_is_the_mean_of_a_concepts_pictures(refused):
    class Clip:
        def image_features(self, pictures):
            return torch.tensor([[p.getpixel((0, 0))[0], 1.0] for p in pictures])

    grey = [Image.new("RGB", (4, 4), (level,) * 3) for level in (0, 20, 40)]
    assert image_space(Clip(), grey, ["a", "b", "a"], ["b", "a"]).tolist() == [[20, 1], [20, 1]]
    assert "'c'" in refused(image_space, Clip(), grey[:1], ["a"], ["a", "c"])
    for drawn in (["a"], ["a", "b", "a", "b"]):  # some would be left out
        said = f"{len(drawn)} concepts of 3 pictures"
        refused(image_space, Clip(), grey, drawn, ["a"], says=said)
