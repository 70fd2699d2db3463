"""Every picture of the workbook: each a function of data that takes `ax=` or returns a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Okabe & Ito's colours, told apart by colour-blind readers
KEPT, LOST, TARGET, QUIET = "#0072B2", "#D55E00", "#CC79A7", "#666666"


def show_picture(
    picture: Image.Image, ax: Axes, title: str = "", below: str = "", colour: str = QUIET
) -> Axes:
    """One picture with a frame in `colour`, a title above and the judge's verdict below."""
    ax.imshow(picture.resize((256, 256), Image.Resampling.LANCZOS))
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    ax.set_xlabel(below, fontsize=9, color=colour)
    for side in ax.spines.values():
        side.set(color=colour, linewidth=2.5)
    return ax


def before_after(
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    verdicts_before: pd.DataFrame,
    verdicts_after: pd.DataFrame,
    targets: Sequence[str],
    title: str = "",
) -> Figure:
    """Two rows of the same prompts and seeds, original above erased.

    The frame and the word below say what the judge sees: ✓ the concept asked for, ✗ another. The
    verdict tables have one row a picture, in the same order: concept, style, rank, seen.
    """
    n = len(before)
    fig, axes = plt.subplots(2, n, figsize=(1.45 * n, 4.1), squeeze=False, layout="constrained")
    rows = ((before, verdicts_before, "original"), (after, verdicts_after, "erased"))
    for line, (pictures, table, name) in zip(axes, rows, strict=True):
        for ax, picture, verdict in zip(line, pictures, table.itertuples(), strict=True):
            right = verdict.rank == 0
            erased = verdict.concept in targets
            label = f"{verdict.concept}\n{verdict.style}" if name == "original" else ""
            show_picture(
                picture,
                ax,
                title=f"erase: {label}" if erased and label else label,
                below="✓" if right else f"✗ {verdict.seen}",
                colour=KEPT if right else LOST,
            )
        line[0].set_ylabel(name, fontsize=12)
    if title:
        fig.suptitle(title, fontsize=13)
    return fig


def damage_bars(damage: pd.DataFrame, targets: Sequence[str], ax: Axes | None = None) -> Axes:
    """Horizontal bars of δ per concept: columns concept, delta; the targets in their own colour."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.28 * len(damage) + 1))
    table = damage.sort_values("delta")
    colours = [
        TARGET if c in targets else LOST if d > 0 else KEPT
        for c, d in table[["concept", "delta"]].to_numpy()
    ]
    ax.barh(table["concept"], table["delta"], color=colours)
    ax.axvline(0, color=QUIET, linewidth=1)
    ax.set_xlabel("δ = judge's probability, original − erased")
    return ax


def intervals(summary: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """ESR and PSR with their 95 % intervals, the original model beside the erased.

    `summary` as `metrics.summary` makes it: columns metric, model, value, low, high, n.
    """
    metrics = list(summary["metric"].unique())
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.6 * len(metrics) + 1), layout="constrained")
    for model, colour, shift in (("original", QUIET, 0.12), ("erased", LOST, -0.12)):
        rows = summary[summary["model"] == model].set_index("metric").loc[metrics]
        y = [len(metrics) - 1 - i + shift for i in range(len(metrics))]
        gaps = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        ax.errorbar(rows["value"], y, xerr=gaps, fmt="o", capsize=3, color=colour, label=model)
    numbers = summary.drop_duplicates("metric").set_index("metric")["n"]
    ax.set_yticks(range(len(metrics))[::-1], [f"{m}\n(n = {numbers[m]})" for m in metrics])
    ax.set(xlim=(-0.03, 1.03), xlabel="share of pictures, 95 % interval over prompts")
    ax.legend(frameon=False, loc="lower left")
    return ax


def pivots(table: pd.DataFrame, rows: str, columns: str) -> Figure:
    """A heat map a metric: mean `value` of the runs, `rows` down, `columns` across, both in the
    table's own order."""
    metrics = list(table["metric"].unique())
    fig, axes = plt.subplots(
        1, len(metrics), figsize=(4.2 * len(metrics), 3.4), squeeze=False, layout="constrained"
    )
    for ax, metric in zip(axes[0], metrics, strict=True):
        part = table[table["metric"] == metric]
        wide = part.pivot_table(index=rows, columns=columns, values="value")
        wide = wide.loc[part[rows].unique(), part[columns].unique()]
        sns.heatmap(wide, vmin=0, vmax=1, annot=True, fmt=".2f", cmap="cividis", cbar=False, ax=ax)
        ax.tick_params(length=0, rotation=0)
        ax.set(title=metric, xlabel="", ylabel="")
    return fig


def multiples(table: pd.DataFrame, pooled: pd.DataFrame, rows: str, hue: str) -> Figure:
    """Small multiples, one a metric: each erased run a point, `rows` down, `hue` by colour; in
    black the mean and interval of `pooled` (`intervals.means`); a dashed line where the table has
    the unedited model's value."""
    runs, rest = (table[table["model"] == model] for model in ("erased", "original"))
    order, hues = list(runs[rows].unique()), list(runs[hue].unique())
    height = 0.42 * len(order) + 1.3
    grid = sns.FacetGrid(runs, col="metric", height=height, aspect=3.6 / height, sharex=False)
    grid.map_dataframe(
        sns.stripplot,
        x="value",
        y=rows,
        hue=hue,
        order=order,
        hue_order=hues,
        palette="colorblind",
        size=6,
        alpha=0.8,
        jitter=0.25,
    )
    for metric, ax in grid.axes_dict.items():
        mean = pooled[pooled["metric"] == metric].set_index(rows).loc[order]
        gaps = [mean["value"] - mean["low"], mean["high"] - mean["value"]]
        ax.errorbar(mean["value"], range(len(order)), xerr=gaps, fmt="k|", ms=16, capsize=4, lw=2)
        if metric.startswith("PSR"):
            ax.axvline(rest.loc[rest["metric"] == metric, "value"].mean(), color=QUIET, ls="--")
    grid.add_legend(title=hue)
    grid.set_titles("{col_name}")
    grid.set_axis_labels("share of pictures", "")
    return grid.figure


def preserved(history: pd.DataFrame, most: int = 12, ax: Axes | None = None) -> Axes:
    """How often each concept was preserved: the `most` frequent, from the history's `chosen`."""
    counts = history["chosen"].str.split("|").explode().value_counts()
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.28 * min(most, len(counts)) + 1), layout="constrained")
    shown = counts[:most][::-1]
    ax.barh(shown.index, shown, color=KEPT)
    ax.set_xlabel(f"latents preserved, of {counts.sum()} ({len(counts)} concepts)")
    return ax


def losses(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """L1 and L2 over the updates, on a logarithmic scale."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 3))
    for column, colour, label in (("l1", TARGET, "L1, erase"), ("l2", KEPT, "L2, preserve")):
        if (history[column] > 0).any():
            ax.plot(history["step"], history[column], color=colour, alpha=0.25)
            smooth = history[column].rolling(10, min_periods=1).mean()
            ax.plot(history["step"], smooth, color=colour, label=label)
    ax.set(yscale="log", xlabel="update of θ'", ylabel="loss on ẑ₀")
    ax.legend(frameon=False)
    return ax


def forest(pooled: pd.DataFrame, rows: str, marks: Mapping[str, float] | None = None) -> Figure:
    """A panel a metric: mean and 95 % interval of each setting in the column `rows`, in its order.

    `pooled` as `intervals.means` makes it: columns metric, `rows`, value, low, high. `marks`: where
    a dashed line stands in a metric's panel, such as the unedited model's value, or chance.
    """
    names, metrics = list(pooled[rows].unique()), list(pooled["metric"].unique())
    fig, axes = plt.subplots(
        1,
        len(metrics),
        figsize=(1.5 + 3.1 * len(metrics), 0.4 * len(names) + 1.1),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for ax, metric in zip(axes[0], metrics, strict=True):
        part = pooled[pooled["metric"] == metric].set_index(rows).reindex(names)
        gaps = [part["value"] - part["low"], part["high"] - part["value"]]
        ax.errorbar(part["value"], range(len(names)), xerr=gaps, fmt="o", capsize=3, color=KEPT)
        if marks and metric in marks:
            ax.axvline(marks[metric], color=QUIET, ls="--", lw=1)
        ax.set_title(metric, fontsize=11)
        ax.grid(axis="y", alpha=0.3)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    return fig
