"""Who hurts whom: is δ(A → B) also δ(B → A), and the communities in the graph of the largest."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
from networkx.algorithms.community import louvain_communities, modularity
from scipy import stats
from sklearn.metrics import adjusted_rand_score

from erase_lib.errors import EraseError, check_range, unknown
from erase_lib.measure.statistics import chance
from erase_lib.study.atlas import Delta


def asymmetries(delta: Delta, repeats: int = 200, seed: int = 0) -> pd.DataFrame:
    """Every pair of targets: is δ(A → B) another than δ(B → A)?

    Two pictures cannot say how uncertain their mean is, so all cells lend each other their noise:
    half the difference of a cell's two is as uncertain as their mean, and nothing but noise. Its
    root mean square among cells of a like δ is the `error`; differences of two such contrasts, of
    cells drawn at random and brought to the pair's errors, `repeats` a pair, are what symmetric
    pairs would show, if noise is symmetric about 0. p is the place of |difference| among them all,
    q its false discovery rate over all pairs (Benjamini & Hochberg 1995). Columns: a, b, forward
    (A → B), backward, forward_error, backward_error (half of a 95 % interval), difference, low,
    high, p, q; the surest first."""
    pairs = delta.among_targets()
    mean, first, second = pairs.values.mean(2), *np.triu_indices(len(pairs.targets), 1)
    # every other picture against the ones between, as uncertain as the mean of all of them
    cells, even = ~np.isnan(mean), pairs.values.shape[2] // 2 * 2
    apart = (pairs.values[..., 0:even:2] - pairs.values[..., 1:even:2]).sum(2)
    contrast = apart / even * np.sqrt(even / pairs.values.shape[2])
    bins = pd.qcut(mean[cells], max(1, cells.sum() // 100), labels=False, duplicates="drop")
    squares = pd.Series(contrast[cells] ** 2).groupby(bins).transform("mean")
    error = np.full_like(mean, np.nan)
    error[cells] = np.sqrt(squares)
    away, back = (first, second), (second, first)
    both = np.hypot(error[away], error[back])
    # as many as there are pairs would not do: the smallest p times the pairs would be 1/2
    unit = contrast[cells] / np.maximum(error[cells], np.finfo(float).tiny)
    one, two = chance(seed).choice(unit, (2, repeats, len(first)))
    null = np.sort(np.abs(error[away] * one - error[back] * two).ravel() / np.tile(both, repeats))
    difference, reach = mean[away] - mean[back], np.quantile(null, 0.95)
    surety = np.abs(difference) / both
    p = (1 + len(null) - np.searchsorted(null, surety)) / (1 + len(null))
    table = pd.DataFrame(combinations(pairs.targets, 2), columns=["a", "b"])
    table = table.assign(forward=mean[away], backward=mean[back])
    table = table.assign(forward_error=reach * error[away], backward_error=reach * error[back])
    table = table.assign(difference=difference, low=difference - reach * both)
    table = table.assign(high=difference + reach * both, p=p, q=stats.false_discovery_control(p))
    return table.iloc[np.argsort(-surety, kind="stable")].reset_index(drop=True)


def symmetry(delta: Delta, kind: str = "spearman", draws: int = 300, seed: int = 0) -> dict:
    """The correlation, spearman or pearson, of δ(A → B) with δ(B → A) over pairs of targets. Keys:
    value, ceiling (of two halves of the pictures, stepped up to all by Spearman–Brown: as good as a
    perfect symmetry could look), corrected (value / ceiling), each with `… low` and `… high` (95 %:
    targets drawn with replacement), and pairs."""
    check_range("draws", draws, 0, 100_000)
    if kind not in ("spearman", "pearson"):
        raise unknown("correlation", kind, ("spearman", "pearson"))
    pairs, rng = delta.among_targets(), chance(seed)
    n, correlation = len(pairs.targets), stats.spearmanr if kind == "spearman" else stats.pearsonr
    halves = [pairs.values[..., k::2].mean(2) for k in (0, 1)]

    def once(chosen: np.ndarray) -> tuple[float, float, float]:
        one, two = (half[np.ix_(chosen, chosen)] for half in halves)
        both = (one + two) / 2
        seen = ~np.isnan(both)  # a target drawn twice is no pair
        value = correlation(both[seen], both.T[seen]).statistic
        half = correlation(one[seen], two[seen]).statistic
        return value, 2 * half / (1 + half), value * (1 + half) / (2 * half)

    drawn = [once(rng.integers(0, n, n)) for _ in range(draws)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if draws else np.full((2, 3), np.nan)
    parts = ("value", "ceiling", "corrected")
    ends = {"": once(np.arange(n)), " low": low, " high": high}
    found = {p + end: float(x) for end, of in ends.items() for p, x in zip(parts, of, strict=True)}
    return found | {"pairs": n * (n - 1) // 2}


def delta_graph(table: pd.DataFrame, most: int = 3) -> nx.DiGraph:
    """An edge A → B for the `most` concepts that an erasure of A hurts most, weight δ > 0. Nodes:
    the concepts both down and across `Delta.table`. Raises `EraseError` for fewer than 3 of them,
    or `most` below 1."""
    names = [name for name in table.index if name in table.columns]
    if len(names) < 3 or most < 1:
        raise EraseError(f"{len(names)} concepts, {most} edges each: a graph needs 3, and 1 edge")
    graph = nx.DiGraph()
    graph.add_nodes_from(names)
    for name in names:
        worst = table.loc[name, names].drop(name).nlargest(most)
        edges = ((name, other, float(δ)) for other, δ in worst[worst > 0].items())
        graph.add_weighted_edges_from(edges)
    return graph


def communities(graph: nx.DiGraph, seed: int = 0) -> dict[str, int]:
    """The community of each node, 0 the largest: Louvain's greedy modularity (Blondel et al. 2008),
    directed (Leicht & Newman 2008), weighted."""
    check_range("seed", seed, 0, 2**32 - 1)
    found = louvain_communities(graph, seed=seed)
    order = sorted(found, key=lambda group: (-len(group), min(group)))
    return {name: i for i, group in enumerate(order) for name in sorted(group)}


def modularity_of(graph: nx.DiGraph, labels: Mapping[str, Any]) -> float:
    """Modularity of a labelling: the weight of edges within groups beyond that of chance."""
    own = [labels[node] for node in graph]
    return float(modularity(graph, pd.Series(list(graph)).groupby(own, sort=False).agg(set)))


def against_labels(
    graph: nx.DiGraph,
    found: Mapping[str, int],
    labels: Mapping[str, str],
    shuffles: int = 500,
    seed: int = 0,
) -> dict[str, float]:
    """Are the communities the labels, and do the labels hold the graph together? Keys: rand
    (adjusted Rand index: 1 the same groups, 0 as by chance), rand p; modularity of the labels, with
    mean and 97.5 % quantile of shuffled ones, and p; groups, nodes. p is the share of shuffles that
    reach as much, the labels themselves among them."""
    check_range("shuffles", shuffles, 1, 100_000)
    nodes, rng = list(graph), chance(seed)
    own, theirs = [labels[node] for node in nodes], [found[node] for node in nodes]

    def once(mixed: list[str]) -> tuple[float, float]:
        named = dict(zip(nodes, mixed, strict=True))
        return float(adjusted_rand_score(mixed, theirs)), modularity_of(graph, named)

    rand, within = once(own)
    drawn = np.array([once(rng.permutation(own).tolist()) for _ in range(shuffles)])
    p = ((1 + (drawn >= [rand, within]).sum(0)) / (1 + shuffles)).tolist()
    mean, high = float(drawn[:, 1].mean()), float(np.quantile(drawn[:, 1], 0.975))
    told = {"rand": rand, "rand p": p[0], "modularity": within, "modularity shuffled": mean}
    told |= {"modularity shuffled high": high, "modularity p": p[1]}
    return told | {"groups": len(set(own)), "nodes": len(nodes)}


def chance_modularity(
    table: pd.DataFrame, most: int = 3, shuffles: int = 20, seed: int = 0
) -> tuple[float, float]:
    """Mean and 97.5 % quantile of the modularity that Louvain finds where nothing is to be found:
    each erasure's δ shuffled among the other concepts. Even such graphs fall into groups."""
    check_range("shuffles", shuffles, 1, 100_000)
    names = [name for name in table.index if name in table.columns]
    rng, found = chance(seed), []
    for _ in range(shuffles):
        mixed = table.loc[names, names].copy()
        for name in names:
            others = [other for other in names if other != name]
            mixed.loc[name, others] = rng.permutation(mixed.loc[name, others].to_numpy())
        graph = delta_graph(mixed, most)
        found.append(modularity_of(graph, communities(graph, seed)))
    return float(np.mean(found)), float(np.quantile(found, 0.975))
