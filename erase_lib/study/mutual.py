"""Is harm mutual? δ(A → B) against δ(B → A), of all pairs of concepts that were both erased."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from erase_lib.study.atlas import Harm, correlation


def asymmetries(found: Harm, repeats: int = 200, seed: int = 0) -> pd.DataFrame:
    """Every pair of targets: is δ(A → B) another than δ(B → A)?

    Two pictures of a cell cannot say how uncertain their own mean is. So all cells lend each other
    their noise: half the difference of a cell's two pictures is as uncertain as their mean, and is
    nothing but noise. Its root mean square among cells of a like δ is the `error`; differences of
    two such contrasts, of cells drawn at random and brought to the pair's errors, `repeats` of them
    a pair, are what symmetric pairs would show. p is the place of |difference| among all of them, q
    its false discovery rate over all pairs (Benjamini & Hochberg 1995).
    Columns: a, b, forward (A → B), backward, forward_error, backward_error (half of a 95 %
    interval), difference, low, high, p, q; the surest first. Noise has to be
    symmetric about 0.
    """
    pairs = found.among_targets()
    delta, first, second = pairs.values.mean(2), *np.triu_indices(len(pairs.targets), 1)
    contrast = _contrast(pairs.values)
    cells = ~np.isnan(delta)
    bins = pd.qcut(delta[cells], max(1, cells.sum() // 100), labels=False, duplicates="drop")
    squares = pd.Series(contrast[cells] ** 2).groupby(bins).transform("mean")
    error = np.full_like(delta, np.nan)
    error[cells] = np.sqrt(squares)
    away, back = (first, second), (second, first)
    both = np.hypot(error[away], error[back])
    # as many as there are pairs would not do: the smallest p times the pairs would be 1/2
    unit = contrast[cells] / np.maximum(error[cells], np.finfo(float).tiny)
    one, two = np.random.default_rng(seed).choice(unit, (2, repeats, len(first)))
    null = np.sort(np.abs(error[away] * one - error[back] * two).ravel() / np.tile(both, repeats))
    difference = delta[away] - delta[back]
    beyond = len(null) - np.searchsorted(null, np.abs(difference) / both)
    p = (1 + beyond) / (1 + len(null))
    reach = np.quantile(null, 0.95)
    names = np.array(pairs.targets)
    table = pd.DataFrame({"a": names[first], "b": names[second]})
    table = table.assign(forward=delta[away], backward=delta[back])
    table = table.assign(forward_error=reach * error[away], backward_error=reach * error[back])
    table["difference"] = difference
    table = table.assign(low=difference - reach * both, high=difference + reach * both)
    table = table.assign(p=p, q=stats.false_discovery_control(p))
    surest = np.argsort(-np.abs(difference) / both, kind="stable")
    return table.iloc[surest].reset_index(drop=True)


def _contrast(values: np.ndarray) -> np.ndarray:
    """Every other picture against the ones between, as uncertain as the mean of all of them."""
    even = values.shape[2] // 2 * 2
    apart = (values[..., 0:even:2] - values[..., 1:even:2]).sum(2)
    return apart / even * np.sqrt(even / values.shape[2])


def symmetry(found: Harm, kind: str = "spearman", draws: int = 300, seed: int = 0) -> dict:
    """The correlation of δ(A → B) with δ(B → A) over all ordered pairs of targets.

    `kind` is spearman or pearson. Keys: value, ceiling (two halves of the pictures with each other,
    stepped up to all by Spearman–Brown: as good as a perfect symmetry could look), corrected (value
    / ceiling), each with `… low` and `… high` (95 %: targets drawn with replacement), and pairs.
    """
    pairs, rng = found.among_targets(), np.random.default_rng(seed)
    n = len(pairs.targets)
    halves = [pairs.values[..., k::2].mean(2) for k in (0, 1)]

    def once(chosen: np.ndarray) -> tuple[float, float, float]:
        cells = np.ix_(chosen, chosen)
        kept = ~np.isnan(halves[0][cells])  # a target drawn twice is no pair
        one, two = (half[cells] for half in halves)
        both = (one + two) / 2
        value = correlation(both[kept], both.T[kept], kind)
        half = correlation(one[kept], two[kept], kind)
        return value, 2 * half / (1 + half), value * (1 + half) / (2 * half)

    names = ("value", "ceiling", "corrected")
    drawn = [once(rng.integers(0, n, n)) for _ in range(draws)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if draws else np.full((2, 3), np.nan)
    result = dict(zip(names, once(np.arange(n)), strict=True))
    result |= {f"{name} low": float(v) for name, v in zip(names, low, strict=True)}
    result |= {f"{name} high": float(v) for name, v in zip(names, high, strict=True)}
    return result | {"pairs": n * (n - 1) // 2}
