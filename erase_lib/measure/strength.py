"""How strong an erasure has to be: methods are compared where each of them first erases."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from erase_lib.concepts import is_style
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError
from erase_lib.measure.evaluate import successes
from erase_lib.measure.judges import Judge, verdicts
from erase_lib.measure.pictures import draw
from erase_lib.measure.prompts import target_prompts
from erase_lib.models import Pipeline

STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)


def first_strength(
    pipe: Pipeline,
    erasure: Erasure,
    judge: Judge,
    level: float = 0.95,
    strengths: Sequence[float] = STRENGTHS,
    pictures: int = 5,
    steps: int = 12,
    seed: int = 5000,
) -> tuple[float, bool]:
    """The smallest of the strengths at which ESR-1 of the targets reaches `level`, and True.

    θ + s (θ' − θ) is drawn for `target_prompts` with seeds that no evaluation uses: a number chosen
    on the pictures that it is reported on would flatter. A style is gone where the judge sees
    another. Found by bisection, as if ESR only grew with s, from a count of few pictures: take it
    for one of the strengths around it. 2 · steps evaluations a picture and a try. When none
    reaches the level, the largest and False, with a warning. Raises `EraseError` as `check_level`,
    for fewer than one picture, and for strengths that do not rise from above 0.
    """
    check_level(level)
    strengths = [float(s) for s in strengths]
    if not strengths or strengths[0] <= 0 or strengths != sorted(set(strengths)):
        raise EraseError(f"strengths is {strengths}: expected numbers above 0 that rise")
    if pictures < 1:
        raise EraseError(f"pictures is {pictures}: expected 1 or more of each target and style")
    prompts = target_prompts(erasure.config.targets, pictures, seed)
    asked = list(prompts["prompt"]), list(prompts["seed"]), steps
    styles = prompts["target"].map(is_style)

    def gone(strength: float) -> bool:
        scaled = erasure.scaled(pipe, strength)
        drawn = draw(pipe, *asked, progress=False, erasure=scaled, keep=False)
        seen = verdicts(judge, drawn, prompts)
        rank = seen["rank"].mask(styles, seen["style_rank"].fillna(np.inf))  # among the styles
        return bool(successes("ESR-1", rank).mean() >= level)

    found = bisect_left(strengths, True, key=gone)
    reached = found < len(strengths)
    if not reached:
        warnings.warn(
            f"ESR-1 stays below {level} up to strength {strengths[-1]}: that one is taken",
            stacklevel=2,
        )
    return strengths[min(found, len(strengths) - 1)], reached


def check_level(level: float) -> None:
    """Raise `EraseError` unless the level is an ESR that can be asked for, in (0, 1]."""
    if not 0 < level <= 1:
        raise EraseError(f"level is {level}: expected an ESR above 0 and at most 1, such as 0.95")
