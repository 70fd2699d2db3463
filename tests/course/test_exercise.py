"""What a check says of an answer that is missing, wrong in several ways, or right."""

import numpy as np
import pandas as pd
import pytest
import torch

from course.exercise import check, mistakes, unfilled

NUMBER = (lambda a: a == a + 0, "a number is asked for")
HALF = (
    lambda a: abs(a - 0.5) < 0.01,
    lambda a: f"{a:.2f} is {'over' if a > 0.5 else 'under'}",
)


@pytest.mark.parametrize("answer", [None, ..., "", [], {}, pd.DataFrame(), np.array([])])
def test_an_unfilled_answer_is_not_yet(answer, capsys):
    assert unfilled(answer)
    check(answer, HALF, right="yes")
    assert capsys.readouterr().out == "not yet\n"


@pytest.mark.parametrize("answer", [0, 0.0, False, torch.tensor(0.0), np.float64(0), "0"])
def test_nought_is_an_answer(answer):
    assert not unfilled(answer)


def test_the_first_test_that_does_not_hold_speaks(capsys):
    check(0.9, NUMBER, HALF, (lambda a: False, "never reached"), right="yes")
    assert capsys.readouterr().out == "not right: 0.90 is over\n"
    check(0.5, NUMBER, HALF, right="a half")
    check(0.5, NUMBER, HALF)
    check(0.5, right=lambda a: f"{a:.0%}")
    assert capsys.readouterr().out == "right: a half\nright\nright: 50%\n"


def test_an_answer_of_another_kind_stops_nothing(capsys):
    check("a half", NUMBER, HALF)
    said = capsys.readouterr().out
    assert said.startswith("not right: a number is asked for") and said.count("\n") == 1
    check([0.5], HALF)  # neither the test nor its text can take a list
    said = capsys.readouterr().out
    assert said.startswith("not right: [0.5]") and "TypeError" in said


def test_a_function_is_asked_with_what_is_given(capsys):
    check(lambda x, y: (x + y) / 2, HALF, given=(0, 1), right="a mean")
    for answer in (lambda x, y: x + y, lambda x, y: None, None):
        check(answer, HALF, given=(0, 1))
    for answer in (lambda x, y: x / y, lambda x: x):
        check(answer, HALF, given=(1, 0))
    check(lambda: 0.5, HALF, given=())
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == ["right: a mean", "not right: 1.00 is over", "not yet", "not yet"]
    for line, error in zip(said[4:], ("ZeroDivisionError", "TypeError"), strict=False):
        assert line.startswith("not right: ") and error in line
    assert said[6] == "right"


def test_a_table_or_tensor_is_no_truth_value_of_a_test(capsys):
    check(torch.tensor([1.0, 2.0]), (lambda a: a > 0, "all of them"))
    assert capsys.readouterr().out.startswith("not right: all of them")


def test_a_likely_mistake_is_named_unless_it_gives_the_truth_too(capsys):
    wrong = {"the square": 4, "the same by chance": 2, "upside down": 0.5}
    for answer in (4, 2, 0.5, 3):
        check(answer, *mistakes(2, wrong), (lambda a: a == 2, "something else"))
    said = ["not right: the square", "right", "not right: upside down", "not right: something else"]
    assert capsys.readouterr().out.splitlines() == said
    near = mistakes(2, {"the square": 4}, lambda a, b: abs(a - b) < 0.1)
    for answer in (4.05, 2.05):
        check(answer, *near)
    check([4], *near)
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["not right: the square", "right"]
    assert said[2].startswith("not right: the square (TypeError")
