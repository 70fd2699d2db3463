"""Checks of 10_adversarial_search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from course.exercise import check, mistakes

FOUR = ("gumbel", "movement", "nearest", "random")


def exercise1(answer: Callable, ends: pd.DataFrame) -> None:
    """The mean percentile of what was chosen, a function of how far each candidate has moved.

    `ends` has a row a candidate, the most moved first: concept, moved, percentile.
    """
    end = ends.set_index("concept")
    some = [*end.index[:3], end.index[0], end.index[-1]]  # one of them twice
    true, n = end["percentile"][some].mean(), len(end)
    place = end["moved"].rank()[some].mean()
    once = end["percentile"][list(dict.fromkeys(some))].mean()
    wrong = {
        "upside down: 100 is the most moved": 100 - true,
        "a place is counted from 0 to n − 1: divide by n − 1": 100 * (place - 1) / n,
        "the least moved has 0, not 1: take 1 from the rank": 100 * place / n,
        "what was preserved twice counts twice": once,
        "that is the share from 0 to 1: asked is from 0 to 100": true / 100,
    }
    check(
        answer,
        (lambda a: np.ndim(a) == 0, "one number is wanted, the mean over what was chosen"),
        *mistakes(true, wrong, np.isclose),
        (lambda a: np.isclose(a, true), lambda a: f"{a:.1f}, but the audit says {true:.1f}"),
        given=(end["moved"], some),
        right="chance has 50 whatever the number of candidates, so searches of any size compare.",
    )


def exercise2(answer: str, hits: pd.DataFrame) -> None:
    """Which of four searches preserves what has moved least, at the end of the erasure?

    `hits`: columns metric, search, value; the last percentile of a search counts.
    """
    ends = hits[hits["metric"].str.startswith("percentile")].groupby("search")["value"].last()
    ends = ends[ends.index.isin(FOUR)]
    check(
        answer,
        (lambda a: a in FOUR, "one of the four names is wanted"),
        (
            lambda a: a == ends.idxmin() or a != "random",
            "random knows nothing, so it stands near 50; lower takes a search that errs by a rule",
        ),
        (
            lambda a: a == ends.idxmin() or a != "movement",
            "movement looks at what K and V did: half of its choice is what they moved most",
        ),
        (
            lambda a: a == ends.idxmin() or "nearest" not in ends,
            lambda a: f"{a} has {ends[a]:.0f}, {ends.idxmin()} {ends.min():.0f}: who is held?",
        ),
        right="what is held at every update may move little: its low percentile can be"
        " preservation.",
    )


def exercise3(answer: float | None, deltas: pd.DataFrame) -> None:
    """The mean difference of δ near between movement and random, seed 0 alone.

    `deltas`: columns search, targets, seed, metric, value.
    """
    index = ["metric", "targets", "seed"]
    wide = deltas.pivot_table(index=index, columns="search", values="value")
    wide = wide.reindex(columns=["movement", "random"]).dropna()
    pairs = (wide["movement"] - wide["random"]).reset_index(name="value")
    near, first = pairs["metric"] == "δ near", pairs["seed"] == 0
    true, pooled = pairs["value"][near & first].mean(), pairs["value"][near].mean()
    wrong = {
        "upside down: movement less random": -true,
        "that is both seeds together: keep only seed 0": pooled,
        "that is δ far: asked is δ near": pairs["value"][~near & first].mean(),
    }
    check(
        answer,
        (lambda a: a == a + 0, "a number is wanted"),
        *mistakes(true, wrong, lambda a, b: abs(a - b) < 6e-4),
        (lambda a: abs(a - true) < 6e-4, lambda a: f"{a:+.3f}; the matched runs say {true:+.3f}"),
        right=lambda a: (
            f"{a:+.3f} with one seed, {pooled:+.3f} with all: compare with its interval."
        ),
    )
