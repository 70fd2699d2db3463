"""Words are compared in one form, and kept in one: no letter that nobody sees, no other case."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch

from erase_lib import EraseConfig, erase
from erase_lib.concepts import (
    check_concepts,
    drawn,
    forms_of,
    normal,
    search_words,
    tidy,
    vocabulary,
)
from erase_lib.search import new_search, new_searches
from erase_lib.text import encode_prompts

SAME = [
    "church",
    "Church",
    " church\n",
    "\ufeffchurch",
    "chu\u200brch",
    "church\u00a0",
    "CHURCH\u00ad",
]


def config(**values):
    return EraseConfig.from_profile("smoke", **({"targets": ["church"]} | values)).settled(True)


@pytest.mark.parametrize("word", SAME)
def test_the_same_word_is_one_wherever_words_are_compared(tmp_path, refused, word):
    assert normal(word) == "church" and config(targets=[word]).targets == (tidy(word),)
    if word != "church":  # the embedded model's own spelling is asked for, and named
        refused(check_concepts, [word], says=["did you mean", "'church'"])
    assert "church" not in search_words("concepts", [word])
    file = tmp_path / "words.txt"
    file.write_text(f"{word.strip()}\ndog\ncat\n", "utf-8")
    assert search_words(str(file), ["church"]) == ["dog", "cat"]
    for wrong in ({"neutral": word}, {"anchors": [word]}, {"method": "uce", "preserved": [word]}):
        refused(config, **wrong, says="target")
    refused(config, targets=["church", word], says="twice")


def test_accents_case_and_blanks():
    assert tidy(" Cafe\u0301  noir ") == "Caf\u00e9 noir" and normal("CAFE\u0301") == "caf\u00e9"
    assert normal("Straße") == normal("STRASSE") and normal("a\tb") == normal("a b") != normal("ab")
    assert tidy("C++") == "C++" and tidy("猫") == "猫" and tidy("") == normal("\u200b") == ""


TWICE = {"targets": ["dog", "Dog"], "styles": ["noto", "noto"], "preserved": ["cow", "\ufeffCOW"]}
CONTROL = ["a\nb", "a\0", "\0", "a\tb", "a\u2028b", "a\x1b[31m", "a\ud800"]


@pytest.mark.parametrize("name", TWICE)
def test_a_word_given_twice_is_refused(refused, name):
    refused(config, **{"method": "uce", name: TWICE[name]}, says=[name, "twice"])


@pytest.mark.parametrize("word", CONTROL)
@pytest.mark.parametrize("name", ["targets", "anchors", "preserved", "styles", "neutral"])
def test_line_breaks_and_control_characters_are_refused(refused, name, word):
    value = word if name == "neutral" else [word]
    refused(config, **{"method": "uce", name: value}, says=[name, "control character"])


def test_a_style_is_one_in_any_case():
    assert config(targets=["Noto Style"]).styles == ("twemoji", "fluent", "openmoji")
    assert forms_of("", (), "Noto STYLE")[1] == "a picture"


@pytest.mark.parametrize("word", ["👩‍🚀", "می‌خواهم"])
def test_what_joins_letters_stays_and_is_not_compared(word):
    bare = re.sub("[\u200c\u200d]", "", word)
    assert tidy(f" {word} ") == word != bare and normal(word) == normal(bare)
    assert config(targets=[word]).targets == (word,)
    for stray in ("church\u200d", "\u200cchurch", "chu\u200drch", "a \u200d church"):
        assert tidy(stray) == stray.replace("\u200d", "").replace("\u200c", "").replace("  ", " ")


NUMBERS = {"lam": np.float64(2.5), "steps": np.int64(3), "lr": np.float32(0.5), "hard": np.bool_(0)}
NUMBERS |= {"seed": np.uint32(7), "method": np.str_("uce"), "eta": 2}


def test_numbers_of_numpy_are_numbers_and_columns_are_lists(refused):
    made = config(**NUMBERS, targets=pd.Series(["dog", "cat"]), anchors=np.array(["bus"]))
    plain = {name: getattr(made, name) for name in NUMBERS}
    assert plain == NUMBERS and made.targets == ("dog", "cat") and made.anchors == ("bus",)
    assert [type(v) for v in plain.values()] == [float, int, float, bool, int, str, float]
    assert type(made.anchors[0]) is str
    for wrong in ({"lam": True}, {"steps": np.float64(3)}, {"steps": "3"}, {"lam": np.nan}):
        refused(config, **wrong, says=next(iter(wrong)))
    for wrong in ({"hard": np.int64(1)}, {"lam": 1j}, {"lam": 10**400}, {"targets": {"dog"}}):
        refused(EraseConfig.from_dict, {"targets": ["dog"]} | wrong, says=next(iter(wrong)))


@pytest.mark.parametrize(
    "given", [b"\xef\xbb\xbfchurch\r\ndog\r\n\r\nDog\r\ncat", b"church\rdog\rcat"]
)
def test_a_vocabulary_of_any_editor_is_read(tmp_path, given):
    file = tmp_path / "words.txt"
    file.write_bytes(given)
    assert vocabulary(str(file)) == ["church", "dog", "cat"]


TABLES = {
    "a header": b"word,rank\nchurch,1\ndog,2\n",
    "a header alone": b"word,rank\nchurch\ndog\n",
    "tabs": b"church\t1\ndog\t2\n",
    "semicolons": b"church;1\r\ndog;2\r\n",
    "NUL": b"church\ndog\0\ncat\n",
    "UTF-16": "church\ndog\n".encode("utf-16"),
    "Latin-1": b"caf\xe9\n",
    "nothing to see": "\ufeff\n\u200b\n".encode(),
    "an escape": b"church\n\x1b[2J\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_file_that_is_no_list_of_words_is_refused(tmp_path, refused, name):
    file = tmp_path / "words.txt"
    file.write_bytes(TABLES[name])
    refused(vocabulary, str(file), says="vocabulary")


def test_commas_within_words_are_no_table(tmp_path, refused):
    file = tmp_path / "words.csv"
    file.write_text("Salome, 1870\nOphelia, 1852\nword of honour\n")
    assert vocabulary(str(file))[0] == "Salome, 1870"
    file.write_text("word\nchurch\ndog\n")  # as data/emoji's own is
    refused(vocabulary, str(file), says="table 'word'")


def test_the_shipped_lists_hold_each_word_once_and_tidied():
    for name in ("concepts", "english"):
        words = vocabulary(name)
        assert len({normal(word) for word in words}) == len(words) and words == [*map(tidy, words)]


def test_age_and_an_anchor_pair_up_with_the_prompts_of_a_style(tiny):
    given = {"targets": ["noto style"], "steps": 2, "nearest": 6, "candidates": 3}
    age = config(method="age", **given)
    assert len(new_searches(tiny, age, new_search)[0].embeddings) == 2 + len(drawn())
    assert all(t.isfinite().all() for t in erase(tiny, age, []).tensors.values())
    ca = config(method="ca", anchors=["fluent style"], **given)
    (search,) = new_searches(tiny, ca, new_search)
    assert search.embeddings.texts == forms_of("fluent style", (), "noto style")
    kept = config(method="esd_neutral", neutral="fluent style", **given)
    assert new_searches(tiny, kept, new_search)[0].embeddings.texts == search.embeddings.texts
    both = config(method="ca", anchors=["house"], **given | {"targets": ["noto style", "church"]})
    lengths = [len(search.embeddings) for search in new_searches(tiny, both, new_search)]
    assert lengths == [2 + len(drawn()), 3 + len(both.styles)]


def test_a_vocabulary_may_hold_styles(tiny, tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("dog\nVan Gogh style\ncat\nbus\n")
    given = {"vocabulary": str(file), "nearest": 4, "candidates": 4, "steps": 2}
    things = drawn()[:2]
    assert forms_of("Van Gogh style", ("noto",))[2:] == [f"a {t} in Van Gogh style" for t in things]
    for method in ("eap_closed", "eap", "age"):
        made = erase(tiny, config(method=method, **given), [])
        assert all(t.isfinite().all() for t in made.tensors.values())


def test_measures_know_a_target_in_any_case(tiny, refused):
    from erase_lib.measure import prompts, read_suite, summary

    near, far = prompts.near_and_far(tiny, ["Church"], 2, 3, words=["church", *"abcdef"])
    assert "church" not in near + far
    asked = prompts.suite_prompts(tiny, read_suite("objects"), ["Church"])
    kept = set(asked.loc[asked["group"] != "target", "concept"].str.lower())
    assert kept and "church" not in kept
    told = pd.DataFrame({"prompt": ["a", "b"], "concept": ["church", "dog"], "seed": 0, "rank": 0})
    told = told.assign(measured_by="x", seconds=0.0)
    rows = summary(told, told, ["CHURCH"]).set_index(["metric", "model"])
    assert rows.loc[("ESR-1", "original"), "n"] == rows.loc[("PSR-1", "original"), "n"] == 1


def test_embeddings_do_not_hang_on_what_nobody_sees(tiny):
    plain, other = (encode_prompts(tiny, [config(targets=[w]).targets[0]]) for w in SAME[::3][:2])
    assert torch.equal(plain, other)


def test_a_vocabulary_may_lie_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "words.txt").write_text("owl\nfox\n", "utf-8")
    assert vocabulary("~/words.txt") == ["owl", "fox"]
