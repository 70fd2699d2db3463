"""Spaces of concepts and their projections."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from erase_lib import EraseError
from erase_lib.study import image_space, nearness_rho, project


def test_spaces_and_projections():
    points = np.random.default_rng(0).normal(size=(12, 5))
    for name in ("pca", "tsne", "umap"):
        assert project(points, name).shape == (12, 2)
    with pytest.raises(EraseError, match="unknown projection 'umpa': did you mean 'umap'"):
        project(points, "umpa")
    with pytest.raises(EraseError, match="2 concepts are no map"):
        project(points[:2], "pca")
    line = np.arange(12.0)[:, None]
    names = [str(i) for i in range(12)]
    delta = pd.Series(-np.arange(12.0), names)  # less damage farther from "0"
    assert nearness_rho(line, names, "0", delta) == pytest.approx(1)
    assert nearness_rho(line, names, "11", delta) == pytest.approx(-1)
    with pytest.raises(EraseError, match="unknown concept of the map 'x'"):
        nearness_rho(line, names, "x", delta)
    with pytest.raises(EraseError, match="δ of 2 concepts on the map"):
        nearness_rho(line, names, "0", delta.iloc[:3])


def test_what_is_drawn_is_the_mean_of_a_concepts_pictures():
    class Clip:
        def image_features(self, pictures):
            return torch.tensor([[p.getpixel((0, 0))[0], 1.0] for p in pictures])

    found = image_space(Clip(), _reds(3), ["a", "b", "a"], ["b", "a"])
    assert found.tolist() == [[20, 1], [20, 1]]
    with pytest.raises(EraseError, match="no picture of 'c'"):
        image_space(Clip(), _reds(1), ["a"], ["a", "c"])


def _reds(n):
    return [Image.new("RGB", (8, 8), (20 * i, 0, 0)) for i in range(n)]
