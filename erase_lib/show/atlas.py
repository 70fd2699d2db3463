"""Figures of the damage atlas: who hurts whom, how much, and whether both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from erase_lib.errors import EraseError, check_range
from erase_lib.show.charts import COLOURS, GREY, INK, SCALE, TWO_SIDED, dots, series, stacked
from erase_lib.show.page import HALO, MEDIUM, SMALL, WIDTH, axes, key, panels, said, stamp
from erase_lib.show.pictures import thumbnails

# of categories, where a strip of colour has no room for marks; from the ninth on they are grey
GROUPS = dict(enumerate((*COLOURS, "#F0E442", "#882255", "#999933")))


def heat_map(table: pd.DataFrame, groups: Mapping[str, str], label: str = "δ") -> Figure:
    """Erased concepts down, harmed ones across, alike ones (1 − correlation, average linkage) side
    by side, up to 100 rows and 60 columns named; `groups`, their categories, as a strip of colour.
    Colours end at the 98th percentile of |value|, or of all of one sign at the 2nd and 98th."""
    filled, known = table.fillna(0.0), pd.Series(groups)
    if lacking := [name for name in table.columns if name not in known.index]:
        raise EraseError(f"groups lacks {lacking[0]!r}: expected a category of every column")
    if not all(filled.std(axis=axis).min() > 0 for axis in (0, 1)):
        raise EraseError("a row or column is all one number, which is like no other: leave it out")
    low, high = np.nanquantile(table, [0.02, 0.98])
    if two_sided := low < 0 < high:
        high = np.nanquantile(np.abs(table), 0.98)
        low = -high
    colours = {name: GROUPS.get(k, GREY) for k, name in enumerate(known[table.columns].unique())}
    strip, height = known.map(colours).rename(None), max(7.5, 0.125 * min(len(table), 100) + 1.5)
    look: dict[str, Any] = {"cmap": TWO_SIDED if two_sided else SCALE, "vmin": low, "vmax": high}
    look |= {"xticklabels": len(table.columns) <= 60, "yticklabels": len(table) <= 100}
    look |= {"cbar_pos": (0.1, 1.005, 0.2, 0.012), "cbar_kws": {"orientation": "horizontal"}}
    look |= {"dendrogram_ratio": (0.07, 0.07), "colors_ratio": 0.015, "figsize": (WIDTH, height)}
    look |= {"row_colors": strip, "col_colors": strip, "metric": "correlation"}
    grid = sns.clustermap(filled, mask=table.isna(), **look)
    grid.ax_cbar.set_title(label, fontsize=MEDIUM)
    grid.ax_cbar.tick_params(labelsize=SMALL)
    grid.ax_heatmap.tick_params(labelsize=7.5, length=0)
    grid.ax_heatmap.set(xlabel="harmed", ylabel="erased")
    grid.ax_heatmap.set_facecolor(GREY)
    for ax in (grid.ax_row_colors, grid.ax_col_colors):
        ax.tick_params(length=0)
    marks = [Patch(color=colour, label=name) for name, colour in colours.items()]
    key(grid.figure, 4, handles=marks, bbox_to_anchor=(0.96, 0.99))
    return grid.figure


def parts(shares: pd.DataFrame) -> Axes:
    """What the variance is made of, a bar a score: columns score, part, share, low, high, as
    `study.variance` makes them."""
    names = {"erased": "what is erased", "harmed": "who is harmed", "specific": "the pair itself"}
    wide = shares.pivot(index="score", columns="part", values="share").clip(lower=0)
    wide = wide.loc[shares["score"].unique(), [*names, "noise"]]
    ax = stacked(wide, names, axes(None, 0.5 * len(wide) + 1.3))
    middle = wide.cumsum(axis=1) - wide / 2
    for i, j in np.argwhere(wide.to_numpy() > 0.04):
        at, text = middle.iloc[i, j], f"{100 * wide.iloc[i, j]:.0f} %"
        ax.text(at, i, text, ha="center", va="center", fontsize=SMALL, path_effects=HALO)
    ax.set_xlim(0, max(1, wide.sum(axis=1).max()))
    ax.set_xlabel("share of the variance of δ over all cells", fontsize=MEDIUM)
    return ax


def extremes(effects: pd.DataFrame, label: str = "δ", most: int = 8) -> Figure:
    """The concepts whose erasure did most and least in all, and those most and least fragile, with
    their pictures; `effects` as `study.effects` makes it."""
    figure, every = panels(2, 0.6 * most + 1.2, 2.3, sharey=False)
    titles = {"erased": "erased: damage done in all", "harmed": "harmed: damage whatever is erased"}
    known = thumbnails()
    for ax, (kind, title) in zip(every, titles.items(), strict=True):
        table = effects[effects["kind"] == kind].sort_values("effect", ascending=False)
        n = min(most, len(table) // 2)
        table = pd.concat([table[:n], table[-n:]]).rename(columns={"effect": "value"})
        dots(table, "concept", pictures=known, ax=ax)
        ax.axvline(0, color=GREY, lw=1)
        ax.axhline(n - 0.5, color=GREY, lw=1, ls=":")
        ax.set_title(title, fontsize=MEDIUM)
        ax.set_xlabel(f"{label} beyond the mean, 95 %", fontsize=SMALL)
        ax.locator_params(axis="x", nbins=5)
    return figure


def asymmetry(delta: pd.DataFrame, marked: pd.DataFrame, label: str = "δ") -> Axes:
    """δ(A → B) against δ(B → A), a point a pair, on the dashed line where harm is mutual; both
    tables as `study.asymmetries` makes them, the pairs of `marked` large and named."""
    ax = axes(None, 6.2, 6.6)
    ax.scatter(delta["forward"], delta["backward"], s=9, color=GREY, alpha=0.25, lw=0)
    ends = np.quantile(delta[["forward", "backward"]], [0, 1])
    ends = ends + np.array([-0.04, 0.06]) * np.ptp(ends)
    span = np.ptp(ends)
    ax.plot(ends, ends, color=GREY, ls="--", lw=1)
    ax.scatter(marked["forward"], marked["backward"], s=28, color=INK)
    placed: list[tuple[float, float]] = []
    for row in marked.itertuples():
        x, y = row.forward, row.backward
        text = f"{row.a} → {row.b}" if x > y else f"{row.b} → {row.a}"
        while any(abs(x - a) < 0.4 * span and abs(y - b) < 0.032 * span for a, b in placed):
            y += 0.013 * span
        placed.append((x, y))
        side, aside = ("left", 0.02) if x < ends.mean() else ("right", -0.02)
        ax.text(x + aside * span, y, text, fontsize=SMALL, ha=side, va="center")
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set(xlabel=f"{label}, first of the pair erased", ylabel=f"{label}, second erased")
    return ax


def dumbbells(table: pd.DataFrame, label: str = "δ") -> Axes:
    """Each row a pair that is not mutual: what A does to B and what B does to A, 95 % intervals;
    the one that does more stands left. `table` as `study.asymmetries` makes it."""
    known, pictures, rows, ends = thumbnails(), {}, [], []
    for row in table.itertuples():
        both = [(row.forward, row.forward_error, row.a), (row.backward, row.backward_error, row.b)]
        more, less = sorted(both, reverse=True)
        pair = f"{more[2]} → {less[2]}"
        stamps = [np.asarray(known[end[2]].convert("RGBA")) for end in (more, less)]
        ends.append((less[0], more[0]))
        pictures[pair] = Image.fromarray(np.hstack(stamps))
        for (value, error, _), way in ((more, "as the arrow says"), (less, "the other way round")):
            rows.append((pair, way, value, value - error, value + error))
    shown = pd.DataFrame(rows, columns=["pair", "way", "value", "low", "high"])
    ax = dots(shown, "pair", "way", 0.2, pictures, axes(None, 0.38 * len(table) + 1.3))
    ax.hlines(range(len(table)), *zip(*ends, strict=True), color="#BBBBBB", lw=3, zorder=1)
    ax.axvline(0, color=GREY, lw=1)
    ax.set_xlabel(f"{label}, 95 %", fontsize=MEDIUM)
    return ax


def graph(harms: nx.DiGraph, groups: Mapping[str, int], seed: int = 0) -> Axes:
    """Who hurts whom: the emoji as nodes, the arrows as wide as the harm; the communities, `groups`
    as `study.communities` makes them, by colour and shape and each in a place of its own."""
    check_range("seed", seed, 0, 2**32 - 1)
    ax, both = axes(None, WIDTH), harms.to_undirected()
    steps = dict(nx.all_pairs_shortest_path_length(both))
    apart = {
        a: {b: steps[a].get(b, 6) ** 0.3 * (1 + (groups[a] != groups[b])) for b in both}
        for a in both
    }
    at = nx.kamada_kawai_layout(both, apart, nx.spring_layout(both, seed=seed, weight=None))
    looks = {node: series(k) for node, k in groups.items()}
    edges = nx.to_pandas_edgelist(harms).sort_values("weight")
    size = edges["weight"].to_numpy() / edges["weight"].max()
    inside = edges["source"].map(groups) == edges["target"].map(groups)
    shades = (
        edges["source"].map(lambda node: looks[node]["color"]).where(inside, "#AAAAAA").tolist()
    )
    look: dict[str, Any] = {"width": 0.6 + 4.4 * size, "node_size": 900}
    look |= {"arrowsize": list(9 + 8 * size), "alpha": np.where(inside, 0.8, 0.45)}
    arrows = list(zip(edges["source"], edges["target"], strict=True))
    look |= {"edge_color": shades, "connectionstyle": "arc3,rad=0.12"}
    nx.draw_networkx_edges(harms, at, arrows, ax=ax, **look)
    pictures = thumbnails()
    look = {"fontsize": MEDIUM, "ha": "center", "va": "center", "zorder": 5}
    for node, (x, y) in at.items():
        ring = {"edgecolors": looks[node]["color"], "marker": looks[node]["marker"]}
        ax.scatter(x, y, s=820, color="w", linewidths=2.2, zorder=3, **ring)
        stamp(ax, pictures[node], (x, y), size=20)
        said(ax, node, (x, y), (0, -20), **look)
    ax.set_axis_off()
    ax.margins(0.04)
    return ax
