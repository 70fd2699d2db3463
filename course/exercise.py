"""Checks of the exercises: what is still open, what is wrong and why, and what is right.

A check prints and never raises, so that a wrong answer does not stop the rest of a notebook. What
it prints begins with one of three words: ``not yet``, ``not right`` or ``right``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import eq
from typing import Any

from erase_lib.errors import reason

NOT_YET, WRONG, RIGHT = "not yet", "not right", "right"

# what must hold of an answer, and what to say where it does not
Test = tuple[Callable[[Any], Any], str | Callable[[Any], str]]


def unfilled(answer: Any) -> bool:
    """Whether nothing was answered: None, the three dots, or an empty text, list, table or dict."""
    if answer is None or answer is ...:
        return True
    try:
        return len(answer) == 0
    except TypeError:  # a number, a function, or a tensor of no dimension
        return False


def check(
    answer: Any, *tests: Test, given: tuple[Any, ...] | None = None, right: str | Callable = ""
) -> None:
    """Print whether an answer is right, and if not, what is wrong with it.

    ``tests`` are asked in their order, and the first that does not hold speaks; its text may be a
    function of the answer. A test that the answer makes stumble does not hold either. With
    ``given`` the answer is a function, and what is tested is what it returns of these arguments.
    ``right`` is what there is to learn once it is solved.
    """
    if given is not None and not unfilled(answer):
        try:
            answer = answer(*given)
        except Exception as error:  # the reader's own code: anything can happen
            print(f"{WRONG}: your code stopped with {type(error).__name__}: {reason(error)}")
            return
    if unfilled(answer):
        print(NOT_YET)
        return
    for holds, text in tests:
        try:
            passed, stumbled = bool(holds(answer)), ""
        except Exception as error:
            passed, stumbled = False, f" ({type(error).__name__}: {reason(error)})"
        if not passed:
            print(f"{WRONG}: {_said(text, answer)}{stumbled}")
            return
    print(f"{RIGHT}: {_said(right, answer)}" if right else RIGHT)


def mistakes(
    truth: Any, wrong: Mapping[str, Any], same: Callable[[Any, Any], Any] = eq
) -> list[Test]:
    """Tests for likely mistakes: an answer that is the `same` as a wrong one is told which.

    ``wrong`` has what each mistake gives under the text for it; one that gives the truth as well
    is no mistake.
    """

    def avoids(value: Any) -> Callable[[Any], Any]:
        return lambda answer: same(answer, truth) or not same(answer, value)

    return [(avoids(value), text) for text, value in wrong.items()]


def _said(text: str | Callable[[Any], str], answer: Any) -> str:
    """The text, or what its function says of the answer, where it can say anything."""
    if isinstance(text, str):
        return text
    try:
        return text(answer)
    except Exception:
        return f"{answer!r:.80} is not of the kind that is asked for"
