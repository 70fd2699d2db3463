"""11_ablations: what one setting at a time says, and what it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from course.exercise import check, mistakes
from erase_lib.sweep import expand


def exercise1(guess: Any, runs: pd.DataFrame) -> None:
    """Is the strength that η = 0 needs smaller than that of η = 1, the same, or larger?

    `runs` has a row for each metric of a run: columns metric, eta, value.
    """
    rows = runs[runs["metric"] == "strength"]
    need = rows.groupby(rows["eta"].astype(float))["value"].mean()
    gap = need.loc[need.index.min()] - need.loc[need.index.max()]
    truth = "same" if abs(gap) < 1e-9 else "larger" if gap > 0 else "smaller"
    wrong = {
        "upside down: the smaller *edit* needs the larger strength, which multiplies it": "smaller",
        "the updates are the same, their goal is not: how far is θ' when it is reached?": "same",
    }
    check(
        guess,
        (lambda a: a in ("smaller", "same", "larger"), 'answer "smaller", "same" or "larger"'),
        *mistakes(truth, wrong),
        (lambda a: a == truth, f"measured, by η: {need.round(2).to_dict()}"),
        right=f"on average, by η: {need.round(2).to_dict()}. Above 1 an edit is taken further than"
        " it was trained; whether that costs more than pushing during training, PSR-1 near says.",
    )


def exercise2(worse: Any, pairs: pd.DataFrame) -> None:
    """How many changes are worse for every target by δ near?

    `pairs` has a row for each change, target and seed, and the columns PSR-1 near and δ near: the
    change minus the default.
    """

    def whole(hurt: pd.Series) -> pd.Series:
        return hurt.groupby("change").all()

    by_psr, by_delta = whole(pairs["PSR-1 near"] < 0), whole(pairs["δ near"] > 0)
    kinder = whole(pairs["δ near"] < 0).sum()
    truth = by_delta.sum()
    wrong = {
        "that is still by PSR-1: take the column δ near": by_psr.sum(),
        "upside down: δ is what was lost, so the larger it is the worse": kinder,
        "worse for *any* target: it has to be so for all of them": (pairs["δ near"] > 0)
        .groupby("change")
        .any()
        .sum(),
        "these are runs, not changes: group by the change first": (pairs["δ near"] > 0).sum(),
    }
    check(
        worse,
        (lambda a: 0 <= a <= len(by_delta), f"a number from 0 to {len(by_delta)} is asked for"),
        *mistakes(truth, wrong),
        (
            lambda a: a == truth,
            "count the changes whose difference in δ near is above 0 in every run",
        ),
        right=lambda a: (
            f"{a} by δ ({', '.join(by_delta.index[by_delta])}), {by_psr.sum()} by PSR-1"
            f" ({', '.join(by_psr.index[by_psr]) or 'none'}). A finer measure sees more, but with"
            f" {pairs.index.get_level_values('targets').nunique()} targets signs often agree by"
            f" chance: in {kinder} changes all of them were better."
        ),
    )


def exercise3(grid: Any, settings: Sequence[str]) -> None:
    """Write the grid that could tell what λ and η do together; `settings` are all there are."""

    def corners(cases: Any) -> set[tuple[float, float]]:
        return {(case["lam"], case["eta"]) for case in cases}

    def each_once(a: Any) -> bool:
        cases = expand(a)
        targets = {str(case["targets"]) for case in cases}
        apart = {(str(case["targets"]), case["lam"], case["eta"]) for case in cases}
        return len(apart) == len(cases) == 4 * len(targets)

    asked = {(lam, eta) for lam in (1.0, 20.0) for eta in (0.0, 1.0)}
    check(
        grid,
        (
            lambda a: set(a) <= {"fixed", "grid", "zip", "cases"},
            "a grid has the sections fixed, grid, zip and cases, and nothing beside them",
        ),
        (lambda a: expand(a), "this is no grid that can be multiplied out"),
        (
            lambda a: all({"lam", "eta", "targets"} <= set(case) for case in expand(a)),
            "every run needs targets, lam and eta",
        ),
        (
            lambda a: corners(expand(a)) <= asked,
            "a value of lam or eta that was not asked for: 1.0 and 20.0, 0.0 and 1.0",
        ),
        (
            lambda a: len(corners(expand(a))) == 4,
            "corners are missing: in step, or one at a time, λ and η are never seen apart."
            " Multiply",
        ),
        (
            lambda a: len({str(case["targets"]) for case in expand(a)}) > 1,
            "one target only, or both in one run: a list of two targets makes two runs of each"
            " corner",
        ),
        (each_once, "every target needs each of the four corners once"),
        (
            lambda a: all(case.get("match") == 0.95 for case in expand(a)),
            "without match: 0.95 a setting that erases less would look kind",
        ),
        (lambda a: all(case.get("method") == "eap" for case in expand(a)), "say the method: eap"),
        right=lambda a: (
            f"{len(expand(a))} runs. With {len(settings)} settings of two values each all"
            f" combinations are {2 ** len(settings):,} for a target, one at a time"
            f" {len(settings) + 1}: that is why one at a time is done, and what it cannot see."
        ),
    )
