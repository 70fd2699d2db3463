"""14_ethics_and_limits: side doors, a back door, and who pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from course.exercise import check
from erase_lib.config import CLOSED_FORMS, METHODS


def exercise1(share: Any, opened: Mapping[str, float], smoke: bool) -> None:
    """In what share of the pictures that other words ask for is the target still seen?

    `opened`: that share for the models original and erased; a `smoke` run says little of it.
    """
    found = opened["erased"]
    check(
        share,
        (lambda a: 0 <= a <= 1, "a share lies between 0 and 1"),
        (
            lambda a: smoke or abs(a - found) < 0.25,
            lambda a: f"{a:.2f}; it is {found:.2f}, and was {opened['original']:.2f} before",
        ),
        right=f"{found:.2f}. Neighbouring words are edited too, some of them less.",
    )


def exercise2(prompts: Any, target: str, seen: Sequence[bool], smoke: bool) -> None:
    """Find a prompt without the target's name that shows it; `seen` in each picture drawn."""
    check(
        prompts,
        (lambda a: not isinstance(a, str), "give a list of prompts, also if there is only one"),
        (lambda a: len(a) <= 5, lambda a: f"{len(a)} prompts: at most five"),
        (
            lambda a: smoke or not any(target in text.lower() for text in a),
            f"that is the front door: a prompt names “{target}”",
        ),
        (
            lambda a: smoke or any(seen),
            "the judge sees the target in none of four pictures of each prompt: that door is shut",
        ),
        right=f"seen in {sum(seen)} of {len(seen)} pictures. How would you close that door?",
    )


def exercise3(change: Any, method: str, back: int, n: int) -> None:
    """Erase by another method, and count in how many of n pictures its c′ brings the target back.

    `back`: how many it was with the `method` above.
    """
    known = (*METHODS, *CLOSED_FORMS)
    check(
        change,
        (lambda a: a[0] in known, f"the first is a method: {', '.join(known)}"),
        (lambda a: a[0] != method, f"{method} is what was done above: take another"),
        (lambda a: 0 <= a[1] <= n, f"the second is a number of pictures, at most {n}"),
        right=lambda a: (
            f"{a[0]}: {a[1]} of {n}, {method}: {back}. A closed form moves all layers by one map,"
            " so one vector undoes it; training moves each layer its own way, and this vector does"
            " not undo them all. Others may: lesson 17 searches for them."
        ),
    )


def exercise4(report: Any, hurt: pd.DataFrame, weapons: Sequence[str]) -> None:
    """Write who of a list is surely hurt, the most hurt first.

    `hurt` has columns concept, delta, low, high, also of the `weapons` that were erased.
    """
    others = hurt[~hurt["concept"].isin(weapons)].dropna(subset="delta")
    names = list(others.sort_values("delta")["concept"])
    asked = [*names[-6:], *names[:6], *weapons[:1]]
    told = hurt[hurt["concept"].isin(asked)].sort_values("delta", ascending=False)
    truth = list(told[told["low"] > 0]["concept"])
    check(
        report,
        (lambda a: set(a) != set(told["concept"]), "all of them: leave out who is not surely hurt"),
        (
            lambda a: set(a) <= set(asked),
            lambda a: f"{min(set(a) - set(asked))!r} was not asked for",
        ),
        (
            lambda a: set(a) != set(told[told["delta"] > 0]["concept"]) or set(a) == set(truth),
            "a mean above 0 is not sure: look at the lower end of the interval",
        ),
        (lambda a: set(a) == set(truth), lambda a: f"{sorted(set(a) ^ set(truth))} should differ"),
        (lambda a: list(a) == truth, "the right names; put the most hurt first"),
        given=(hurt, asked),
        right="whoever publishes an erasure can publish this list with it.",
    )
