"""The checks of 03_embedding_map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from course.exercise import check, mistakes
from erase_lib.study import SCORES, nearness_rho


def exercise1(
    near: int | None,
    spaces: Mapping[str, np.ndarray],
    concepts: Sequence[str],
    delta: pd.Series,
    worst: int,
) -> None:
    """How many of the `worst` most hurt concepts are in the nearest tenth, by words?

    `spaces` are points `(n, dim)` by name, a row a concept, the target first; `delta` by concept.
    """
    others = delta.drop(concepts[0])
    hurt, counted = others.nlargest(worst).index, {}
    for space, points in spaces.items():
        away = pd.Series(_apart(points), concepts).drop(concepts[0])
        counted[space] = int(hurt.isin(away.nsmallest(max(3, len(concepts) // 10)).index).sum())
    truth = counted["text"]
    check(
        near,
        (lambda a: 0 <= a <= worst, f"so many *of the {worst}* are asked for: 0 to {worst}"),
        (
            lambda a: abs(a - truth) <= 2 or a < worst,
            f"all of them would be a perfect bet; {truth} are. Find the others on the map",
        ),
        (
            lambda a: abs(a - truth) <= 2 or a > worst / 10 + 1,
            f"that is no more than chance gives; {truth} are: words know something",
        ),
        (lambda a: abs(a - truth) <= 2, lambda a: f"{truth} are, not {a}"),
        right=lambda a: (
            f"{truth} of {len(hurt)}, where chance gives {len(hurt) / 10:.1f}; nearness in pictures"
            f" finds {counted['pictures']}. The rest a search among near words alone would not"
            " find."
        ),
    )


def exercise2(bet: str, gap: pd.DataFrame, score: str, smoke: bool) -> None:
    """Nearness in which space orders the concepts better by δ: words, pictures, or neither?

    `gap` is ρ in pictures minus ρ in words, with its interval: metric, value, low, high.
    """
    found = gap.set_index("metric").loc[score]
    better = "neither" if found["low"] <= 0 <= found["high"] else "pictures"
    better = "words" if found["high"] < 0 else better
    span = f"{found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"
    check(
        bet,
        (
            lambda a: a in ("words", "pictures", "neither"),
            'answer "words", "pictures" or "neither"',
        ),
        (
            lambda a: smoke or a == better or better != "neither",
            f"the difference is {span}: it holds 0, so this score cannot tell them apart",
        ),
        (
            lambda a: smoke or a == better or a != "neither",
            f"close, but matched by target the difference is {span}: without 0",
        ),
        (
            lambda a: smoke or a == better or a != "pictures",
            f"pictures minus words is {span}. Who looks alike need not be edited alike: an erasure"
            " edits what the UNet does with words",
        ),
        (
            lambda a: smoke or a == better,
            f"pictures minus words is {span}: pictures are the better guide by this score",
        ),
        right=f"by {score}, pictures minus words is {span}. To tell them apart, its interval must"
        " not hold 0, however small it is; how *much* a space knows, the figure says.",
    )


def exercise3(other: tuple[str, float] | None, rhos: pd.DataFrame, target: str, score: str) -> None:
    """Another score than the notebook's, and Spearman's ρ of its δ with nearness in words.

    `rhos` has every ρ: targets, metric, space (text, pictures, or one of the maps), value.
    """
    own = rhos[rhos["targets"] == target].set_index(["metric", "space"])["value"]
    maps = [space for space in rhos["space"].unique() if space not in ("text", "pictures")]

    def hit(a: tuple[str, float], value: float) -> bool:
        """Whether ρ was answered as this value, where that is not the truth as well."""
        return abs(a[1] - value) < 0.006 and not abs(a[1] - own[a[0], "text"]) < 0.006

    check(
        other,
        (lambda a: len(a) == 2, "two are wanted: the score that you chose, and ρ"),
        (lambda a: a[0] in SCORES, f"the scores are {', '.join(SCORES)}"),
        (lambda a: a[0] != score, f"{score} is what the maps above show: choose another"),
        (lambda a: -1 <= a[1] <= 1, "Spearman's ρ lies between −1 and 1"),
        (
            lambda a: not hit(a, -own[a[0], "text"]),
            "upside down: *nearness* is asked for, the negative of a distance",
        ),
        (
            lambda a: not hit(a, own[score, "text"]),
            f"that is ρ with δ by {score}: name the other score in `deltas` too",
        ),
        (
            lambda a: not hit(a, own[a[0], "pictures"]),
            "that is nearness in pictures, not in words",
        ),
        (
            lambda a: not any(hit(a, own[a[0], name]) for name in maps),
            "that is on a flat map: take the whole space, spaces['text']",
        ),
        (
            lambda a: abs(a[1] - own[a[0], "text"]) < 0.006,
            lambda a: f"by {a[0]} it is {own[a[0], 'text']:.2f}, not {a[1]:.2f}",
        ),
        right=lambda a: (
            f"ρ {a[1]:.2f} by {a[0]}, {own[score, 'text']:.2f} by {score}. Features and pixels ask"
            " how far a picture has moved, judge and CLIP score whether it still shows what was"
            " asked for."
        ),
    )


def exercise4(
    both: Callable[..., np.ndarray] | None,
    spaces: Mapping[str, np.ndarray],
    concepts: Sequence[str],
    pairs: pd.DataFrame,
    score: str,
) -> None:
    """Write the space that holds words and pictures side by side, each scaled to a spread of 1.

    `spaces` as in exercise 1; `pairs` has the δ of every target of the atlas by `score`.
    """
    two = (spaces["text"], spaces["pictures"])
    width = two[0].shape[1]

    def scaled(points: np.ndarray, scale: Callable[[np.ndarray], Any]) -> bool:
        """Whether the points lie as if each space had been divided by `scale` of it."""
        joined = np.concatenate([space / scale(space) for space in two], axis=1)
        return np.allclose(_apart(points), _apart(joined), 1e-3)

    def rho(points: np.ndarray) -> float:
        """Spearman's ρ of nearness and δ, the mean of all targets."""
        some = pairs[pairs["targets"].isin(concepts)].groupby("targets")
        delta = {gone: part.groupby("concept")[score].mean().dropna() for gone, part in some}
        return np.mean([nearness_rho(points, concepts, gone, d) for gone, d in delta.items()])

    check(
        both,
        (
            lambda a: a.shape == (len(concepts), sum(points.shape[1] for points in two)),
            lambda a: f"the shape is {a.shape}: a row a concept, the columns of both side by side",
        ),
        (
            lambda a: np.isfinite(a).all(),
            "there are NaN: some columns are the same for all concepts (the start mark), so their"
            " own spread is 0. Divide the whole space by one number",
        ),
        *mistakes(_spread, _SCALES, scaled),
        (
            lambda a: scaled(a, _spread),
            lambda a: (
                f"the spreads are {_spread(a[:, :width]):.3f} and {_spread(a[:, width:]):.3f}:"
                " both should be 1, and the order of the points unchanged"
            ),
        ),
        given=two,
        right=lambda a: (
            f"ρ by {score}: words {rho(two[0]):.2f}, pictures {rho(two[1]):.2f}, both"
            f" {rho(a):.2f}. Where both is more than either, each knows what the other does not."
        ),
    )


def _apart(points: np.ndarray) -> np.ndarray:
    """The distances of all concepts to the target, which stands first."""
    return np.linalg.norm(points - points[0], axis=1)


def _spread(points: np.ndarray) -> np.floating[Any]:
    """The root mean squared distance of the points from their mean."""
    return np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean())


_SCALES: dict[str, Callable[[np.ndarray], Any]] = {
    "they are side by side, but unscaled: the one in larger units decides alone": lambda p: 1.0,
    "divided by the mean *squared* distance: take its root": lambda p: _spread(p) ** 2,
    "a standard deviation over all entries forgets how many columns a space has: sum the squares"
    " over the columns, then take the mean over the points": lambda p: p.std(),
    "the distance from 0 is not the spread: take off the mean point first": lambda p: np.sqrt(
        (p**2).sum(1).mean()
    ),
    "each column scaled by itself: columns that hardly vary shout as loudly as the others. One"
    " number a space": lambda p: np.maximum(p.std(0), 1e-9),
}
"""What is likely to be divided by instead of the spread, under what is said of it."""
