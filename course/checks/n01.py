"""The checks of 01_quickstart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pandas as pd
from PIL import Image

from course.exercise import check, mistakes
from erase_lib import Erasure, generate
from erase_lib.measure import Judge
from erase_lib.models import Pipeline


def exercise1(same: int | None, unchanged: int, recognised: int, far: int, smoke: bool) -> None:
    """How many of the twelve other pictures do not change at all?

    `unchanged` are the same byte for byte, `recognised` by the judge; `far` of them are far.
    """
    check(
        same,
        (lambda a: 0 <= a <= 12, "a number from 0 to 12 is wanted"),
        (
            lambda a: a == unchanged or a not in (12, recognised),
            "recognised is not unchanged: the judge forgives much that a comparison of bytes does"
            " not",
        ),
        (
            lambda a: a == unchanged or a != far,
            "what is far in meaning is far in the text, but it passes through the same matrices",
        ),
        (
            lambda a: smoke or a == unchanged,
            lambda a: f"not {a}, but {unchanged}: compare the pictures",
        ),
        right="no prompt has matrices of its own. “Kept” can only mean: good enough for somebody.",
    )


def exercise2(
    delta: Callable[..., float] | None,
    before: pd.DataFrame,
    after: pd.DataFrame,
    near: list[str],
    far: list[str],
) -> None:
    """Write δ of a group of concepts: the mean loss of probability over their pictures.

    `before` and `after` are verdicts, a row a picture, in the same order.
    """
    lost, concept = before["probability"] - after["probability"], before["concept"]
    of_near, of_far = lost[concept.isin(near)], lost[concept.isin(far)]
    wrong = {
        "upside down: a loss is what was there before, less what is there after": -of_near.mean(),
        "that is the mean over all pictures: take those of `names` only": lost.mean(),
        "that is the sum: divide by the number of pictures": of_near.sum(),
        "a gain counts against a loss: leave the sign as it is": of_near.abs().mean(),
    }
    check(
        delta,
        (lambda a: np.ndim(a) == 0, "one number is wanted, the mean over the pictures"),
        *mistakes(of_near.mean(), wrong, lambda a, b: np.isclose(a, b, 1e-4)),
        (
            lambda a: np.isclose(a, of_near.mean(), 1e-4),
            lambda a: f"{a:.4f} for the near ones; the table of pictures says {of_near.mean():.4f}",
        ),
        given=(before, after, near),
        right=lambda a: f"δ near {a:.3f}, far {of_far.mean():.3f}.",
    )


def exercise3(
    strength: tuple[float, int] | None,
    pipe: Pipeline,
    erasure: Erasure,
    judge: Judge,
    rows: pd.DataFrame,
    steps: int,
) -> None:
    """A strength between 0 and 1, and in how many of the target's pictures it is still seen.

    `rows` are the target's prompts, drawn in `steps`.
    """
    target, n = rows["concept"].iloc[0], len(rows)

    @cache
    def still(s: float) -> int:
        """In how many of the target's pictures the judge sees it at strength s."""
        with erasure.scaled(pipe, s).applied(pipe):
            drawn = generate(
                pipe, list(rows["prompt"]), seed=list(rows["seed"]), steps=steps, progress=False
            )
        return judge.sees(drawn).count(target)

    check(
        strength,
        (lambda a: len(a) == 2, "two numbers are wanted: the strength and how many pictures"),
        (lambda a: 0 < a[0] < 1, "choose a strength between 0, the original, and 1, drawn above"),
        (
            lambda a: a[1] == still(a[0]) or a[1] != n - still(a[0]),
            "you counted those that are gone: asked is where the target is still seen",
        ),
        (
            lambda a: a[1] == still(a[0]),
            lambda a: f"at strength {a[0]} it is {still(a[0])}: same prompts, seeds and `steps`?",
        ),
        right=lambda a: (
            f"seen in {a[1]} of {n} at strength {a[0]}, in {still(1.0)} at 1. Notebook 05 looks for"
            " the smallest strength that erases, and 07 compares methods there."
        ),
    )


def exercise4(
    shown: tuple[str, str] | None,
    redrawn: Sequence[Image.Image],
    restored: Sequence[Image.Image],
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
) -> None:
    """Which pictures do `redrawn` (within the block) and `restored` (after it) show?

    "before" or "after" of each; the first of `before` and `after` are of the same prompts.
    """

    def nearest(pictures: Sequence[Image.Image]) -> str:
        """Which of the two sets they equal, or are nearest to in their pixels."""
        n = len(pictures)
        new, old, erased = (np.stack(p).astype(float) for p in (pictures, before[:n], after[:n]))
        return "before" if abs(new - old).mean() < abs(new - erased).mean() else "after"

    check(
        shown,
        (
            lambda a: len(a) == 2 and {*a} <= {"before", "after"},
            'two of "before" and "after" are wanted',
        ),
        (
            lambda a: a[0] == nearest(redrawn),
            "within the block the loaded tensors stand in the teacher's place, as those of above"
            " did",
        ),
        (
            lambda a: a[1] == nearest(restored),
            "the block is over: the teacher's own tensors are back, for they were never"
            " overwritten",
        ),
        right="an erasure lies beside the model, not in it. Whoever has the original can undo it.",
    )
