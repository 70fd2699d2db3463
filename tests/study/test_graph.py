"""Who hurts whom: planted asymmetries and communities are found, and none where there are none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from simulated import TARGETS, simulated

from erase_lib import EraseError
from erase_lib.study.atlas import specific
from erase_lib.study.graph import (
    against_labels,
    asymmetries,
    chance_modularity,
    communities,
    delta_graph,
    modularity_of,
    symmetry,
)


def test_a_planted_asymmetry_is_found_among_all_pairs():
    found = simulated(1, 1, 0, 0.3)
    found.values[2, 5] += 4  # an erasure of c2 hurts c5, not the reverse
    table = asymmetries(specific(found))
    assert len(table) == TARGETS * (TARGETS - 1) // 2
    first = table.iloc[0]
    assert {first["a"], first["b"]} == {"c2", "c5"} and first["q"] < 0.05
    assert first["difference"] == pytest.approx(first["forward"] - first["backward"])
    assert first["low"] > 0 if first["a"] == "c2" else first["high"] < 0


def test_symmetric_pairs_are_rarely_called_lopsided():
    false = 0
    for seed in range(5):
        found = simulated(0, 0, 0, 1, seed=seed)
        false += (asymmetries(found)["q"] < 0.05).sum()
    assert false <= 5  # of 2,175 pairs


def test_how_mutual_delta_is_against_its_ceiling():
    rng = np.random.default_rng(0)
    own = rng.normal(size=(TARGETS, TARGETS))
    found = simulated(0, 0, 0, 0.5)
    found.values[:, :TARGETS] += ((own + own.T) / 2**0.5)[..., None]
    both = symmetry(found, "pearson", draws=40)
    # the pair's variance 1, the mean's noise 0.25/2
    assert both["value"] == pytest.approx(1 / 1.125, abs=0.05)
    assert both["ceiling"] == pytest.approx(1 / 1.125, abs=0.05)
    assert both["corrected"] == pytest.approx(1, abs=0.05)
    assert both["pairs"] == TARGETS * (TARGETS - 1) // 2
    assert abs(symmetry(simulated(0, 0, 1, 0.1), draws=0)["value"]) < 0.1


def test_planted_communities_are_recovered():
    rng, names = np.random.default_rng(0), [f"c{i}" for i in range(24)]
    family = {name: "abc"[i % 3] for i, name in enumerate(names)}
    table = pd.DataFrame(rng.random((24, 24)), names, names)
    for a in names:
        table.loc[a, [b for b in names if family[b] == family[a]]] += 2
    web = delta_graph(table, most=3)
    assert all(family[a] == family[b] for a, b in web.edges) and web.number_of_edges() == 72
    groups = communities(web)
    check = against_labels(web, groups, family, shuffles=99)
    assert check["modularity p"] == pytest.approx(0.01) and check["modularity"] > 0.6
    assert modularity_of(web, groups) > chance_modularity(table, 3, shuffles=5)[1]
    for group in set(groups.values()):  # none mixes families
        assert len({family[name] for name in names if groups[name] == group}) == 1
    with pytest.raises(EraseError, match="a graph needs 3"):
        delta_graph(table.iloc[:2, :2])
