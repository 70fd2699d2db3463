"""Checks of 07_compare."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from course.exercise import check, mistakes
from erase_lib import measure, study

CONTROL = "eap, random"


def exercise1(answer: str, levels: pd.DataFrame, runs: pd.DataFrame) -> None:
    """What keeps the method of the smallest strength, by PSR-1 near: most, least, or between?

    `levels` as `study.levels` makes them; `runs` with the columns setting and strength.
    """
    near = (levels["group"] == "near") & (levels["metric"] == "PSR-1")
    kept = levels[near].set_index("setting")["value"].drop("original", errors="ignore")
    done = runs[runs["setting"].isin(kept.index)]
    name = done.groupby("setting")["strength"].mean().idxmin()
    place = {kept.max(): "most", kept.min(): "least"}.get(kept[name], "between")
    check(
        answer,
        (lambda a: a in ("most", "least", "between"), 'answer "most", "least" or "between"'),
        (
            lambda a: a == place or a != "most",
            "a small strength is no small edit: it is a small part of an edit that was too large",
        ),
        (
            lambda a: a == place or a != "between",
            "it is at an end. What made its edit so large that most of it could be taken back?",
        ),
        (lambda a: a == place, lambda a: f"{name} keeps {kept[name]:.2f}: {place}"),
        right=lambda a: (
            f"{name} keeps {kept[name]:.2f} of the neighbours' pictures, from {kept.min():.2f} to"
            f" {kept.max():.2f} of all. Strength makes methods comparable, but is itself no measure"
            " of harm: it says how far a method overshot, not whom it hit."
        ),
    )


def exercise2(answer: int | None, gaps: pd.DataFrame, overlap: pd.DataFrame, base: str) -> None:
    """For how many methods that overlap with `base` does the interval of the difference leave 0?

    `gaps` as `study.differences` makes them; the index of `overlap` names these methods.
    """
    both = gaps[(gaps["group"] == "near") & gaps["setting"].isin(overlap.index)]
    clear = both[(both["low"] > 0) | (both["high"] < 0)]
    check(
        answer,
        (lambda a: 0 <= a <= len(overlap), f"a number from 0 to {len(overlap)} is asked for"),
        (
            lambda a: a == len(clear) or a != 0,
            "overlapping intervals can hide a difference: in a pair, what is hard for both cancels",
        ),
        (
            lambda a: a == len(clear) or a != len(overlap),
            "pairing sharpens, but it makes no difference where there is hardly any",
        ),
        (
            lambda a: a == len(clear),
            lambda a: f"it is {len(clear)}: see the rows near in the table",
        ),
        right=lambda a: (
            f"apart from {base}: {', '.join(clear['setting']) or 'none'}, of the overlapping"
            f" {', '.join(overlap.index) or 'none'}. Whether two intervals overlap is no test; ask"
            " for the interval of the difference."
        ),
    )


def exercise3(answer: Callable, gaps: np.ndarray, signs: np.ndarray) -> None:
    """p of a sign-flip test, a function of the differences and of random signs.

    `gaps (units,)`, and `signs (flips, units)`, each −1 or 1.
    """
    true, sums, found = measure.flipped(gaps), signs @ gaps, gaps.sum()
    upper, lower = (sums >= found - 1e-9).mean(), (sums <= found + 1e-9).mean()
    strict = (np.abs(sums) > abs(found) + 1e-9).mean()
    mixed = (np.abs(sums) >= abs(gaps.mean()) - 1e-9).mean()
    bare = (np.abs(sums) >= abs(found) - 1e-9).mean()
    check(
        answer,
        (lambda a: 0 <= a <= 1, "p is a share: a number from 0 to 1"),
        (
            lambda a: abs(a - true) < 1e-6 or min(abs(a - upper), abs(a - lower)) > 2e-4,
            "one direction only: a method could as well have been worse. Take the absolute value",
        ),
        (
            lambda a: abs(a - true) < 1e-6 or abs(a - 1 + true) > 2e-4,
            "upside down: count the flips that are at least as far from 0 as what was found",
        ),
        (
            lambda a: abs(a - true) < 1e-6 or abs(a - mixed) > 2e-4,
            "a sum compared with a mean: take the sum, or the mean, of both",
        ),
        (
            lambda a: abs(a - true) < 1e-6 or abs(a - strict) > 2e-4,
            "flips that are just as far count too: at least as far",
        ),
        (
            lambda a: abs(a - true) < 1e-6 or abs(a - bare) > 1e-6,
            "almost: count what was found as one flip more, in (1 + found) / (1 + flips)",
        ),
        (
            lambda a: abs(a - true) < 2e-3,
            lambda a: f"{a:.4f}, but measure.flipped finds {true:.4f}",
        ),
        given=(gaps, signs),
        right=lambda a: (
            f"p = {a:.4f}, as in the table. No bell curve was assumed: only that without an effect"
            " the two methods could have changed places."
        ),
    )


def exercise4(answer: int | None, pictures: pd.DataFrame, gaps: pd.DataFrame, base: str) -> None:
    """How many methods are told apart from a search at random, by q below .05?

    `pictures` as `study.read_runs` reads them, and the differences `gaps` to `base`.
    """
    erased = pictures[pictures["setting"] != "original"]
    control = CONTROL if CONTROL in set(erased["setting"]) else base
    true = study.differences(erased, [("near", "PSR-1")], control)
    apart = true[true["q"] < 0.05]
    better, by_p = apart[apart["value"] > 0], true[true["p"] < 0.05]
    wrong = {
        f"that is against {base}: change the last argument to {control!r}": (
            (gaps["group"] == "near") & (gaps["q"] < 0.05)
        ).sum(),
        "by p, or by an interval without 0: you asked many questions at once, so read q": len(by_p),
        "that counts only those that keep more; count those that keep less too": len(better),
    }
    check(
        answer,
        (lambda a: 0 <= a <= len(true), f"a number from 0 to {len(true)} is asked for"),
        *mistakes(len(apart), wrong),
        (
            lambda a: a == len(apart),
            f"count the rows with q below .05 when {control!r} is the base",
        ),
        right=lambda a: (
            f"{', '.join(apart['setting']) or 'none'}; of these {len(better)} keep more than chance"
            f" does. By p it would have been {len(by_p)}. That a method beats {base} does not show"
            " that its search is good for anything: the control does."
        ),
    )


def exercise5(answer: int | None, pictures: pd.DataFrame) -> None:
    """In how many splits is the method that keeps most of the neighbours over all first as well?"""
    near = pictures[(pictures["group"] == "near") & (pictures["setting"] != "original")]
    found = study.units(near, "PSR-1")
    first = found.groupby("setting")["value"].mean().idxmax()
    each = found.pivot_table(index="targets", columns="setting", values="value")
    true = int((each[first] >= each.max(axis=1) - 1e-9).sum())
    kinds = each.idxmax(axis=1).nunique()
    check(
        answer,
        (lambda a: 0 <= a <= len(each), f"there are {len(each)} splits"),
        (
            lambda a: a == true or a != len(each),
            "not in all of them. Is `targets` among the columns that you group by?",
        ),
        (
            lambda a: a == true or a != kinds,
            "that is how many different methods win a split; in how many does the same one win?",
        ),
        (lambda a: a == true, f"look for {first!r} in each split: is anyone above it?"),
        right=lambda a: (
            f"{first} is first over all and in {a} of {len(each)} splits, where"
            f" {'; '.join(each.idxmax(axis=1).unique())} lead. Who publishes one split publishes,"
            " among methods this close, a draw."
        ),
    )
