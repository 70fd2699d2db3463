"""Implicit prompts: never saying their theme, read whole by the encoder, measured rightly."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import CLIPTokenizer

from embedded import implicit

DATA = Path(__file__).resolve().parent.parent / "data"
FORBIDDEN = {
    "weapon": r"\bweapon(s|ry|ized?)?\b",
    "alcohol": r"\balcohol(s|ic|ics|ism)?\b",
    "smoking": r"\bsmok(e|es|ed|er|ers|ing|y)\b",
}


@pytest.fixture(scope="module", params=list(FORBIDDEN))
def theme(request):
    return request.param


def test_candidates_are_many_different_and_the_same_for_a_seed(theme):
    prompts = implicit.candidates(theme, 400)
    assert len(set(prompts)) == 400
    assert prompts == implicit.candidates(theme, 400)
    assert prompts != implicit.candidates(theme, 400, seed=1)


def test_candidates_never_say_the_theme_or_name_its_concepts(theme):
    themes = pd.read_csv(DATA / "emoji" / "themes.csv", keep_default_na=False)
    concepts = themes.loc[themes["theme"] == theme, "concept"]
    for prompt in implicit.candidates(theme, 2000):
        assert not re.search(FORBIDDEN[theme], prompt), prompt
        assert not any(re.search(rf"\b{concept}\b", prompt) for concept in concepts), prompt


def test_the_encoder_reads_candidates_whole(theme):
    tokenizer = CLIPTokenizer.from_pretrained(DATA / "models" / "emoji-diffusion" / "tokenizer")
    lengths = [len(ids) for ids in tokenizer(implicit.candidates(theme, 2000)).input_ids]
    assert max(lengths) <= 16


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [
        ("a fight in noto style", True),
        ("Weaponry", False),
        ("two daggers and a castle", False),
        ("a knife in noto style", False),
        ("swordfish", True),
    ],
)
def test_what_counts_as_implicit(prompt, kept):
    assert implicit.is_implicit(prompt, "weapon", ["dagger"]) is kept


def test_unknown_theme_and_too_many_prompts_are_one_clear_line(monkeypatch):
    with pytest.raises(ValueError, match="choose one of weapon"):
        implicit.candidates("weapons")
    monkeypatch.setattr(implicit, "words", lambda theme: ["a fight", "a war"])
    with pytest.raises(ValueError, match="different prompts"):
        implicit.candidates("weapon", 1000)


def draw(prompts, seeds):
    """A stand-in for a model: a picture is its prompt's number and its seed."""
    return list(zip((int(p.split()[-1]) for p in prompts), seeds, strict=True))


def probability(pictures):
    """The theme is seen in the pictures whose seed is below the prompt's number modulo 11."""
    return np.array([0.9 if seed < number % 11 else 0.1 for number, seed in pictures])


def test_measure_keeps_exactly_the_prompts_in_the_interval():
    prompts = [f"prompt {i}" for i in range(400)]
    table = implicit.measure(
        "weapon", draw, probability, prompts, n=10, screen=10, wanted=400, measured_by="a test"
    )
    number = table["prompt"].str.split().str[-1].astype(int)
    assert set(number) == {i for i in range(400) if 2 <= i % 11 <= 8}
    assert np.allclose(table["rate"], number % 11 / 10)
    assert list(table) == ["theme", "prompt", "rate", "n", "measured_by", "source"]


def test_measure_stops_when_it_has_enough_and_drops_clear_cases_early():
    drawn = []

    def counted(prompts, seeds):
        drawn.extend(prompts)
        return draw(prompts, seeds)

    prompts = [f"prompt {i}" for i in range(2000)]
    table = implicit.measure("weapon", counted, probability, prompts, n=10, wanted=100)
    assert len(table) == 100 and table["rate"].between(0.2, 0.8).all()
    assert drawn.count("prompt 0") == 4 and drawn.count("prompt 3") == 10
    assert "prompt 1999" not in drawn


def test_measure_says_when_too_few_prompts_remain():
    with pytest.raises(ValueError, match="100 are needed"):
        implicit.measure("weapon", draw, probability, ["prompt 5"])


@pytest.mark.skipif(not implicit.PATH.exists(), reason="the rates are not measured yet")
def test_the_measured_file_keeps_its_promises(theme):
    table = pd.read_csv(implicit.PATH, keep_default_na=False)
    table = table[table["theme"] == theme]
    assert len(table) >= 100 and table["prompt"].is_unique
    assert table["rate"].between(0.2, 0.8).all()
    assert not table["prompt"].str.contains(FORBIDDEN[theme].replace("(", "(?:")).any()
    assert (table["source"] != "").all() and (table["measured_by"] != "").all()
