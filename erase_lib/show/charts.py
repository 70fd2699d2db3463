"""One dot-and-interval plot and its callers; what stands under a figure; what colours mean.

A single series is `INK`; what it is compared with, zero lines and frames are `GREY`. The original
model is an open mark, the erased one a filled mark of the same ink; a target a pink star, a neutral
concept an amber diamond. Methods, searches and settings each have a colour *and* a marker, never
two alike (`series`). A verdict has no colour: it is a mark and a word. Amounts are read from one
scale, darker is less. The colours are Okabe & Ito's, told apart by colour-blind readers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from erase_lib.errors import EraseError
from erase_lib.show.page import MEDIUM, SMALL, WIDTH, axes, key, panels, said, stamp

INK, GREY = "#0072B2", "#666666"
TARGET, NEUTRAL = "#CC79A7", "#E69F00"
COLOURS = (INK, "#D55E00", "#009E73", TARGET, NEUTRAL, "#56B4E9", "#000000")
MARKERS = "osD^v<>PXphd*"  # 7 colours and 13 markers: 91 pairs before the first comes again
SCALE = "cividis"
LOOKS: dict[Any, dict[str, Any]] = {
    "original": {"color": INK, "marker": "o", "mfc": "white"},
    "erased": {"color": INK, "marker": "o"},
    "target": {"color": TARGET, "marker": "*", "ms": 12, "mec": "black"},
    "neutral": {"color": NEUTRAL, "marker": "D", "mec": "black"},
    "concept": {"color": INK, "marker": "o"},
}
UNITS = {"share of pictures": ("ESR", "PSR", "NER"), "CLIP score, of 100": ("CLIP score",)}
UNITS |= {"distance to the original": ("distance",), "FID": ("FID",), "KID": ("KID",)}


def series(place: int) -> dict[str, Any]:
    """Colour and marker of the method, search or setting at this place: no two alike."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def reach(part: pd.DataFrame) -> list[pd.Series]:
    """How far the intervals reach to either side of the values, for `errorbar`."""
    # a bootstrap's end may lie on the wrong side of the value by rounding
    return [(part["value"] - part["low"]).clip(0), (part["high"] - part["value"]).clip(0)]


def dots(
    table: pd.DataFrame,
    rows: str,
    by: str | None = None,
    spread: float = 0.24,
    pictures: Mapping[str, Image.Image] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A line for every name in the column `rows`, in its order: a mark at `value`, and its interval
    from `low` to `high` where the table has them; `pictures` between a name and the axis.
    `by`: a column of series, side by side by `spread` of a line, each with its own mark."""
    names = list(dict.fromkeys(table[rows]))
    ax = axes(ax, 0.3 * len(names) + 1.1)
    parts = table.groupby(by, sort=False) if by else [("", table)]
    for k, (name, part) in enumerate(parts):
        aside = spread * (k - (len(parts) - 1) / 2)
        y = np.array([names.index(row) for row in part[rows]]) + aside
        look: dict[str, Any] = {"ms": 6, "ls": "", "capsize": 3, "zorder": 3}
        look |= LOOKS.get(name) or series(k)
        gaps = reach(part) if "low" in part else None
        ax.errorbar(part["value"], y, xerr=gaps, label=name, **look)
    ax.set_yticks(range(len(names)), [str(name) for name in names], fontsize=SMALL + 0.5)
    wide = {name: 17 * image.width / image.height for name, image in (pictures or {}).items()}
    pad = max((wide.get(name, 0) + 6 for name in names), default=3)
    ax.tick_params(axis="y", length=0, pad=pad)
    ax.tick_params(axis="x", labelsize=SMALL)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="x", alpha=0.3)
    for i, name in enumerate(names):
        if pictures and name in pictures:
            shift = (-4 - wide[name] / 2, 0)
            stamp(ax, pictures[name], (0, i), shift, ax.get_yaxis_transform(), 17)
    if len(parts) > 1:
        key(ax)
    return ax


def forest(pooled: pd.DataFrame, rows: str, marks: Mapping[str, float] | None = None) -> Figure:
    """A panel a metric: mean and 95 % interval of each setting in the column `rows`, in its order;
    `pooled` as `measure.means` makes it: columns metric, `rows`, value, low, high. `marks`: a
    metric's dashed line, such as the unedited model's value, or chance."""
    names, metrics = list(pooled[rows].unique()), list(pooled["metric"].unique())
    letters = max(len(line) for name in names for line in str(name).split("\n"))
    figure, every = panels(len(metrics), 0.3 * len(names) + 1.0, 0.3 + 0.078 * letters)
    for ax, metric in zip(every, metrics, strict=True):
        part = pooled[pooled["metric"] == metric].set_index(rows).reindex(names).reset_index()
        dots(part, rows, ax=ax).set_title(metric, fontsize=MEDIUM)
        ax.locator_params(axis="x", nbins=4)
        if marks and metric in marks:
            ax.axvline(marks[metric], color=GREY, ls="--", lw=1)
    return figure


def multiples(table: pd.DataFrame, pooled: pd.DataFrame, rows: str, hue: str) -> Figure:
    """A panel a metric: each erased run a small mark, by `hue` its own; large the mean and interval
    of `pooled` (`measure.means`); a dashed line where the table has the unedited model's PSR."""
    runs, rest = (table[table["model"] == model] for model in ("erased", "original"))
    kept = rest[rest["metric"].str.startswith("PSR")].groupby("metric")["value"].mean()
    figure = forest(pooled, rows, kept.to_dict())
    names = list(pooled[rows].unique())
    for ax, metric in zip(figure.axes, pooled["metric"].unique(), strict=True):
        for k, (name, part) in enumerate(runs.groupby(hue, sort=False)):
            part = part[part["metric"] == metric]
            y = np.array([names.index(row) for row in part[rows]]) + 0.22
            ax.plot(part["value"], y, ls="", ms=5, alpha=0.8, label=name, **series(k + 1))
    figure.set_figheight(figure.get_figheight() + 0.7)
    marks = figure.axes[0].get_legend_handles_labels()[0]
    key(figure, 6, handles=marks, title=hue, loc="outside upper center", bbox_to_anchor=None)
    return figure


def intervals(rows: pd.DataFrame) -> Figure:
    """Every metric of every group, the original model open and the erased filled, with 95 %
    intervals: a panel a unit, and the caption at the foot. `rows`: columns metric, model, value,
    low, high, n, measured_by and, if known, group."""
    rows = rows[rows["model"].isin(["original", "erased"])].copy()
    names = (rows["group"] + " · " if "group" in rows else "") + rows["metric"]
    rows["label"] = names + "  (n " + rows.groupby(names)["n"].transform("first").astype(str) + ")"
    rows = rows.sort_values("model", key=lambda m: m == "erased", kind="stable")
    units = {unit: rows[rows["metric"].str.startswith(start)] for unit, start in UNITS.items()}
    units = {unit: part for unit, part in units.items() if len(part)}
    heights = [part["label"].nunique() + 1.4 for part in units.values()]
    figure = plt.figure(figsize=(WIDTH, 0.37 * sum(heights) + 0.9), layout="constrained")
    stack = figure.subplots(len(units), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (unit, part) in zip(stack, units.items(), strict=True):
        legend = dots(part, "label", "model", ax=ax).get_legend()
        if legend and ax is not stack[0]:
            legend.remove()
        ax.set_xlabel(unit, fontsize=SMALL)
        ax.locator_params(axis="x", nbins=6)
        if unit.startswith("share"):
            ax.set_xlim(-0.03, 1.03)
    return footnote(figure, rows)


def delta_bars(
    table: pd.DataFrame,
    targets: Sequence[str] = (),
    neutral: Sequence[str] = (),
    pictures: Mapping[str, Image.Image] | None = None,
    most: int = 12,
    label: str = "δ",
    ax: Axes | None = None,
) -> Axes:
    """δ of the `most` and as many of the least hurt concepts, the most hurt on top; targets and
    neutral concepts always, by their own marks. `table`: concept, delta, if known low and high."""
    rows = table.sort_values("delta", ascending=False).reset_index(drop=True)
    special = rows["concept"].isin([*targets, *neutral])
    ends = rows.index[~special]
    chosen = rows.loc[sorted({*ends[:most], *ends[-most:], *rows.index[special]})].copy()
    kinds = {c: "neutral" for c in neutral} | {c: "target" for c in targets}
    chosen["kind"] = [kinds.get(concept, "concept") for concept in chosen["concept"]]
    chosen["name"] = [f"“{c}”" if c in neutral else c for c in chosen["concept"]]
    ax = axes(ax, 0.25 * len(chosen) + 1.1)
    dots(chosen.rename(columns={"delta": "value"}), "name", "kind", 0, pictures, ax)
    ax.hlines(range(len(chosen)), 0, chosen["delta"], color=INK, lw=5, alpha=0.25)
    ax.axvline(0, color=GREY, lw=1)
    ax.set_xlabel(label, fontsize=MEDIUM)
    return ax


def plane(levels: pd.DataFrame) -> Axes:
    """The erased × kept plane: each setting a mark with both its 95 % intervals, best at the top
    right; the dashed line is what the unedited model keeps. `levels` as `study.levels`."""
    ax = axes(None, 5.2)
    x, y = (
        levels[(levels["group"] == group) & (levels["metric"] == metric)].set_index("setting")
        for group, metric in (("target", "ESR-1"), ("near", "PSR-1"))
    )
    given: dict[str, Any] = {"ls": "", "ms": 9, "mec": "black", "mew": 0.6, "elinewidth": 1}
    for i, name in enumerate(s for s in x.index if s in y.index and s != "original"):
        a, b = x.loc[[name]], y.loc[[name]]
        ax.errorbar(a["value"], b["value"], reach(b), reach(a), label=name, **given | series(i))
    if "original" in y.index:
        at, place = y.loc["original", "value"], ax.get_yaxis_transform()
        ax.axhline(at, color=GREY, ls="--", lw=1)
        said(ax, "not erased", (0.01, at), (0, -12), color=GREY, xycoords=place)
    ax.set_xlabel("ESR-1 of target: erased →", fontsize=MEDIUM)
    ax.set_ylabel("PSR-1 of near: kept →", fontsize=MEDIUM)
    ax.grid(alpha=0.25)
    key(ax, 1, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def stacked(table: pd.DataFrame, labels: Mapping[str, str], ax: Axes) -> Axes:
    """Horizontal bars, a line a row of `table`, its columns end to end, told apart by hatch too."""
    left = table.cumsum(axis=1) - table
    looks = ((0, ""), (5, "///"), (4, "..."), (3, "xxx"))
    for part, (place, hatch) in zip(table, looks, strict=True):
        look: dict[str, Any] = {"color": COLOURS[place], "hatch": hatch, "ec": "white", "lw": 0.5}
        look["label"] = labels.get(str(part), part)
        ax.barh(table.index, table[part], left=left[part], **look)
    key(ax, 5)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.invert_yaxis()
    return ax


def caption(rows: pd.DataFrame, width: int = 140) -> str:
    """What measured the rows: for each instrument its metrics, n, prompts, seeds, what the interval
    is of, and the notes; so that the numbers can be quoted. Lines of at most `width` letters.
    Raises `EraseError` for a table without n or measured_by, and for an empty one."""
    lacking = sorted({"metric", "n", "measured_by"} - set(rows))
    if lacking or rows.empty:
        what = f"lacks {lacking}" if lacking else "is empty"
        raise EraseError(f"the table {what}: a figure without n and detector cannot be quoted")
    lines = []
    for name, part in rows.groupby("measured_by", sort=False):
        about = ", ".join(part["metric"].unique())
        line = f"{about}: measured by {name} · n = {_span(part['n'])} pictures"
        if "prompts" in part:
            line += f" of {_span(part['prompts'])} prompts"
        if "seeds" in part:
            line += f", seeds {' | '.join(dict.fromkeys(part['seeds'].astype(str)))}"
        if "seconds" in part:  # the rows of a group share one look at its pictures
            each = part.groupby("group")["seconds"].max() if "group" in part else part["seconds"]
            line += f" · {each.sum():.1f} s"
        lines += textwrap.wrap(line, width)
    sets = rows["metric"].isin(["FID", "KID"])
    of = "jackknife over prompts" if sets.all() else "bootstrap over prompts"
    also = " (FID, KID: jackknife over prompts)" if sets.any() and not sets.all() else ""
    lines.append(f"Intervals: 95 %, {of}{also}.")
    notes = rows["note"].fillna("").astype(str).unique() if "note" in rows else ()
    for note in filter(None, notes):
        lines += textwrap.wrap(f"Note: {note}", width)
    return "\n".join(lines)


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def footnote(figure: Figure, text: str | pd.DataFrame) -> Figure:
    """The figure with small print at its foot: a text, or the caption of a table of rows."""
    if isinstance(text, pd.DataFrame):
        text = caption(text, int(figure.get_figwidth() * 16.5))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7.5, color="#555555")
    return figure
