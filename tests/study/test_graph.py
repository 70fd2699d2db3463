"""Who hurts whom: planted asymmetries and communities are found, and none where there are none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from simulated import TARGETS, simulated

from erase_lib import show
from erase_lib.study import graph
from erase_lib.study.atlas import specific, variance


def test_a_planted_asymmetry_is_found_among_all_pairs():
    found = simulated(1, 1, 0, 0.3)
    found.values[2, 5] += 4  # an erasure of c2 hurts c5, not the reverse
    table = graph.asymmetries(specific(found))
    assert len(table) == TARGETS * (TARGETS - 1) // 2
    first = table.iloc[0]
    assert {first["a"], first["b"]} == {"c2", "c5"} and first["q"] < 0.05
    assert first["difference"] == pytest.approx(first["forward"] - first["backward"])
    assert first["low"] > 0 if first["a"] == "c2" else first["high"] < 0


def test_symmetric_pairs_are_rarely_called_lopsided():
    tables = [graph.asymmetries(simulated(0, 0, 0, 1, seed=seed)) for seed in range(5)]
    assert sum((table["q"] < 0.05).sum() for table in tables) <= 5  # of 2,175 pairs


def test_how_mutual_delta_is_against_its_ceiling():
    own = np.random.default_rng(0).normal(size=(TARGETS, TARGETS))
    found = simulated(0, 0, 0, 0.5)
    found.values[:, :TARGETS] += ((own + own.T) / 2**0.5)[..., None]
    both = graph.symmetry(found, "pearson", draws=40)
    # the pair's variance 1, the mean's noise 0.25/2
    expected = {"value": 1 / 1.125, "ceiling": 1 / 1.125, "corrected": 1}
    assert {name: both[name] for name in expected} == pytest.approx(expected, abs=0.05)
    assert both["pairs"] == TARGETS * (TARGETS - 1) // 2
    assert abs(graph.symmetry(simulated(0, 0, 1, 0.1), draws=0)["value"]) < 0.1


def test_a_correlation_or_a_seed_that_is_none(refused):
    found = simulated()
    for kind in ("spearmann", "kendall", ""):
        refused(graph.symmetry, found, kind, says=["correlation", repr(kind)])
    web = graph.delta_graph(found.among_targets().table())
    names = dict.fromkeys(web, 0)
    for call, given in (
        (graph.symmetry, [found]),
        (graph.asymmetries, [found]),
        (graph.communities, [web]),
        (graph.against_labels, [web, names, dict.fromkeys(web, "a")]),
        (graph.chance_modularity, [found.among_targets().table()]),
        (variance, [found]),
        (show.graph, [web, names]),
    ):
        refused(call, *given, seed=-1, says="seed is -1")


def test_planted_communities_are_recovered(refused):
    rng, names = np.random.default_rng(0), [f"c{i}" for i in range(24)]
    family = {name: "abc"[i % 3] for i, name in enumerate(names)}
    table = pd.DataFrame(rng.random((24, 24)), names, names)
    for a in names:
        table.loc[a, [b for b in names if family[b] == family[a]]] += 2
    web = graph.delta_graph(table, most=3)
    assert all(family[a] == family[b] for a, b in web.edges) and web.number_of_edges() == 72
    groups = graph.communities(web)
    check = graph.against_labels(web, groups, family, shuffles=99)
    assert check["modularity p"] == pytest.approx(0.01) and check["modularity"] > 0.6
    assert graph.modularity_of(web, groups) > graph.chance_modularity(table, 3, shuffles=5)[1]
    for group in set(groups.values()):  # none mixes families
        assert len({family[name] for name in names if groups[name] == group}) == 1
    assert "needs 3" in refused(graph.delta_graph, table.iloc[:2, :2])
