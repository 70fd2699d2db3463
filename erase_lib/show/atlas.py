"""Pictures of the damage atlas: functions of data, as in viz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.cluster.hierarchy import linkage

from erase_lib.show.charts import KEPT, LOST, QUIET, TARGET
from erase_lib.show.sensitivity import NEUTRAL, mark, thumbnails

# Okabe & Ito's other colours: eight groups can be told apart, further ones are grey
GROUPS = (KEPT, LOST, "#009E73", TARGET, NEUTRAL, "#56B4E9", "#F0E442", "#000000")
PARTS = {"erased": TARGET, "harmed": NEUTRAL, "specific": KEPT, "noise": "#BBBBBB"}


def emoji(concepts: Sequence[str]) -> dict[str, Image.Image]:
    """The `thumbnails` of these concepts, their white ground transparent."""
    known, found = thumbnails(), {}
    for concept in concepts:
        pixels = np.array(known[concept].convert("RGBA"))
        pixels[(pixels[..., :3] > 250).all(2), 3] = 0
        found[concept] = Image.fromarray(pixels)
    return found


def heat_map(table: pd.DataFrame, groups: Mapping[str, str], label: str = "δ") -> Figure:
    """Clustered: erased concepts down, harmed ones across, alike ones side by side.

    `groups`: the category of each concept, shown as a strip of colour. The colours of the cells end
    at the 98th percentile of |value|, or of all of one sign at the 2nd and 98th of the values; a
    concept itself is blank. Clusters by average linkage of 1 − correlation. Up to 100 rows or
    columns are named.
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
        cmap="PuOr_r" if two_sided else "cividis",
        vmin=low,
        vmax=high,
        row_colors=strips[0],
        col_colors=strips[1],
        xticklabels=len(table.columns) <= 100,
        yticklabels=len(table) <= 100,
        figsize=(13, 12),
        dendrogram_ratio=(0.07, 0.07),
        colors_ratio=0.015,
        cbar_pos=(0.1, 1.005, 0.2, 0.012),
        cbar_kws={"orientation": "horizontal"},
    )
    grid.ax_cbar.set_title(label, fontsize=11)
    grid.ax_heatmap.tick_params(labelsize=9, length=0)
    for axis in (grid.ax_heatmap.xaxis, grid.ax_heatmap.yaxis):
        axis.label.set_size(13)
    grid.ax_heatmap.set(xlabel="harmed", ylabel="erased")
    grid.ax_heatmap.set_facecolor(QUIET)
    for strip in (grid.ax_row_colors, grid.ax_col_colors):
        strip.tick_params(length=0)
    grid.figure.legend(
        handles=[Patch(color=colours[name], label=name) for name in names],
        loc="lower right",
        ncols=len(names),
        frameon=False,
        fontsize=11,
        bbox_to_anchor=(0.96, 0.99),
    )
    return grid.figure


def parts(shares: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What the variance is made of, a bar a score: columns score, part, share, low, high, as
    `atlas.variance` makes them."""
    scores = list(shares["score"].unique())
    if ax is None:
        _, ax = plt.subplots(figsize=(8.5, 0.55 * len(scores) + 1.5), layout="constrained")
    names = {"erased": "what is erased", "harmed": "who is harmed", "specific": "the pair itself"}
    left = pd.Series(0.0, index=scores)
    for part, colour in PARTS.items():
        share = shares[shares["part"] == part].set_index("score")["share"].loc[scores].clip(lower=0)
        ax.barh(scores, share, left=left, color=colour, label=names.get(part, part))
        dark = part == "specific"
        for i, value in enumerate(share):
            if value > 0.04:
                middle, text = left.iloc[i] + value / 2, f"{100 * value:.0f} %"
                ax.text(middle, i, text, ha="center", va="center", color="w" if dark else "k")
        left += share
    ax.set(xlim=(0, max(1, left.max())), xlabel="share of the variance of δ over all cells")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def extremes(effects: pd.DataFrame, label: str = "δ", most: int = 8) -> Figure:
    """The concepts whose erasure did most and least in all, and those most and least fragile, with
    their pictures; `effects` as `atlas.effects` makes it."""
    fig, axes = plt.subplots(1, 2, figsize=(10, 0.36 * 2 * most + 1.2), layout="constrained")
    titles = {"erased": "erased: damage done in all", "harmed": "harmed: damage whatever is erased"}
    for ax, (kind, title) in zip(axes, titles.items(), strict=True):
        table = effects[effects["kind"] == kind].sort_values("effect")
        most = min(most, len(table) // 2)
        table = pd.concat([table[:most], table[-most:]]).reset_index(drop=True)
        gaps = [table["effect"] - table["low"], table["high"] - table["effect"]]
        ax.errorbar(table["effect"], table.index, xerr=gaps, fmt="o", capsize=3, color=PARTS[kind])
        ax.axvline(0, color=QUIET, lw=1)
        ax.axhline(most - 0.5, color=QUIET, lw=1, ls=":")
        ax.set_yticks(table.index, table["concept"] + "      ")
        ax.tick_params(axis="y", length=0)
        pictures = emoji(list(table["concept"]))
        for i, name in enumerate(table["concept"]):
            image = OffsetImage(np.asarray(pictures[name]), zoom=18 / 64, resample=True)
            beside = ((0, i), (-12, 0), ax.get_yaxis_transform(), "offset points")
            at, shift, coords, box = beside
            ax.add_artist(
                AnnotationBbox(image, at, shift, xycoords=coords, boxcoords=box, frameon=False)
            )
        ax.set(title=title, xlabel=f"{label} beyond the mean, 95 %")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.grid(axis="x", alpha=0.3)
    return fig


def mutual(
    delta: pd.DataFrame, marked: pd.DataFrame, label: str = "δ", ax: Axes | None = None
) -> Axes:
    """δ(A → B) against δ(B → A), a point a pair, on the dashed line where harm is mutual.

    Both tables as `mutual.asymmetries` makes them; the pairs of `marked` are drawn large and named.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.6, 6.2), layout="constrained")
    ax.scatter(delta["forward"], delta["backward"], s=9, color=QUIET, alpha=0.25, lw=0)
    ends = np.quantile(delta[["forward", "backward"]], [0, 1])
    ends = ends + np.array([-0.04, 0.06]) * np.ptp(ends)
    ax.plot(ends, ends, color=QUIET, ls="--", lw=1)
    ax.scatter(marked["forward"], marked["backward"], s=28, color=LOST)
    placed: list[tuple[float, float]] = []
    for row in marked.itertuples():
        below = row.forward > row.backward
        text = f"{row.a} → {row.b}" if below else f"{row.b} → {row.a}"
        y = row.backward
        while any(
            abs(row.forward - x) < 0.4 * np.ptp(ends) and abs(y - z) < 0.032 * np.ptp(ends)
            for x, z in placed
        ):
            y += 0.013 * np.ptp(ends)
        placed.append((row.forward, y))
        right = row.forward < ends.mean()
        ax.annotate(
            text,
            (row.forward, row.backward),
            (row.forward + (0.02 if right else -0.02) * np.ptp(ends), y),
            ha="left" if right else "right",
            va="center",
            fontsize=9,
        )
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set(xlabel=f"{label}, first of the pair erased", ylabel=f"{label}, second erased")
    return ax


def dumbbells(table: pd.DataFrame, label: str = "δ", ax: Axes | None = None) -> Axes:
    """Each row a pair that is not mutual: what A does to B and what B does to A, 95 % intervals.

    Columns a, b, forward, backward, forward_error, backward_error, as `mutual.asymmetries` makes
    them. The one that does more stands left.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(9, 0.5 * len(table) + 1.4), layout="constrained")
    pictures = emoji([*table["a"], *table["b"]])
    beside = ax.get_yaxis_transform()
    for i, row in enumerate(table.itertuples()):
        more, less = (row.forward, row.forward_error), (row.backward, row.backward_error)
        left, right = row.a, row.b
        if row.backward > row.forward:
            (more, less), (left, right) = (less, more), (right, left)
        ax.plot([less[0], more[0]], [i, i], color="#BBBBBB", lw=3, zorder=1)
        for (x, error), colour, shift in ((more, LOST, -0.09), (less, KEPT, 0.09)):
            ax.errorbar(x, i + shift, xerr=error, fmt="o", ms=7, capsize=3, color=colour)
        for name, x, align in ((left, -185, "left"), (right, -22, "right")):
            image = OffsetImage(np.asarray(pictures[name]), zoom=22 / 64, resample=True)
            ax.add_artist(
                AnnotationBbox(
                    image,
                    (0, i),
                    (x, 0),
                    xycoords=beside,
                    boxcoords="offset points",
                    frameon=False,
                )
            )
            ax.annotate(
                name,
                (0, i),
                (x + (15 if align == "left" else -15), 0),
                xycoords=beside,
                textcoords="offset points",
                ha=align,
                va="center",
                fontsize=9.5,
            )
    ax.axvline(0, color=QUIET, lw=1)
    ax.set_yticks(range(len(table)), [" " * 62] * len(table))
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel(f"{label}, 95 %")
    ax.plot([], [], "o", color=LOST, label="left erased, right harmed")
    ax.plot([], [], "o", color=KEPT, label="right erased, left harmed")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    ax.grid(axis="x", alpha=0.3)
    return ax


def graph(
    harms: nx.DiGraph, groups: Mapping[str, int], seed: int = 0, ax: Axes | None = None
) -> Axes:
    """Who hurts whom: the emoji as nodes, the arrows as wide as the harm, communities by colour.

    `groups` as `harm_graph.communities` makes them; each is laid out by itself, around the middle.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(12, 12), layout="constrained")
    at = _layout(harms, groups, seed)
    colour = {node: GROUPS[k] if k < len(GROUPS) else QUIET for node, k in groups.items()}
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
    pictures = emoji(list(harms))
    for node, (x, y) in at.items():
        ax.scatter(x, y, s=820, color="w", edgecolors=colour[node], linewidths=2.2, zorder=3)
        mark(ax, pictures[node], (x, y), zoom=20 / 64)
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
