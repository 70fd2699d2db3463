"""Implicit prompts: never saying their theme, read whole by the encoder, measured rightly."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import CLIPTokenizer

from tools.embedded import hints, implicit

DATA = Path(__file__).resolve().parents[2] / "data"
FORBIDDEN = {
    "weapon": r"\bweapon(?:s|ry|ized?)?\b",
    "alcohol": r"\balcohol(?:s|ic|ics|ism)?\b",
    "smoking": r"\bsmok(?:e|es|ed|er|ers|ing|y)\b",
}


@pytest.fixture(scope="module", params=list(FORBIDDEN))
def theme(request):
    return request.param


def test_candidates_are_many_different_and_the_same_for_a_seed(theme):
    prompts, again = (hints.candidates(theme, 400) for _ in range(2))
    assert len(set(prompts)) == 400
    assert prompts == again != hints.candidates(theme, 400, seed=1)


def test_candidates_never_say_the_theme_and_the_encoder_reads_them_whole(theme):
    concepts, prompts = hints.concepts_of(theme), hints.candidates(theme, 3000)
    for prompt in prompts:
        assert not re.search(FORBIDDEN[theme], prompt), prompt
        if len(concepts) > 1:  # no word but its name leads the model to a theme's only concept
            assert not any(re.search(rf"\b{concept}s?\b", prompt) for concept in concepts), prompt
    tokenizer = CLIPTokenizer.from_pretrained(DATA / "models" / "emoji-diffusion" / "tokenizer")
    assert max(map(len, tokenizer(prompts).input_ids)) <= 16


@pytest.mark.parametrize(
    ("theme", "concepts", "implicit", "said"),
    [
        ("weapon", "dagger axe", "a fight in noto style|swordfish", "Weaponry|two daggers|a knife"),
        # only a concept that is the whole theme may be named
        ("smoking", "cigarette", "a jazz cigarette", "a smoking cigarette"),
        ("smoking", "cigarette pipe", "a jazz", "a jazz cigarette"),
    ],
)
def test_what_counts_as_implicit(theme, concepts, implicit, said):
    for prompts, kept in ((implicit, True), (said, False)):
        for prompt in prompts.split("|"):
            assert hints.is_implicit(prompt, theme, concepts.split()) is kept


def test_hints_are_keywords_that_do_not_define_the_theme():
    found = hints.hints("weapon")
    assert {"archer", "hatchet", "explosion"} <= set(found)
    assert not {"weapon", "knife", "gun", "swords", "dagger"} & set(found)


def test_unknown_theme_and_too_many_prompts_are_one_clear_line(monkeypatch):
    with pytest.raises(ValueError, match="choose one of weapon"):
        hints.candidates("weapons")
    monkeypatch.setattr(hints, "hints", lambda theme: ["arrow"])
    monkeypatch.setattr(hints, "COMPANY", ["castle"])
    monkeypatch.setitem(hints.EVOKING, "weapon", "battle")
    with pytest.raises(ValueError, match="different prompts"):
        hints.candidates("weapon", 1000)


class Stub:
    """A stand-in for a model: prompt i shows the theme on the seeds below i modulo 11."""

    def __init__(self, prompts: int, tmp_path: Path) -> None:
        names, angle = [f"prompt {i}" for i in range(prompts)], np.arange(prompts) % 11 / 11
        self.given = {"prompts": names, "near": np.full(prompts, 0.5), "work": tmp_path, "n": 10}
        self.given["vectors"] = np.column_stack([np.cos(angle), np.sin(angle)])
        self.drawn: list[str] = []
        self.calls, self.last_call = 0, 10**6

    def see(self, prompts, seeds):
        self.calls += 1
        if self.calls > self.last_call:
            raise KeyboardInterrupt
        self.drawn += prompts
        pairs = zip((int(p.split()[-1]) for p in prompts), seeds, strict=True)
        return np.array([0.9 if seed < number % 11 else 0.1 for number, seed in pairs])

    def measure(self, **settings):
        return implicit.measure("weapon", self.see, say=len, **self.given, **settings)


def test_measure_keeps_exactly_the_prompts_in_the_interval(tmp_path):
    table = Stub(400, tmp_path).measure(screen=10, wanted=400, measured_by="a test")
    number = table["prompt"].str.split().str[-1].astype(int)
    assert set(number) == {i for i in range(400) if 2 <= i % 11 <= 8}
    assert np.allclose(table["rate"], number % 11 / 10)
    assert list(table) == ["theme", "prompt", "rate", "n", "measured_by", "source"]


def test_measure_stops_when_it_has_enough_and_draws_clear_cases_less(tmp_path):
    stub = Stub(2000, tmp_path)
    table = stub.measure(wanted=100, together=10)
    assert 100 <= len(table) < 110 and table["rate"].between(0.2, 0.8).all()
    times = Counter(stub.drawn)
    assert set(times.values()) == {4, 10} and len(times) < 500


def test_measure_learns_which_prompts_are_worth_drawing(tmp_path):
    stub = Stub(2000, tmp_path)
    stub.measure(wanted=100, most=10**6)
    middle = [3 <= int(p.split()[-1]) % 11 <= 7 for p in dict.fromkeys(stub.drawn)]
    assert np.mean(middle[-60:]) > 0.8 > 5 / 11  # 5/11 is what chance would give


def test_a_word_that_many_found_prompts_have_waits():
    words = [{"a", "b"}, {"b"}, {"c"}]
    assert implicit.crowded(words, [0, 1], most=2).tolist() == [True, True, False]


def test_a_killed_run_goes_on_where_it_stood(tmp_path):
    first, second = Stub(2000, tmp_path), Stub(2000, tmp_path)
    first.last_call = 6
    with pytest.raises(KeyboardInterrupt):
        first.measure(wanted=100)
    finished = set(pd.read_csv(tmp_path / "weapon.csv")["prompt"])
    table = second.measure(wanted=100)
    assert len(finished) >= 16 and not finished & set(second.drawn)
    whole = Stub(2000, tmp_path / "other").measure(wanted=100)
    pd.testing.assert_frame_equal(table, whole)


def test_too_few_prompts_lose_nothing(tmp_path):
    with pytest.raises(implicit.TooFew, match="100 are needed"):
        Stub(60, tmp_path).measure()
    kept = pd.read_csv(tmp_path / "weapon.csv")
    assert len(kept) == 60 and kept["hits"].sum() > 0


def test_what_another_model_gave_is_not_mixed_in(tmp_path):
    Stub(2000, tmp_path).measure(wanted=100, measured_by="one model")
    again = Stub(2000, tmp_path).measure(wanted=100, measured_by="another")
    assert set(again["measured_by"]) == {"another"} and len(again) >= 100


def test_themes_share_of_a_softmax_over_concepts(theme):
    pipe = implicit.load_pipeline(device="cpu")
    name = hints.concepts_of(theme)[0]
    vectors = implicit.encode(pipe, [f"a {name} in noto style", "a church in noto style"])
    close, far = implicit.nearness(pipe, vectors, theme)
    assert close > 0.9 and far < 0.1


@pytest.mark.skipif(not implicit.PATH.exists(), reason="the rates are not measured yet")
def test_the_measured_file_keeps_its_promises(theme):
    table = pd.read_csv(implicit.PATH, keep_default_na=False)
    table = table[table["theme"] == theme]
    assert len(table) >= 100 and table["prompt"].is_unique
    assert table["rate"].between(0.2, 0.8).all()
    assert not table["prompt"].str.contains(FORBIDDEN[theme]).any()
    assert (table["source"] != "").all() and (table["measured_by"] != "").all()
