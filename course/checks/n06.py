"""The checks of 06_evaluate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from course.exercise import check, mistakes
from erase_lib.measure import Evaluation, bootstrap


def exercise1(remains: float | None, evaluation: Evaluation, profile: str) -> None:
    """What is left of the CLIP score of the target's pictures, as a share of the original's?

    Only a run of the course profile that erased proves an answer wrong.
    """
    pictures, rows = evaluation.pictures, evaluation.rows
    asked = pictures["concept"].isin(evaluation.targets)
    asked |= (pictures["style"].astype(str) + " style").isin(evaluation.targets)
    clip = pictures[asked].groupby("model")["clip"].mean()
    left = clip.get("erased", 0.0) / max(clip.get("original", 0.0), 1e-9)
    rate = rows[rows["metric"].str.startswith("ESR-1") & (rows["model"] == "erased")]
    gone = profile == "course" and len(rate) > 0 and rate["value"].iloc[0] > 0.8
    check(
        remains,
        (lambda a: 0 <= a <= 1, "a share between 0 and 1 is asked for"),
        (
            lambda a: not gone or abs(a - left) < 0.25 or a > 0.2,
            f"{left:.2f} is left: the score has no zero to fall to. What else is in a prompt?",
        ),
        (
            lambda a: not gone or abs(a - left) < 0.25 or a < 0.9,
            f"{left:.2f} is left: CLIP does notice that something is missing",
        ),
        (
            lambda a: not gone or abs(a - left) < 0.25,
            lambda a: f"{left:.2f} is left, {a:.2f} is more than .25 off",
        ),
        right=f"{left:.2f} of it is left{'' if gone else ' (in a run that proves nothing)'}."
        " A CLIP score means something beside the original's, and nothing alone.",
    )


# a few made-up concepts beside the measured ones, two pictures each, so that each mistake shows:
# the ranks of the original's pictures, and of the erased model's
_MADE = {
    "lost": ([0, 0], [3, 9]),
    "near miss": ([0, 0], [1, 1]),
    "once": ([2, 0], [4, 4]),
    "half": ([0, 0], [0, 5]),
    "halved": ([0, 0], [7, 0]),
    "never": ([3, 3], [3, 3]),
    "not ever": ([2, 8], [6, 2]),
    "the target": ([0, 0], [5, 5]),
}


def exercise2(lost: Callable[..., int] | None, evaluation: Evaluation) -> None:
    """Write how many concepts, targets excepted, were always right and never are now."""
    made = [
        {"concept": f"made up: {name}", "model": model, "rank": float(rank)}
        for name, ranks in _MADE.items()
        for model, of in zip(("original", "erased"), ranks, strict=True)
        for rank in of
    ]
    real = evaluation.pictures[["concept", "model", "rank"]]
    table = pd.concat([real, pd.DataFrame(made)], ignore_index=True)
    targets = [*evaluation.targets, "made up: the target"]
    cut = table.groupby(["concept", "model"])["rank"]
    low, high = cut.min().unstack(), cut.agg(lambda r: r.fillna(9).max()).unstack()
    never, always = ~low["erased"].eq(0), high["original"].eq(0)
    second = ~low["erased"].le(1) & high["original"].le(1)  # counted with the second place
    others = ~low.index.isin(targets)
    truth = int((always & never & others).sum())
    wrong = {
        "the targets are in it: that they are lost is wanted": (always & never).sum(),
        "some of these were not always right before: ask the original too": (never & others).sum(),
        "some are right in a part of their pictures still: lost is where none is": (
            (always & ~high["erased"].eq(0) & others).sum()
        ),
        "rank 1 is the second place: seen is where the rank is 0": (second & others).sum(),
    }
    check(
        lost,
        (lambda a: np.ndim(a) == 0 and a == int(a), "a whole number is wanted: how many concepts"),
        *mistakes(truth, wrong),
        (lambda a: a == truth, lambda a: f"{a}, but in the check's table {truth} are lost"),
        given=(table, targets),
        right=f"in this run {truth - 2} of {int(others.sum()) - 7} concepts outside the targets are"
        " lost (the check adds two that it made up). An average of PSR does not name them.",
    )


def exercise3(times: float | None, pictures: pd.DataFrame, width: float) -> None:
    """How many times as wide is the interval of the mean distance if whole concepts are drawn?

    `pictures` has concept and distance; `width` is that of the interval over prompts.
    """

    def wider(units: pd.Series | None) -> float:
        """How many times as wide the interval is when whole `units` are drawn."""
        low, high = bootstrap(pictures["distance"], units)
        return (high - low) / max(width, 1e-12)

    truth, single = wider(pictures["concept"]), wider(None)

    def like(a: float, b: float) -> bool:
        """The same within a fiftieth."""
        return abs(a - b) <= 0.02 * abs(b) + 1e-9

    check(
        times,
        (lambda a: a >= 0, "a width is not negative: high − low, of both"),
        (
            lambda a: like(a, truth) or truth == 0 or not like(a, 1 / truth),
            "upside down: the new width over the old one",
        ),
        (
            lambda a: like(a, truth) or not like(a, single),
            "so it is when single pictures are drawn: give some['concept'] as the groups",
        ),
        (
            lambda a: like(a, truth) or not like(a, truth * width),
            "that is the new width itself: divide it by `width`",
        ),
        (
            lambda a: like(a, truth),
            lambda a: f"{a:.2f}, but drawing whole concepts makes {truth:.2f}",
        ),
        right=f"{truth:.2f} times as wide, {single:.2f} if single pictures are drawn. Prompts"
        " answer what other prompts of these concepts would give, concepts what other concepts"
        " would.",
    )
