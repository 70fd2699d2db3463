"""Figures of the damage atlas: who hurts whom, how much, and whether both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.cluster.hierarchy import linkage

from erase_lib.show.charts import COLOURS, GREY, INK, SCALE, axes, dots, stacked
from erase_lib.show.pictures import MEDIUM, SMALL, WIDTH, stamp, thumbnails

# eight groups can be told apart, further ones are grey
GROUPS = (*COLOURS, "#F0E442")


def heat_map(table: pd.DataFrame, groups: Mapping[str, str], label: str = "δ") -> Figure:
    """Clustered: erased concepts down, harmed ones across, alike ones side by side.

    `groups`: the category of each concept, shown as a strip of colour. The colours of the cells end
    at the 98th percentile of |value|, or of all of one sign at the 2nd and 98th of the values; a
    concept itself is blank. Clusters by average linkage of 1 − correlation. Up to 100 rows and
    60 columns are named.
    """
    low, high = (float(np.nanquantile(table, share)) for share in (0.02, 0.98))
    two_sided = low < 0 < high
    if two_sided:
        high = float(np.nanquantile(np.abs(table), 0.98))
        low = -high
    names = list(dict.fromkeys(groups[c] for c in table.columns))
    colours = dict(zip(names, GROUPS, strict=False))
    strips = [pd.Series({c: colours[groups[c]] for c in axis}) for axis in table.axes]
    filled = table.fillna(0.0).to_numpy()
    grid = sns.clustermap(
        table.fillna(0.0),
        mask=table.isna(),
        row_linkage=linkage(filled, "average", "correlation"),
        col_linkage=linkage(filled.T, "average", "correlation"),
        cmap="PuOr_r" if two_sided else SCALE,
        vmin=low,
        vmax=high,
        row_colors=strips[0],
        col_colors=strips[1],
        xticklabels=len(table.columns) <= 60,
        yticklabels=len(table) <= 100,
        figsize=(WIDTH, max(7.5, 0.125 * min(len(table), 100) + 1.5)),
        dendrogram_ratio=(0.07, 0.07),
        colors_ratio=0.015,
        cbar_pos=(0.1, 1.005, 0.2, 0.012),
        cbar_kws={"orientation": "horizontal"},
    )
    grid.ax_cbar.set_title(label, fontsize=MEDIUM)
    grid.ax_cbar.tick_params(labelsize=SMALL)
    grid.ax_heatmap.tick_params(labelsize=7.5, length=0)
    grid.ax_heatmap.set(xlabel="harmed", ylabel="erased")
    grid.ax_heatmap.set_facecolor(GREY)
    for strip in (grid.ax_row_colors, grid.ax_col_colors):
        strip.tick_params(length=0)
    grid.figure.legend(
        handles=[Patch(color=colours[name], label=name) for name in names],
        loc="lower right",
        ncols=4,
        frameon=False,
        fontsize=SMALL,
        bbox_to_anchor=(0.96, 0.99),
    )
    return grid.figure


def parts(shares: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What the variance is made of, a bar a score: columns score, part, share, low, high, as
    `study.variance` makes them."""
    names = {"erased": "what is erased", "harmed": "who is harmed", "specific": "the pair itself"}
    order = {"score": shares["score"].unique(), "part": [*names, "noise"]}
    wide = shares.pivot(index="score", columns="part", values="share").clip(lower=0)
    wide = wide.loc[order["score"], order["part"]]
    ax = stacked(wide, names, axes(ax, 0.5 * len(wide) + 1.3))
    middle = wide.cumsum(axis=1) - wide / 2
    ground: dict[str, Any] = {"boxstyle": "round,pad=0.15", "fc": "w", "ec": "none", "alpha": 0.85}
    for i, j in np.argwhere(wide.to_numpy() > 0.04):
        at, text = middle.iloc[i, j], f"{100 * wide.iloc[i, j]:.0f} %"
        ax.text(at, i, text, ha="center", va="center", fontsize=SMALL, bbox=ground)
    ax.set_xlim(0, max(1, wide.sum(axis=1).max()))
    ax.set_xlabel("share of the variance of δ over all cells", fontsize=MEDIUM)
    return ax


def extremes(effects: pd.DataFrame, label: str = "δ", most: int = 8) -> Figure:
    """The concepts whose erasure did most and least in all, and those most and least fragile, with
    their pictures; `effects` as `study.effects` makes it."""
    figure = plt.figure(figsize=(WIDTH, 0.3 * 2 * most + 1.2), layout="constrained")
    titles = {"erased": "erased: damage done in all", "harmed": "harmed: damage whatever is erased"}
    known = thumbnails()
    for ax, (kind, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        table = effects[effects["kind"] == kind].sort_values("effect", ascending=False)
        n = min(most, len(table) // 2)
        table = pd.concat([table[:n], table[-n:]]).rename(columns={"effect": "value"})
        dots(table, "concept", pictures=known, ax=ax)
        ax.axvline(0, color=GREY, lw=1)
        ax.axhline(n - 0.5, color=GREY, lw=1, ls=":")
        ax.set_title(title, fontsize=MEDIUM)
        ax.set_xlabel(f"{label} beyond the mean, 95 %", fontsize=SMALL)
        ax.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def asymmetry(
    delta: pd.DataFrame, marked: pd.DataFrame, label: str = "δ", ax: Axes | None = None
) -> Axes:
    """δ(A → B) against δ(B → A), a point a pair, on the dashed line where harm is mutual.

    Both tables as `study.asymmetries` makes them; the pairs of `marked` are drawn large and named.
    """
    ax = axes(ax, 6.2, 6.6)
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
        right = x < ends.mean()
        to = (x + (0.02 if right else -0.02) * span, y)
        align: dict[str, Any] = {"ha": "left" if right else "right", "va": "center"}
        ax.annotate(text, (x, row.backward), to, fontsize=SMALL, **align)
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set(xlabel=f"{label}, first of the pair erased", ylabel=f"{label}, second erased")
    return ax


def dumbbells(table: pd.DataFrame, label: str = "δ", ax: Axes | None = None) -> Axes:
    """Each row a pair that is not mutual: what A does to B and what B does to A, 95 % intervals.

    Columns a, b, forward, backward, forward_error, backward_error, as `study.asymmetries` makes
    them. The one that does more stands left.
    """
    known, pictures, rows, ends = thumbnails(), {}, [], []
    for row in table.itertuples():
        both = [(row.forward, row.forward_error, row.a), (row.backward, row.backward_error, row.b)]
        more, less = sorted(both, reverse=True)
        pair = f"{more[2]} → {less[2]}"
        ends.append((less[0], more[0]))
        pictures[pair] = _beside(known[more[2]], known[less[2]])
        for (value, error, _), way in ((more, "as the arrow says"), (less, "the other way round")):
            rows.append((pair, way, value, value - error, value + error))
    columns = ["pair", "erased → harmed", "value", "low", "high"]
    ax = axes(ax, 0.38 * len(table) + 1.3)
    dots(pd.DataFrame(rows, columns=columns), "pair", columns[1], 0.2, pictures, ax)
    ax.hlines(range(len(table)), *zip(*ends, strict=True), color="#BBBBBB", lw=3, zorder=1)
    ax.axvline(0, color=GREY, lw=1)
    ax.set_xlabel(f"{label}, 95 %", fontsize=MEDIUM)
    return ax


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures as one."""
    both = Image.new("RGBA", (left.width + right.width, left.height))
    for picture, x in ((left, 0), (right, left.width)):
        both.paste(picture.convert("RGBA"), (x, 0))
    return both


def graph(
    harms: nx.DiGraph, groups: Mapping[str, int], seed: int = 0, ax: Axes | None = None
) -> Axes:
    """Who hurts whom: the emoji as nodes, the arrows as wide as the harm, communities by colour.

    `groups` as `study.communities` makes them; each is laid out by itself, around the middle.
    """
    ax = axes(ax, WIDTH)
    at = _layout(harms, groups, seed)
    colour = {node: GROUPS[k] if k < len(GROUPS) else GREY for node, k in groups.items()}
    top = max(weight for _, _, weight in harms.edges(data="weight"))
    for a, b, weight in sorted(harms.edges(data="weight"), key=lambda edge: edge[2]):
        inside = groups[a] == groups[b]
        nx.draw_networkx_edges(
            harms,
            at,
            [(a, b)],
            width=0.6 + 4.4 * weight / top,
            edge_color=colour[a] if inside else "#AAAAAA",
            alpha=0.8 if inside else 0.45,
            node_size=900,
            arrowsize=9 + 8 * weight / top,
            connectionstyle="arc3,rad=0.12",
            ax=ax,
        )
    pictures = thumbnails()
    for node, (x, y) in at.items():
        ax.scatter(x, y, s=820, color="w", edgecolors=colour[node], linewidths=2.2, zorder=3)
        stamp(ax, pictures[node], (x, y), size=20)
        ax.annotate(
            node,
            (x, y),
            (0, -20),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=10.5,
            zorder=5,
            bbox={"boxstyle": "round,pad=0.1", "fc": "w", "ec": "none", "alpha": 0.75},
        )
    ax.set_axis_off()
    ax.margins(0.04)
    return ax


def _layout(harms: nx.DiGraph, groups: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """A position of each node: its community's by the edges between communities, its own within."""
    start = nx.spring_layout(harms.to_undirected(), seed=seed, weight=None, iterations=200)
    number = max(groups.values()) + 1
    ring = {}
    middle = np.mean(list(start.values()), axis=0)
    for k in range(number):
        away = np.mean([start[node] for node in harms if groups[node] == k], axis=0) - middle
        ring[k] = np.arctan2(away[1], away[0])
    sizes = np.array([sum(g == k for g in groups.values()) for k in range(number)], dtype=float)
    order = sorted(ring, key=lambda k: ring[k])
    widths = np.sqrt(sizes[order])
    turns = 2 * np.pi * (np.cumsum(widths) - widths / 2) / widths.sum()
    at = {}
    for k, turn in zip(order, turns, strict=True):
        nodes = [node for node in harms if groups[node] == k]
        part = nx.Graph()  # its own, for a subgraph's order of nodes differs from run to run
        part.add_nodes_from(nodes)
        part.add_edges_from(edge for edge in harms.edges if set(edge) <= set(nodes))
        within = nx.kamada_kawai_layout(part, weight=None) if len(nodes) > 1 else {nodes[0]: [0, 0]}
        for node in nodes:
            centre = np.array([np.cos(turn), np.sin(turn)]) * 3.2
            at[node] = centre + np.asarray(within[node]) * 0.42 * np.sqrt(len(nodes))
    spots = np.array(list(at.values()))
    for _ in range(100):  # none may cover another
        apart = spots[:, None] - spots[None]
        far = np.linalg.norm(apart, axis=2) + np.eye(len(spots)) * 1e9 + 1e-9
        push = np.clip(0.62 - far, 0, None) / far
        spots = spots + 0.3 * (apart * push[..., None]).sum(1)
    return dict(zip(at, spots, strict=True))
