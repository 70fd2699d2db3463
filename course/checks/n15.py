"""15_studio: what changes, what strength is, and where a concept is gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from course.exercise import check, unfilled
from erase_lib import EraseConfig, Erasure, erase, generate
from erase_lib.concepts import style_names
from erase_lib.measure import Judge
from erase_lib.models import Pipeline
from erase_lib.study import STEPS

LEVELS = (0.5, 1.0, 1.5, 2.0)


def exercise1(touched: Any, table: pd.DataFrame) -> None:
    """In how many of the four neighbours' pictures does the edit change a pixel?

    `table` has the column pixels changed, the neighbours last; it is empty before an erasure.
    """
    changed = 0 if unfilled(table) else int((table["pixels changed"][4:] > 0).sum())
    check(
        None if unfilled(table) else touched,
        (lambda a: a in range(5), "a whole number from 0 to 4 is asked for"),
        (
            lambda a: a == changed,
            lambda a: (
                f"{changed} have changed, not {a}: there are no weights that draw the target alone,"
                " and what is preserved is held near, not fixed"
            ),
        ),
        right="so “kept” never means “the same picture”. It means that the judge still sees what"
        " was asked for (compare the two columns), or that δ is small. Always ask which.",
    )


def exercise2(scaled: Any, pipe: Pipeline, edit: Erasure | None) -> None:
    """Write what strength does to a tensor; tried on an `edit`, or on one made for it."""
    quick = edit or erase(pipe, EraseConfig(targets=("church",), method="uce"))
    name = max(quick.tensors, key=lambda n: quick.tensors[n].numel())
    theta = dict(pipe.unet.named_parameters())[name].detach().float()
    erased, s = quick.tensors[name], 0.6
    far = float((erased - theta).abs().max())

    def is_not(b: Tensor) -> Any:
        return lambda a: not torch.allclose(a, b, rtol=0, atol=1e-3 * far)

    truth = quick.scaled(pipe, s).tensors[name]
    check(
        scaled,
        (lambda a: a.shape == theta.shape, "the result has another shape than the weights"),
        (is_not(erased), "that is the edit itself, whatever s is"),
        (is_not(s * (erased - theta)), "that is the change alone: add it to theta"),
        (is_not(s * erased), "at s = 0 all weights would be 0: begin at theta"),
        (
            is_not(theta + s * erased),
            "what is scaled is the change, erased - theta, not the edited weights",
        ),
        (
            is_not(erased + s * (erased - theta)),
            "at s = 0 this is the edited model: begin at theta",
        ),
        (
            is_not(s * theta + (1 - s) * erased),
            "upside down: at s = 0 this is the edited model, at s = 1 the original",
        ),
        (lambda a: not is_not(truth)(a), "not what Erasure.scaled makes"),
        given=(theta, erased, s),
        right="the same as Erasure.scaled. It is a straight line in the weights, and nothing"
        " promises that pictures change evenly along it: that is what the next exercise is about.",
    )


def exercise3(
    gone: Any,
    pipe: Pipeline,
    edit: Erasure | None,
    judge: Judge,
    prompts: Sequence[str],
    seed: int | Sequence[int],
) -> None:
    """What is the smallest of four strengths at which the concept is gone in all four styles?

    `prompts`: of the concept that was erased, one a style; none if it is no concept of the judge's.
    """
    concept = edit.config.targets[0] if edit and prompts else ""
    left: dict[float, list[str]] = {}
    for s in () if unfilled(gone) or edit is None or not concept else LEVELS:
        with edit.scaled(pipe, s).applied(pipe):
            seen = judge.sees(generate(pipe, list(prompts), seed, STEPS, progress=False))
        left[s] = [style for style, c in zip(style_names(), seen, strict=True) if c == concept]
    clear = [s for s, styles in left.items() if not styles]
    check(
        gone if left else None,
        (lambda a: a in (0, *LEVELS), "choose 0.5, 1.0, 1.5 or 2.0; or 0 if it is gone at none"),
        (lambda a: a or not clear, f"for the judge it is gone in all four at {clear}"),
        (
            lambda a: not a or a in clear,
            lambda a: (
                f"at {a} the judge still sees a {concept} in: {', '.join(left[a])}. Look again"
            ),
        ),
        (
            lambda a: not a or a == min(clear),
            lambda a: f"gone it is, but the judge sees none of the four at {min(clear)} either",
        ),
        right=lambda a: (
            "the workbook looks for this point with finer steps and more pictures, and compares"
            " methods only there: an edit that goes less far looks kinder than it is."
            if a
            else "at no strength up to 2, so there is nothing here to compare with another method."
        ),
    )
