"""18_many_concepts: who pays as the list grows, what does not commute, and one that comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from course.exercise import check, mistakes
from erase_lib.study import undone

GROUPS = ("target", "near", "far")


def exercise1(guess: Any, levels: pd.DataFrame) -> None:
    """Which share falls most from the fewest to the most concepts: target, near, far or none?

    `levels` as `study.levels`: the settings "N at once", a row for each group.
    """
    rows = levels[levels["setting"] != "original"]
    size = rows["setting"].str.extract(r"(\d+)")[0].astype(int)
    wide = rows.assign(n=size).pivot(index="n", columns="group", values="value").sort_index()
    fall = (wide.iloc[0] - wide.iloc[-1])[list(GROUPS)]
    # a picture of a dozen more or less proves no answer wrong
    most = fall.max()
    truth = {*fall[fall > max(most - 0.1, 0.1)].index, *(["none"] if most < 0.2 else [])}
    few = rows.loc[rows["group"] == "far", "units"].min() < 6  # of a smoke run
    told = ", ".join(f"{group} {-change:+.2f}" for group, change in fall.items())
    check(
        guess,
        (lambda a: a in (*GROUPS, "none"), 'answer "target", "near", "far" or "none"'),
        (
            lambda a: few or a in truth,
            f"from {wide.index[0]} to {wide.index[-1]} concepts: {told}. In the figure a mark that"
            " lies lower keeps fewer of the near ones, one further left erases less",
        ),
        right="too few pictures to tell; see what to notice for a run with more."
        if few
        else f"from {wide.index[0]} to {wide.index[-1]} concepts: {told}, of so few pictures each."
        " Such a share is coarse: would another seed say the same?",
    )


def exercise2(pair: Any, factors: Sequence[Tensor], names: Sequence[str]) -> None:
    """Which two of the factors commute worst?"""

    def apart(i: int, j: int) -> float:
        a, b = factors[i], factors[j]
        return float(torch.dist(a @ b, b @ a) / torch.dist(a @ b, torch.eye(len(a)).to(a)))

    every = {(i, j): apart(i, j) for j in range(len(factors)) for i in range(j)}
    truth, best = max(every, key=lambda p: every[p]), min(every, key=lambda p: every[p])

    def same(answer: Any, of: Any) -> bool:
        return {int(i) for i in answer} == set(of)

    wrong = {"that pair commutes best": best, "that is the pair the lines began with": (0, 1)}
    check(
        pair,
        (lambda a: len({int(i) for i in a}) == 2, "two different numbers are asked for"),
        (
            lambda a: all(0 <= int(i) < len(factors) for i in a),
            f"numbers from 0 to {len(factors) - 1} are asked for",
        ),
        *mistakes(truth, wrong, same),
        (
            lambda a: same(a, truth),
            lambda a: f"{every[tuple(sorted(map(int, a)))]:.3f}, but another pair is further apart",
        ),
        right=f"{names[truth[0]]} and {names[truth[1]]}: {every[truth]:.3f} of what both change,"
        f" where {names[best[0]]} and {names[best[1]]} have {every[best]:.3f}. What two edits do to"
        " the same directions, they do in an order.",
    )


def exercise3(undo: Any, factors: Sequence[Tensor]) -> None:
    """Write the product of all factors but one, from the product and the factors from it on."""
    k, product = min(2, len(factors) - 2), factors[0]
    for factor in factors[1:]:
        product = product @ factor
    known = {i: factor for i, factor in enumerate(factors) if i >= k}
    rest = [factor for i, factor in enumerate(factors) if i != k]
    truth = rest[0]
    for factor in rest[1:]:
        truth = truth @ factor

    one = torch.eye(len(truth)).to(truth)

    def close(answer: Tensor, other: Tensor) -> bool:
        return bool(torch.dist(answer, other) < 1e-4 * torch.dist(other, one))

    without, later = undone(product, factors[k]), one
    for factor in factors[k + 1 :]:
        later = later @ factor
    stripped = torch.linalg.solve(later, undone(product, factors[k], factors[k + 1 :]), left=False)
    wrong = {
        "that takes it off the end, where another stands: strip what came later first": without,
        "that takes it off the beginning": torch.linalg.solve(factors[k], product),
        "what came later is gone too: put it on again": stripped,
        "it is still the product of all": product,
    }
    error = torch.dist(without, truth) / torch.dist(truth, one)
    check(
        undo,
        (lambda a: a.shape == truth.shape, f"a matrix {tuple(truth.shape)} is asked for"),
        *mistakes(truth, wrong, close),
        (lambda a: close(a, truth), "that is not the product of the others"),
        given=(product, known, k),
        right=f"exactly, but for rounding. As though it were the last, the error were {error:.2f}"
        " of the edit. Whoever keeps T has a key; only what has no inverse is gone.",
    )
