"""The checks of 02_concept_sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from course.exercise import check, mistakes
from erase_lib.study import deltas


def exercise1(
    shared: int | None, pairs: pd.DataFrame, targets: Sequence[str], neutral: Sequence[str]
) -> None:
    """How many of the ten most hurt concepts do the scores judge and pixels have in common?

    `pairs` as `study.measure_pairs` makes it; the targets and the neutral concepts are left out.
    """

    def ten(score: str, least: bool = False, every: bool = False) -> set[str]:
        """The ten concepts most hurt by a score; the least hurt; with those that are left out."""
        rows = pairs if every else pairs[~pairs["concept"].isin([*targets, *neutral])]
        ordered = deltas(rows, score).sort_values("delta", ascending=least)
        return set(ordered["concept"][:10])

    common = len(ten("judge") & ten("pixels"))
    wrong = {
        "those are the least hurt: the largest δ is asked for": len(
            ten("judge", least=True) & ten("pixels", least=True)
        ),
        "the targets and the neutral concepts are to be left out": len(
            ten("judge", every=True) & ten("pixels", every=True)
        ),
        "those are in one list or the other: asked is what is in both": len(
            ten("judge") | ten("pixels")
        ),
    }
    check(
        shared,
        (lambda a: a == int(a), "a whole number is wanted"),
        *mistakes(common, wrong),
        (
            lambda a: a == common,
            lambda a: f"not {a}: take nlargest(10, 'delta') of both, then `&`",
        ),
        right=lambda a: (
            f"{a} of ten. Both are “the damage”; report the score that says what you mean to keep."
        ),
    )


def exercise2(third: str, places: pd.DataFrame, smoke: bool) -> None:
    """In which third of all concepts do the neutral ones stand, by features?

    `places` as `study.neutral_percentiles` makes it: concept, metric, value.
    """
    where = places.groupby("metric")["value"].mean()
    truth = "lowest" if where["features"] < 100 / 3 else "middle"
    truth = "highest" if where["features"] > 200 / 3 else truth
    check(
        third,
        (lambda a: a in ("lowest", "middle", "highest"), 'choose "lowest", "middle" or "highest"'),
        (
            lambda a: smoke or a == truth or a != "middle",
            f"by CLIP score they stand here at {where['clip']:.0f}; but a picture may move far and"
            f" fit its prompt as well as before, and by features they stand at"
            f" {where['features']:.0f}",
        ),
        (
            lambda a: smoke or a == truth or a != "lowest",
            "nothing was said against them, but nothing holds them either: they name no object and"
            f" no style. By features they stand at {where['features']:.0f}",
        ),
        (lambda a: smoke or a == truth, f"by features they stand at {where['features']:.0f}"),
        right=f"by features at {where['features']:.0f}, by CLIP score at {where['clip']:.0f}:"
        " where the neutral stand is a question of the score.",
    )


def exercise3(
    percentile: Callable[..., float] | None,
    pairs: pd.DataFrame,
    places: pd.DataFrame,
    targets: Sequence[str],
    neutral: Sequence[str],
) -> None:
    """Write the percentile of a concept: percent of the others, some left out, hurt less.

    `pairs` as `study.measure_pairs` makes it, `places` as `study.neutral_percentiles`.
    """
    table, left_out = deltas(pairs, "clip"), [*targets, *neutral]
    of_clip = places[places["metric"] == "clip"].set_index("concept")["value"]
    name = (of_clip - 30).abs().idxmin()  # one that stands neither at an end nor in the middle
    truth, delta = of_clip[name], table.set_index("concept")["delta"]
    less = delta < delta[name]
    wrong = {
        "that is a share: in percent it is a hundred times as much": truth / 100,
        "upside down: count those that were hurt less, not more": 100 - truth,
        "the targets and neutral concepts were counted too": 100 * less.mean(),
        "that is a number of concepts: divide by how many there are": (
            less[~less.index.isin(left_out)].sum()
        ),
    }
    check(
        percentile,
        (lambda a: np.ndim(a) == 0, "one number is wanted"),
        *mistakes(truth, wrong, np.isclose),
        (
            lambda a: np.isclose(a, truth),
            lambda a: f"“{name}” stands at {truth:.1f} by CLIP score, not at {a:.1f}",
        ),
        given=(table, name, left_out),
        right=lambda a: f"“{name}” at {a:.0f}. A percentile knows the order only, not how much.",
    )


def exercise4(most: float | None, trust: pd.Series, pooled: pd.DataFrame) -> None:
    """The highest ρ that a perfect prediction of δ can be expected to reach, by the judge.

    `trust` is the reliability by score, `pooled` the predictors' ρ: metric, value.
    """
    if most is None:  # as it is where there is no table
        check(most)
        return
    reliability = float(trust["judge"])
    root, best = reliability**0.5, pooled.loc[pooled["metric"] == "judge", "value"].max()
    wrong = {
        "a perfect prediction, but what it is compared with is noisy: it cannot reach 1": 1.0,
        "that is how far two noisy measurements agree: here only one of the two is noisy": (
            reliability
        ),
        "the wrong way: the root of the reliability, not its square": reliability**2,
        "that is what the noise takes away from the reliability": 1 - reliability,
    }
    check(
        most,
        (lambda a: 0 <= a <= 1, "a ρ between 0 and 1 is wanted"),
        *(
            (lambda a, w=w: abs(a - root) < 0.01 or abs(a - w) > 0.005, text)
            for text, w in wrong.items()
        ),
        (lambda a: abs(a - root) < 0.01, lambda a: f"not {a:.2f}: one noise, so the root"),
        right=f"the root, {root:.2f}: the dashed line. The best one here reaches {best:.2f}.",
    )
