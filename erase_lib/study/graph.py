"""Who hurts whom, as a directed graph: its communities, and whether they are the categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
from networkx.algorithms.community import louvain_communities, modularity
from sklearn.metrics import adjusted_rand_score

from erase_lib.errors import EraseError


def harm_graph(table: pd.DataFrame, most: int = 3) -> nx.DiGraph:
    """An edge A → B for the `most` concepts that an erasure of A harms most, weight δ > 0.

    `table`: erased concepts down, harmed ones across; only those that are both become nodes.
    Raises `EraseError` for fewer than 3 of them, or `most` below 1.
    """
    names = [name for name in table.index if name in table.columns]
    if len(names) < 3 or most < 1:
        raise EraseError(
            f"{len(names)} concepts, {most} edges each: a graph needs 3, and 1 or more"
        )
    graph = nx.DiGraph()
    graph.add_nodes_from(names)
    for name in names:
        strongest = table.loc[name, names].drop(name).nlargest(most)
        edges = strongest[strongest > 0].items()
        graph.add_weighted_edges_from((name, other, float(weight)) for other, weight in edges)
    return graph


def communities(graph: nx.DiGraph, seed: int = 0) -> dict[str, int]:
    """The community of each node, 0 the largest: Louvain's greedy modularity (Blondel et al. 2008),
    directed (Leicht & Newman 2008), weighted."""
    found = louvain_communities(graph, seed=seed)
    order = sorted(found, key=lambda group: (-len(group), min(group)))
    return {name: i for i, group in enumerate(order) for name in sorted(group)}


def strength_of(graph: nx.DiGraph, labels: Mapping[str, Any]) -> float:
    """Modularity of a labelling: the weight of edges within groups, beyond what chance would put
    there."""
    groups: dict[Any, set[str]] = {}
    for node in graph:
        groups.setdefault(labels[node], set()).add(node)
    return float(modularity(graph, groups.values()))


def compared(
    graph: nx.DiGraph,
    found: Mapping[str, int],
    labels: Mapping[str, str],
    shuffles: int = 500,
    seed: int = 0,
) -> dict[str, float]:
    """Are the communities the labels, and do the labels hold the graph together?

    Keys: rand (adjusted Rand index: 1 the same groups, 0 as by chance), rand p; modularity of the
    labels, with the mean and the 97.5 % quantile of shuffled ones, and p; groups, nodes. p is the
    share of shuffles that reach as much, the labels as they are counted among them.
    """
    nodes, rng = list(graph), np.random.default_rng(seed)
    own = [labels[node] for node in nodes]
    theirs = [found[node] for node in nodes]
    rand, held = adjusted_rand_score(own, theirs), strength_of(graph, labels)
    chance = []
    for _ in range(shuffles):
        mixed = rng.permutation(own).tolist()
        mapped = dict(zip(nodes, mixed, strict=True))
        chance.append((adjusted_rand_score(mixed, theirs), strength_of(graph, mapped)))
    rands, helds = np.array(chance).T
    return {
        "rand": float(rand),
        "rand p": float((1 + (rands >= rand).sum()) / (1 + shuffles)),
        "modularity": held,
        "modularity shuffled": float(helds.mean()),
        "modularity shuffled high": float(np.quantile(helds, 0.975)),
        "modularity p": float((1 + (helds >= held).sum()) / (1 + shuffles)),
        "groups": len(set(own)),
        "nodes": len(nodes),
    }


def chance_modularity(
    table: pd.DataFrame, most: int = 3, shuffles: int = 20, seed: int = 0
) -> tuple[float, float]:
    """Mean and 97.5 % quantile of the modularity that Louvain finds where there is nothing to find:
    each erasure's harms shuffled among the other concepts. Even such graphs fall into groups."""
    names = [name for name in table.index if name in table.columns]
    rng, found = np.random.default_rng(seed), []
    for _ in range(shuffles):
        mixed = table.loc[names, names].copy()
        for name in names:
            others = [other for other in names if other != name]
            mixed.loc[name, others] = rng.permutation(mixed.loc[name, others].to_numpy())
        graph = harm_graph(mixed, most)
        found.append(strength_of(graph, communities(graph, seed)))
    return float(np.mean(found)), float(np.quantile(found, 0.975))
