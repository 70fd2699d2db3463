"""Curves, heat maps and bars over updates, candidates and thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from erase_lib.errors import EraseError
from erase_lib.show.charts import GREY, INK, LOOKS, SCALE, SHADES, each, footnote, quoted, series
from erase_lib.show.page import MEDIUM, SMALL, axes, key, panels, said, titled


def losses(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """L1 and L2 over the updates, logarithmic; L2 without the first, which is but rounding."""
    ax = axes(ax, 3.2, 7)
    lines = (("l1", INK, "-", "L1, erase"), ("l2", SHADES[2], "--", "L2, preserve"))
    for column, colour, dash, label in lines:
        part = history[(history["step"] > 0) | (column == "l1")]
        if (part[column] > 0).any():
            ax.plot(part["step"], part[column], color=colour, alpha=0.25)
            smooth = part[column].rolling(10, min_periods=1).mean()
            ax.plot(part["step"], smooth, ls=dash, color=colour, label=label)
    ax.set(yscale="log", xlabel="update of θ'", ylabel="loss on ẑ₀")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.legend(frameon=False)
    return ax


def preserved(history: pd.DataFrame, most: int = 12) -> Axes:
    """How often each concept was preserved: the `most` frequent, from the history's `chosen`."""
    counts = history["chosen"].str.split("|").explode().value_counts()
    shown = counts[:most][::-1]
    ax = axes(None, 0.26 * len(shown) + 1, 7)
    ax.barh(shown.index, shown, color=INK)
    ax.set_xlabel(f"latents preserved, of {counts.sum()} ({len(counts)} concepts)")
    return ax


def spectrum(
    table: pd.DataFrame,
    targets: Sequence[str] = (),
    neutral: Sequence[str] = (),
    label: str = "δ",
    ax: Axes | None = None,
) -> Axes:
    """All concepts from the least to the most hurt, a target a star; the neutral ones where they
    stand among them, the plainest in words. `table`: concept, delta, low, high (the band)."""
    ax = axes(ax, 3.9)
    rows = table.sort_values("delta").reset_index(drop=True)
    ax.fill_between(rows.index, rows["low"], rows["high"], color=INK, alpha=0.2, lw=0)
    ax.plot(rows["delta"], color=INK, lw=2)
    ax.axhline(0, color=GREY, lw=0.8)
    plain, gone = rows["concept"].isin(list(neutral)), rows["concept"].isin(list(targets))
    for some, kind in ((plain, "neutral"), (gone, "target")):
        if some.any():
            name = f"{kind} ({some.sum()})"
            ax.plot(rows["delta"][some], zorder=3, ls="", label=name, **LOOKS[kind])
            ax.legend(frameon=False, loc="upper left")
    for k, i in enumerate(rows.index[plain & rows["concept"].isin(["", "a photo", "a picture"])]):
        side, x = ("right", -30) if i > 0.8 * len(rows) else ("center", 0)
        look = {"ha": side, "fontsize": MEDIUM, "arrowprops": {"arrowstyle": "-", "color": GREY}}
        said(ax, quoted(rows["concept"][i]), (i, rows["delta"][i]), (x, 26 + 20 * (k % 3)), **look)
    ax.set(xlabel=f"{len(rows)} concepts, the least hurt first{each(rows)}", ylabel=label)
    ax.margins(x=0.02)
    return ax


def search_spectrum(moved: Mapping[str, pd.DataFrame], label: int = 5) -> Axes:
    """How far every candidate moved, a line a search; the first `label` of the last are named. Each
    table has columns concept and moved, the most moved first."""
    ax = axes(None, 3.6, 7.5)
    for k, (name, table) in enumerate(moved.items()):
        ax.plot(range(1, len(table) + 1), table["moved"], ms=4, label=name, **series(k))
    for i, row in enumerate(table[:label].itertuples()):
        said(ax, row.concept, (i + 1, row.moved), (6, 4), rotation=30)
    ax.set(xlabel="candidates, the most moved first", ylabel="movement of ẑ₀, squared")
    ax.set_ylim(0, 1.15 * ax.get_ylim()[1])  # room for names
    ax.legend(title="search", frameon=False)
    return ax


def chosen_map(
    history: pd.DataFrame, order: Sequence[str], windows: int = 20, top: int = 24
) -> Axes:
    """Which concepts a search preserved, and when: the `top` concepts of `order` down, the updates
    across in `windows` parts, and by colour the share of what was preserved in a part."""
    windows, updates = min(windows, len(history)), history["step"].max() + 1
    part = history["step"] * windows // updates
    chosen = history["chosen"].str.split("|").groupby(part).sum().explode()
    share = pd.crosstab(chosen, chosen.index, normalize="columns")
    wide = share.reindex(index=list(order[:top]), columns=range(windows), fill_value=0.0)
    return _over_updates(wide, updates, "share of what is preserved")


def pi_map(history: pd.DataFrame, words: Sequence[str], order: Sequence[str]) -> Axes:
    """softmax(π) over the updates as a multiple of chance, 1/n: candidates down in `order`;
    `words` are they in π's own order."""
    pi = pd.DataFrame(history["pi"].tolist(), columns=list(words)).T.loc[list(order)] * len(words)
    limit = max(pi.to_numpy().max() - 1, 1 - pi.to_numpy().min(), 1e-3)
    ax = _over_updates(pi, len(history), "softmax(π) as a multiple of chance")
    ax.images[0].set_clim(1 - limit, 1 + limit)
    return ax


def _over_updates(wide: pd.DataFrame, updates: int, label: str) -> Axes:
    """A heat map, candidates down and the updates across."""
    ax = axes(None, 0.17 * len(wide) + 1.2, 7.5)
    extent = (0, updates, len(wide) - 0.5, -0.5)
    picture = ax.imshow(wide, SCALE, aspect="auto", interpolation="nearest", extent=extent)
    ax.figure.colorbar(picture, ax=ax).set_label(label, fontsize=SMALL)
    ax.set_yticks(range(len(wide)), list(wide.index), fontsize=SMALL)
    ax.set_xlabel("update of θ'")
    return ax


def pivots(table: pd.DataFrame, rows: str, columns: str) -> Figure:
    """A heat map a metric: mean `value`, a share, of the runs, `rows` down, `columns` across, both
    in the table's own order; the colours run from the least of all to 1."""
    metrics = table.groupby("metric", sort=False)
    high, wide = 0.3 * table[rows].nunique() + 1.8, 0.24 * table[columns].nunique()
    figure, every = panels(len(metrics), high, 0.9, max(1.7, wide))
    for ax, (metric, part) in zip(every, metrics, strict=True):
        means = part.pivot_table(index=rows, columns=columns, values="value", sort=False)
        words = means.map(lambda share: f"{share:.2f}".removeprefix("0").removesuffix(".00"))
        given: dict[str, Any] = {"vmin": table["value"].min(), "vmax": 1, "cbar": False}
        given |= {"annot": words, "fmt": "", "annot_kws": {"fontsize": SMALL}}
        sns.heatmap(means, cmap=SCALE, ax=ax, **given)
        ax.tick_params(length=0, labelsize=SMALL)
        ax.tick_params("x", rotation=90)
        ax.set_title(metric, fontsize=MEDIUM)
        ax.set(xlabel="", ylabel="")
    return footnote(figure, f"Runs behind a cell: {part.groupby([rows, columns]).size().max()}")


def thresholds(rows: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """NER over the detector's threshold, a colour and marker a group and detector, the original
    model open and dashed, the erased filled; with 95 % bands."""
    part = rows[rows["metric"].str.startswith("NER") & rows["model"].ne("difference")].copy()
    part[["τ", "by"]] = part["metric"].str.extract(r"NER-([\d.e-]+)(.*)")
    part["τ"], part["group"] = part["τ"].astype(float), part["group"] + part["by"]
    ax = axes(ax, 4, 7)
    groups = list(part["group"].unique())
    for (group, model), some in part.groupby(["group", "model"], sort=False):
        look = series(groups.index(group))
        look |= {"mfc": "white", "ls": "--"} if model == "original" else {}
        ax.plot(some["τ"], some["value"], label=f"{group}, {model}", **look)
        ax.fill_between(some["τ"], some["low"], some["high"], color=look["color"], alpha=0.12, lw=0)
    ax.set(xlabel="threshold τ of the detector", ylabel="NER: share of pictures above τ")
    ax.set_ylim(-0.03, 1.03)
    key(ax, 1, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def choice_weights(weights: Sequence[Tensor], temperatures: Sequence[float], title: str) -> Figure:
    """The weight of each candidate in several choices, a panel a temperature; ○ marks the largest.
    `weights`: for each temperature `(choices, n)`, from the same noise."""
    figure, every = panels(len(weights), 2.9)
    for ax, w, tau in zip(every, weights, temperatures, strict=True):
        given: dict[str, Any] = {"vmin": 0, "vmax": 1, "cmap": SCALE, "xticklabels": False}
        sns.heatmap(w, cbar=ax is every[-1], ax=ax, **given)
        ax.scatter(w.argmax(-1) + 0.5, np.arange(len(w)) + 0.5, c="white", edgecolors="black", s=40)
        ax.set_title(f"τ = {tau:g}", fontsize=MEDIUM)
        ax.set_xlabel(f"candidate, 1 to {w.shape[1]}", fontsize=SMALL)
        ax.tick_params(length=0, labelsize=SMALL, rotation=0)
    every[0].set_ylabel("choice")
    return titled(figure, title)


def movement_bars(moved: pd.DataFrame, title: str = "", neutral: str = "neutral") -> Axes:
    """How far each concept's ẑ₀ has moved: a row a concept, a bar a column of `moved`, at most two;
    the rows whose name begins with `neutral` bear the mark of a neutral concept."""
    ax = axes(None, 0.34 * len(moved) + 1, 7)
    moved.plot.barh(color=SHADES[2:0:-1], width=0.8, ax=ax)
    ax.set(xlabel="$L_2$: how far the student's prediction has moved", ylabel="")
    plain = np.flatnonzero([str(name).startswith(neutral) for name in moved.index])
    if len(plain):
        ax.plot(moved.iloc[plain].max(axis=1), plain, ls="", label="neutral", **LOOKS["neutral"])
    # the bars stand from below upwards, so their names do too
    ax.legend(*(x[::-1] for x in ax.get_legend_handles_labels()), frameon=False, loc="lower right")
    return titled(ax, title)


def slopes(truth: pd.Series, gradients: pd.DataFrame, title: str = "") -> Figure:
    """Where a gradient sends π against how far each candidate has truly moved, a panel a column;
    named are the three most moved, and of each panel the two that it rises towards most."""
    if set(truth.index) != set(gradients.index):
        raise EraseError("truth and gradients are of other candidates: expected the same of both")
    told = [gradients[name].nlargest(2).index for name in gradients]
    named = set(truth.nlargest(3).index).union(*told)
    figure, every = panels(len(told), 3.8, 2.3, 3, sharey=False)
    for ax, name in zip(every, gradients, strict=True):
        ax.scatter(truth, gradients[name], color=INK)
        for word in named:
            said(ax, word, (truth[word], gradients.loc[word, name]), (4, 4))
        ax.margins(x=0.3, y=0.1)
        ax.locator_params(axis="x", nbins=4)
        ax.axhline(0, color=GREY, linewidth=1)
        rank = truth.corr(gradients[name], method="spearman")
        ax.set_title(f"{name}: rank correlation {rank:+.2f}", fontsize=MEDIUM)
        ax.set_xlabel("$L_2$ of the student")
    every[0].set_ylabel("gradient of $L_2$ by $\\pi_i$")
    return titled(figure, title)
