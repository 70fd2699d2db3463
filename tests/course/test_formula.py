"""Formulas as a browser needs them."""

from xml.etree.ElementTree import fromstring

import pytest

from course.formula import mathml


def tags(latex, display=True):
    """The formula's element, its tags without their namespace, and its text."""
    root = fromstring(mathml(latex, display))
    names = [element.tag.split("}")[1] for element in root.iter()]
    return root, names, "".join(root.itertext())


def test_on_a_line_of_its_own_or_in_a_line():
    assert tags("x", True)[0].get("display") == "block"
    assert tags("x", False)[0].get("display") == "inline"


@pytest.mark.parametrize("latex", [r"\min_c x", r"\max_{c} x"])
def test_limits_stand_under_their_operator(latex):
    assert "munder" in tags(latex)[1] and "msub" not in tags(latex)[1]
    assert "munder" not in tags(latex, display=False)[1]
    assert "munder" not in tags("x_c")[1]


@pytest.mark.parametrize("size", ["", r"\big", r"\Big", r"\bigg", r"\Biggl"])
def test_a_double_bar_of_any_size(size):
    assert tags(rf"{size}\| x {size}\|")[2] == "‖x‖"


def test_letters_of_other_alphabets_are_characters():
    root, _, text = tags(r"\mathcal N \mathcal R \mathbb E \mathbb R")
    assert text == "𝒩ℛ𝔼ℝ" and "mathvariant" not in mathml(r"\mathcal N", True)


def test_names_are_one_word_and_upright():
    assert "softmax" in [e.text for e in tags(r"\mathrm{softmax}(x)")[0].iter()]
    assert tags(r"\arg\max_c")[2] == "argmaxc"


def test_hats_bars_and_primes():
    for latex, sign in ((r"\hat z", "ˆ"), (r"\bar\alpha", "¯")):
        root, names, text = tags(latex)
        assert "mover" in names and text[-1] == sign and 'accent="true"' in mathml(latex, True)
    assert "msup" not in tags(r"\theta'")[1] and tags(r"\theta'")[2] == "θ′"
    assert "msup" in tags(r"\theta^2")[1]


def test_signs_are_themselves():
    assert tags(r"a = b < c & d".replace("&", r"\&"))[2] == "a=b<c&d"
