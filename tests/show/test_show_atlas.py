"""Figures of the damage atlas hold what their tables say."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from erase_lib import show

NAMES = ["church", "dog", "cat", "bus", "rose"]


def names(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def test_the_heat_map_is_two_sided_where_the_values_are():
    values = np.random.default_rng(0).normal(size=(5, 5))
    np.fill_diagonal(values, np.nan)
    table = pd.DataFrame(values, NAMES, NAMES)
    groups = dict(zip(NAMES, ["place", "animal", "animal", "thing", "plant"], strict=True))
    figures = [show.heat_map(shown, groups) for shown in (table, table.abs() + 1)]
    heat, positive = (ax for f in figures for ax in f.axes if ax.get_xlabel() == "harmed")
    mesh = heat.collections[0]
    assert sorted(names(heat)) == sorted(NAMES)
    assert mesh.get_clim()[0] == -mesh.get_clim()[1] and positive.collections[0].get_clim()[0] > 0
    assert np.ma.count_masked(mesh.get_array()) == 5  # a concept itself
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["place", "animal", "thing", "plant"]


def test_the_heat_map_has_more_categories_than_colours():
    many = list("abcdefghi")
    table = pd.DataFrame(np.random.default_rng(0).random((9, 9)), many, many)
    assert len(show.heat_map(table, {c: c for c in many}).legends[0].get_texts()) == 9


def test_shares_of_variance_stand_end_to_end():
    shares = {"erased": 0.5, "harmed": 0.02, "specific": 0.3, "noise": 0.18}
    table = pd.DataFrame([{"score": "clip", "part": p, "share": s} for p, s in shares.items()])
    ax = show.parts(table)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(list(shares.values()))
    assert [bar.get_x() for bar in ax.patches] == pytest.approx([0, 0.5, 0.52, 0.82])
    assert [text.get_text() for text in ax.texts] == ["50 %", "30 %", "18 %"]  # 2 % has no room


def test_extremes_are_the_ends():
    rows = [
        {"kind": k, "concept": c, "effect": e, "low": e - 0.1, "high": e + 0.1}
        for k, sign in (("erased", 1), ("harmed", -1))
        for c, e in zip(NAMES, sign * np.arange(5.0), strict=True)
    ]
    one, two = show.extremes(pd.DataFrame(rows), most=1).axes
    assert names(one) == ["rose", "church"] and names(two) == ["church", "rose"]


PAIRS = pd.DataFrame(
    [("church", "dog", 0.1, 0.5, 0.02, 0.03), ("cat", "bus", 0.9, 0.2, 0.02, 0.03)],
    columns=["a", "b", "forward", "backward", "forward_error", "backward_error"],
)


def test_pairs_that_are_not_mutual_are_named_by_who_does_more():
    ax = show.asymmetry(PAIRS, PAIRS)
    assert [text.get_text() for text in ax.texts] == ["dog → church", "cat → bus"]
    assert ax.collections[0].get_offsets().tolist() == [[0.1, 0.5], [0.9, 0.2]]
    ax = show.dumbbells(PAIRS)
    assert names(ax) == ["dog → church", "cat → bus"]
    more, less = (bars.lines[0].get_xdata().tolist() for bars in ax.containers)
    assert (more, less) == ([0.5, 0.9], [0.1, 0.2])
    ends = ax.containers[0].lines[2][0].get_segments()
    assert [end[:, 0].round(6).tolist() for end in ends] == [[0.47, 0.53], [0.88, 0.92]]


def test_the_graph_names_every_node_and_draws_the_same_twice():
    web = nx.DiGraph()
    web.add_weighted_edges_from([("church", "dog", 1.0), ("dog", "cat", 0.5), ("bus", "rose", 0.2)])
    groups = {"church": 0, "dog": 0, "cat": 0, "bus": 1, "rose": 1}
    ax, again = (show.graph(web, groups, seed=1) for _ in range(2))
    assert {text.get_text() for text in ax.texts} >= set(NAMES)
    assert [t.xy for t in ax.texts] == [t.xy for t in again.texts]
