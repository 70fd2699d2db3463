"""The prompts of pairs of pictures: the same for a concept whatever stands beside it."""

from __future__ import annotations

import pandas as pd
import pytest

from erase_lib import EraseError
from erase_lib.concepts import concept_table
from erase_lib.measure import sensitivity_prompts


def test_a_concept_has_the_same_pictures_whatever_else_is_asked_for():
    alone = sensitivity_prompts(["dog"], 6)
    beside = sensitivity_prompts(["cat", "dog", "church"], 9, ["", "a photo"])
    dog = beside[beside["concept"] == "dog"].head(6).reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, dog)
    assert alone["style"].value_counts().tolist() == [2, 2, 1, 1]  # the styles in turn
    assert (alone["prompt"] == "a dog in " + alone["style"] + " style").all()
    assert beside["seed"].is_unique


def test_all_concepts_have_seeds_of_their_own():
    table = sensitivity_prompts(concept_table()["concept"].tolist(), 3, ["", "a photo"])
    assert table["seed"].is_unique
    assert not table["seed"].isin(range(1000, 9000)).any()  # of the evaluations, of the strengths


def test_neutral_concepts_are_their_own_prompt_without_a_style():
    table = sensitivity_prompts(["dog"], 2, ["", "a photo"], styles=["oil"])
    assert table["prompt"].tolist() == ["a dog in oil style"] * 2 + ["", "", "a photo", "a photo"]
    assert table["style"].notna().tolist() == [True] * 2 + [False] * 4


@pytest.mark.parametrize(
    ("concepts", "values", "words"),
    [
        ([], {}, r"concepts is \[\].* list"),
        ("dog", {}, "concepts is 'dog'.* list"),
        (["dog", "cat", "dog"], {}, "'dog' is there twice"),
        (["dog", "a photo"], {"neutral": ["a photo"]}, "'a photo' is there twice"),
        (["dog"], {"pictures": 0}, "pictures is 0: expected 1"),
    ],
)
def test_prompts_that_make_no_sense(concepts, values, words):
    with pytest.raises(EraseError, match=words):
        sensitivity_prompts(concepts, **values)
