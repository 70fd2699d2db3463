"""Pictures of a search, and of what an erasure costs: functions of data, as in viz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from erase_lib.show.charts import KEPT, LOST, QUIET, TARGET


def chosen_map(
    history: pd.DataFrame,
    order: Sequence[str],
    windows: int = 20,
    top: int = 24,
    ax: Axes | None = None,
) -> Axes:
    """Which concepts a search preserved, and when: the `top` concepts of `order` down, the updates
    across in `windows` parts, and by colour the share of what was preserved in a part."""
    windows = min(windows, len(history))
    part = history["step"] * windows // (history["step"].max() + 1)
    chosen = history["chosen"].str.split("|").groupby(part).sum().explode()
    share = pd.crosstab(chosen, chosen.index, normalize="columns")
    names = list(order[:top])
    wide = share.reindex(index=names, columns=range(windows), fill_value=0.0)
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 0.24 * len(names) + 1.2), layout="constrained")
    edges = (history["step"].max() + 1) / windows
    sns.heatmap(wide, cmap="cividis", ax=ax, cbar_kws={"label": "share of what is preserved"})
    ax.set_xticks([0, windows], ["0", str(round(edges * windows))], rotation=0)
    ax.set_yticks([i + 0.5 for i in range(len(names))], names, fontsize=8, rotation=0)
    ax.set(xlabel="update of θ'", ylabel="")
    return ax


def search_spectrum(
    moved: Mapping[str, pd.DataFrame], label: int = 5, ax: Axes | None = None
) -> Axes:
    """How far every candidate moved, sorted, a line a search; the first `label` of the last named.

    Each table has columns concept and moved, the most moved first.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    for colour, (name, table) in zip(sns.color_palette("colorblind"), moved.items(), strict=False):
        ax.plot(range(1, len(table) + 1), table["moved"], "o-", ms=3, color=colour, label=name)
    for i, row in enumerate(table[:label].itertuples()):
        at = (i + 1, row.moved)
        ax.annotate(row.concept, at, (6, 4), textcoords="offset points", fontsize=8, rotation=30)
    ax.set(
        xlabel="candidates, the most moved first", ylabel="movement of ẑ₀, squared", ylim=(0, None)
    )
    ax.legend(title="search", frameon=False)
    return ax


def pi_map(
    history: pd.DataFrame, words: Sequence[str], order: Sequence[str], ax: Axes | None = None
) -> Axes:
    """softmax(π) over the updates as a multiple of chance, 1/n: candidates down in `order`.

    `words`: the candidates in π's own order."""
    pi = pd.DataFrame(history["pi"].tolist(), columns=list(words)).T.loc[list(order)] * len(words)
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 0.16 * len(words) + 1.2), layout="constrained")
    limit = max(pi.to_numpy().max() - 1, 1 - pi.to_numpy().min(), 1e-3)
    picture = ax.imshow(
        pi, aspect="auto", cmap="cividis", vmin=1 - limit, vmax=1 + limit, interpolation="nearest"
    )
    ax.figure.colorbar(picture, ax=ax, label="softmax(π) as a multiple of chance")
    ax.set_yticks(range(len(order)), list(order), fontsize=7)
    ax.set(xlabel="update of θ'")
    return ax


def costs(rows: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Seconds of every method on a logarithmic scale, with its evaluations beside the bar; lighter
    where not all of its updates were timed, the others extrapolated.

    Columns name, seconds, updates, timed_updates, evaluations."""
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 0.36 * len(rows) + 1.2), layout="constrained")
    whole = rows["timed_updates"] == rows["updates"]
    ax.barh(rows["name"], rows["seconds"], color=[KEPT if w else "#8FBFDD" for w in whole])
    for i, row in enumerate(rows.itertuples()):
        text = f"  {row.seconds:.3g} s"
        text += f", {row.evaluations:,} evaluations" if row.evaluations else ""
        text += "" if whole.iloc[i] else f" (from {row.timed_updates} updates)"
        ax.text(row.seconds, i, text, va="center", fontsize=9)
    ax.set(xscale="log", xlabel="seconds of one erasure (logarithmic)")
    ax.set_xlim(right=2000 * rows["seconds"].max())
    ax.invert_yaxis()
    return ax


def memory(rows: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The most that each part of an update held, stacked, and by ◆ the most that all held at once.

    Columns train_method, arrangement, and in MB weights_mb, gradients_mb, optimiser_mb,
    activations_mb, peak_mb."""
    names = rows["train_method"] + ", " + rows["arrangement"]
    parts = ("weights", "gradients", "optimiser", "activations")
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 0.36 * len(rows) + 1.4), layout="constrained")
    left = pd.Series(0.0, index=rows.index)
    for part, colour in zip(parts, (KEPT, TARGET, QUIET, LOST), strict=True):
        ax.barh(names, rows[f"{part}_mb"] / 1000, left=left, color=colour, label=part)
        left += rows[f"{part}_mb"] / 1000
    ax.plot(rows["peak_mb"] / 1000, names, "kD", ms=6, label="all at once")
    ax.set_xlabel("GB, each part at its own peak")
    ax.legend(frameon=False, loc="lower right")
    ax.invert_yaxis()
    return ax


def choice_weights(
    weights: Sequence[Tensor], temperatures: Sequence[float], title: str = ""
) -> Figure:
    """The weight of each candidate in several choices, a panel a temperature; ○ marks the largest.

    `weights`: for each temperature `(choices, n)`, from the same noise.
    """
    fig, axes = plt.subplots(
        1, len(weights), figsize=(2.75 * len(weights), 2.9), sharey=True, layout="constrained"
    )
    for ax, w, tau in zip(axes, weights, temperatures, strict=True):
        sns.heatmap(
            w, vmin=0, vmax=1, cmap="cividis", cbar=ax is axes[-1], ax=ax, xticklabels=False
        )
        ax.scatter(w.argmax(-1) + 0.5, np.arange(len(w)) + 0.5, c="white", edgecolors="black", s=40)
        ax.set(title=f"τ = {tau:g}", xlabel=f"candidate, 1 to {w.shape[1]}")
        ax.tick_params(length=0)
    axes[0].set_ylabel("choice")
    fig.suptitle(title)
    return fig


def movement_bars(
    moved: pd.DataFrame,
    title: str = "",
    colours: Sequence[str] = ("#E9A97B", LOST),
    bold: str = "",
) -> Axes:
    """How far each concept's ẑ₀ has moved: a row a concept, a bar a column of `moved`; the concept
    `bold` stands out."""
    ax = moved.plot.barh(color=list(colours), figsize=(7, 0.34 * len(moved) + 1), width=0.8)
    ax.set(xlabel="$L_2$: how far the student's prediction has moved", ylabel="", title=title)
    for tick, name in zip(ax.get_yticklabels(), moved.index, strict=True):
        tick.set(fontweight="bold" if name == bold else "normal")
    # the bars stand from below upwards, so their names do too
    ax.legend(*(x[::-1] for x in ax.get_legend_handles_labels()), frameon=False, loc="lower right")
    ax.figure.set_layout_engine("constrained")
    return ax


def slopes(truth: pd.Series, gradients: pd.DataFrame, title: str = "") -> Figure:
    """Where a gradient sends π against how far each candidate has truly moved, a panel a column.

    The three most moved are named, and in each panel the two that it rises towards most.
    """
    told = [gradients[name].nlargest(2).index for name in gradients]
    named = set(truth.nlargest(3).index).union(*told)
    fig, axes = plt.subplots(
        1, len(told), figsize=(4.5 * len(told), 3.8), squeeze=False, layout="constrained"
    )
    for ax, name in zip(axes[0], gradients, strict=True):
        ax.scatter(truth, gradients[name], color=KEPT)
        for word in named:
            at = (truth[word], gradients.loc[word, name])
            ax.annotate(word, at, xytext=(4, 4), textcoords="offset points", fontsize=9)
        ax.margins(x=0.3, y=0.1)
        ax.axhline(0, color=QUIET, linewidth=1)
        rank = truth.corr(gradients[name], method="spearman")
        ax.set(title=f"{name}: rank correlation {rank:+.2f}", xlabel="$L_2$ of the student")
    axes[0, 0].set_ylabel("gradient of $L_2$ by $\\pi_i$")
    fig.suptitle(title)
    return fig
