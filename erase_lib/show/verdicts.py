"""Pictures of an evaluation: what was drawn before and after, and each number's interval."""

from __future__ import annotations

import textwrap
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from erase_lib.measure import Evaluation, Group
from erase_lib.show.card import under
from erase_lib.show.charts import KEPT, LOST, QUIET, TARGET, show_picture

UNITS = {
    "share of pictures": ("ESR", "PSR", "NER"),
    "CLIP score, of 100": ("CLIP score",),
    "distance to the original": ("distance",),
    "FID": ("FID",),
    "KID": ("KID",),
}


def pictures(evaluation: Evaluation, each: int = 8) -> Figure:
    """For each group of the suite two lines, original above erased: the same prompts and noise.

    The word below is what the classifier sees. Blue: what was asked for, orange: something else,
    grey: what was asked for is no class of it. `each`: prompts of a group, spread over it.
    """
    table = evaluation.pictures
    old, new = (table[table["model"] == m].reset_index(drop=True) for m in ("original", "erased"))
    groups = list(old["group"].unique())
    fig, axes = plt.subplots(
        2 * len(groups),
        each,
        figsize=(1.45 * each, 3.7 * len(groups)),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat:
        ax.axis("off")
    for g, group in enumerate(groups):
        places = old.index[(old["group"] == group) & (old["seed"] == old["seed"].min())]
        places = places if len(places) else old.index[old["group"] == group]
        chosen = places[np.unique(np.linspace(0, len(places) - 1, each).astype(int))]
        for line, (drawn, found) in enumerate(((evaluation.before, old), (evaluation.after, new))):
            for ax, i in zip(axes[2 * g + line], chosen, strict=False):
                ax.axis("on")
                row = found.loc[i]
                title = textwrap.fill(row["prompt"], 17) if line == 0 else ""
                show_picture(drawn[i], ax, title, *_word(row, evaluation.suite.groups[group]))
                ax.title.set_fontsize(8)
            axes[2 * g + line, 0].set_ylabel(
                f"{group}\n{('original', 'erased')[line]}", fontsize=11
            )
    return fig


def _word(row: pd.Series, group: Group) -> tuple[str, str]:
    """What the classifier sees, and the colour that says whether it was asked for; the style where
    the group counts styles."""
    styled = any(metric.endswith(" style") for metric in group.metrics)
    rank = row["style_rank" if styled else "rank"]
    colour = QUIET if np.isnan(rank) else KEPT if rank == 0 else LOST
    return f"{row['style_seen']} {row['seen']}" if styled else row["seen"], colour


def levels(rows: pd.DataFrame) -> Figure:
    """Every metric of every group, original in grey and erased in orange, with 95 % intervals: a
    panel a unit, and the metric card at the foot. `rows` as `rows.summarise` makes them."""
    rows = rows.assign(label=rows["group"] + " · " + rows["metric"])
    panels = {
        unit: rows[rows["metric"].str.startswith(names)]
        for unit, names in UNITS.items()
        if rows["metric"].str.startswith(names).any()
    }
    heights = [part["label"].nunique() + 1.2 for part in panels.values()]
    fig, axes = plt.subplots(
        len(panels),
        1,
        figsize=(9, 0.34 * sum(heights) + 1.6),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for ax, (unit, part) in zip(axes[:, 0], panels.items(), strict=True):
        _level(part, unit, ax)
    handles, names = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper right", ncols=2, frameon=False)
    return under(fig, rows)


def _level(part: pd.DataFrame, unit: str, ax: Axes) -> None:
    labels = list(part["label"].unique())
    for model, colour, shift in (("original", QUIET, -0.13), ("erased", LOST, 0.13)):
        some = part[part["model"] == model].set_index("label").reindex(labels)
        gaps = [(some["value"] - some["low"]).clip(0), (some["high"] - some["value"]).clip(0)]
        y = np.arange(len(labels)) + shift
        ax.errorbar(
            some["value"], y, xerr=gaps, fmt="o", ms=5, capsize=3, color=colour, label=model
        )
    numbers = part.drop_duplicates("label").set_index("label")["n"]
    ax.set_yticks(range(len(labels)), [f"{x}  (n {numbers[x]})" for x in labels], fontsize=9)
    ax.set(ylim=(len(labels) - 0.5, -0.5), xlabel=unit)
    ax.grid(axis="y", alpha=0.3)
    ax.locator_params(axis="x", nbins=6)
    if unit.startswith("share"):
        ax.set_xlim(-0.03, 1.03)


def thresholds(rows: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """NER over the detector's threshold, a line a group and model, with its 95 % band."""
    part = rows[rows["metric"].str.startswith("NER") & rows["model"].ne("difference")].copy()
    part["τ"] = part["metric"].str.removeprefix("NER-").astype(float)
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    marks = dict(zip(part["group"].unique(), cycle("osD^v"), strict=False))
    for (group, model), some in part.groupby(["group", "model"], sort=False):
        colour = QUIET if model == "original" else TARGET
        ax.plot(
            some["τ"], some["value"], marker=marks[group], color=colour, label=f"{group}, {model}"
        )
        ax.fill_between(some["τ"], some["low"], some["high"], color=colour, alpha=0.12, lw=0)
    ax.set(xlabel="threshold τ of the detector", ylabel="NER: share of pictures above τ")
    ax.set_ylim(-0.03, 1.03)
    ax.legend(frameon=False, fontsize=9)
    return ax
