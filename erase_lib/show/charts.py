"""One dot-and-interval plot and its callers; what stands under a figure; what colours mean.

A single series is `INK`; what it is compared with, zero lines and frames are `GREY`. The original
model is an open mark, the erased one a filled mark of the same ink; a target a pink star, a neutral
concept an amber diamond: both colours are theirs alone. Methods, searches and settings each have a
colour *and* a marker, never two alike, and told apart in grey too (`series`). The parts of a whole
are shades of the ink. A verdict has no colour: it is a mark and a word. Amounts are read from one
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

from erase_lib.errors import EraseError, unknown
from erase_lib.show.page import MEDIUM, SMALL, WIDTH, axes, key, panels, said, stamp, wrapped

INK, GREY = "#0072B2", "#666666"
TARGET, NEUTRAL = "#CC79A7", "#E69F00"
COLOURS = (INK, "#D55E00", "#009E73", "#56B4E9", "#000000")
MARKERS = "os^PDv<>dpXh*"  # 5 colours and 13 markers: 65 pairs before the first comes again
SHADES = ("#08306B", INK, "#56B4E9", "#C5E1F5")
SCALE, TWO_SIDED = "cividis", "PuOr_r"  # of amounts, and of what goes both ways from 0
LOOKS: dict[Any, dict[str, Any]] = {
    "original": {"color": INK, "marker": "o", "mfc": "white"},
    "erased": {"color": INK, "marker": "o"},
    "target": {"color": TARGET, "marker": "*", "ms": 12, "mec": "black"},
    "neutral": {"color": NEUTRAL, "marker": "D", "mec": "black"},
    "concept": {"color": INK, "marker": "o"},
}
SHARES = ("ESR", "PSR", "NER", "share")
UNITS = {"share of pictures": SHARES, "CLIP score, of 100": ("CLIP score",)}
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
    parts = list(table.groupby(by, sort=False)) if by else [("", table)]
    parts.sort(key=lambda part: [*LOOKS, part[0]].index(part[0]))  # a legend has one order
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
    `pooled` as `measure.means` makes it: columns metric, `rows`, value, low, high, if known runs
    and groups, which stand at the foot, and kind (a mark of `LOOKS`). `marks`: a metric's dashed
    line, such as the unedited model's value, or chance. Intervals of shares end at 0 and 1."""
    names, metrics = list(pooled[rows].unique()), list(pooled["metric"].unique())
    letters = max(len(line) for name in names for line in str(name).split("\n"))
    figure, every = panels(len(metrics), 0.3 * len(names) + 1.0, 0.3 + 0.078 * letters)
    for ax, metric in zip(every, metrics, strict=True):
        part = pooled[pooled["metric"] == metric].set_index(rows).reindex(names).reset_index()
        at = (marks or {}).get(metric)
        if metric.startswith(SHARES) and at != 0:  # else a difference, which may be below 0
            part[["low", "high"]] = part[["low", "high"]].clip(0, 1)
        dots(part, rows, "kind" if "kind" in part else None, 0, ax=ax)
        wide = (figure.get_figwidth() - 0.078 * letters) / ax.get_gridspec().ncols
        ax.set_title(wrapped(metric, wide), fontsize=MEDIUM)
        ax.locator_params(axis="x", nbins=4)
        if at is not None:
            ax.axvline(at, color=GREY, ls="--", lw=1)
    return footnote(figure, pooled) if "groups" in pooled else figure


def ranged(pooled: pd.DataFrame, rows: str, metric: str = "PSR-1 near") -> str:
    """The least and the most of a metric of `pooled`, as `forest` has it, and whose, in words;
    those equal to two digits share it. Raises `EraseError` for a metric that is not there."""
    if metric not in (known := list(pooled["metric"].unique())):
        raise unknown("metric", metric, known)
    values = pooled[pooled["metric"] == metric].set_index(rows)["value"].round(2)
    named = {end: map(str, values.index[values == end]) for end in (values.min(), values.max())}
    return " to ".join(f"{end:.2f} ({' and '.join(names)})" for end, names in named.items())


def multiples(table: pd.DataFrame, pooled: pd.DataFrame, rows: str, hue: str) -> Figure:
    """A panel a metric: each erased run a small mark, by `hue` its own, in a lane below the mean
    and interval of `pooled` (`measure.means`); dashed the unedited model's PSR, if it is there."""
    runs, rest = (table[table["model"] == model] for model in ("erased", "original"))
    kept = rest[rest["metric"].str.startswith("PSR")].groupby("metric")["value"].mean()
    figure = forest(pooled, rows, kept.to_dict())
    names = list(pooled[rows].unique())
    for ax, metric in zip(figure.axes, pooled["metric"].unique(), strict=True):
        for k, (name, part) in enumerate(runs.groupby(hue, sort=False)):
            part = part[part["metric"] == metric]
            lane = 0.2 + 0.5 * k / max(1, runs[hue].nunique() - 1)
            y = np.array([names.index(row) for row in part[rows]]) + lane
            ax.plot(part["value"], y, ls="", ms=4.5, label=name, **series(k + 1))
        ax.set_ylim(len(names) - 0.1, -0.5)
    figure.set_figheight(1.5 * figure.get_figheight() + 0.2)
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
    neutral concepts always, by their own marks. `table`: concept, delta, if known low, high, n."""
    rows = table.sort_values("delta", ascending=False).reset_index(drop=True)
    special = rows["concept"].isin([*targets, *neutral])
    ends = rows.index[~special]
    chosen = rows.loc[sorted({*ends[:most], *ends[-most:], *rows.index[special]})].copy()
    kinds = {c: "neutral" for c in neutral} | {c: "target" for c in targets}
    chosen["kind"] = [kinds.get(concept, "concept") for concept in chosen["concept"]]
    chosen["name"] = [quoted(c) if c in neutral else c for c in chosen["concept"]]
    ax = axes(ax, 0.25 * len(chosen) + 1.1)
    dots(chosen.rename(columns={"delta": "value"}), "name", "kind", 0, pictures, ax)
    ax.hlines(range(len(chosen)), 0, chosen["delta"], color=INK, lw=5, alpha=0.25)
    ax.axvline(0, color=GREY, lw=1)
    ax.set_xlabel(label + each(chosen), fontsize=MEDIUM)
    return ax


def plane(
    levels: pd.DataFrame,
    across: tuple[str, str] = ("target", "ESR-1"),
    label: str = "ESR-1: share of the targets' pictures that are gone →",
) -> Axes:
    """The erased × kept plane: each setting a mark with both its 95 % intervals, best at the top,
    where the arrow points; the dashed line is what the unedited model keeps. `levels` as
    `study.levels`, or `study.front` with another group and metric `across`."""
    ax = axes(None, 5.2)
    x, y = (
        levels[(levels["group"] == group) & (levels["metric"] == metric)].set_index("setting")
        for group, metric in (across, ("near", "PSR-1"))
    )
    given: dict[str, Any] = {"ls": "", "ms": 9, "mec": "black", "mew": 0.6, "elinewidth": 1}
    for i, name in enumerate(s for s in x.index if s in y.index and s != "original"):
        a, b = x.loc[[name]], y.loc[[name]]
        ax.errorbar(a["value"], b["value"], reach(b), reach(a), label=name, **given | series(i))
    if "original" in y.index:
        at, place = y.loc["original", "value"], ax.get_yaxis_transform()
        ax.axhline(at, color=GREY, ls="--", lw=1)
        said(ax, "not erased", (0.01, at), (0, -12), color=GREY, xycoords=place)
    ax.set_xlabel(label, fontsize=MEDIUM)
    ax.set_ylabel("PSR-1 near: share of the neighbours still seen →", fontsize=MEDIUM)
    ax.grid(alpha=0.25)
    key(ax, 1, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def stacked(table: pd.DataFrame, labels: Mapping[str, str], ax: Axes) -> Axes:
    """Horizontal bars, a line a row of `table`, its four columns end to end, in shades."""
    left = table.cumsum(axis=1) - table
    for part, shade in zip(table, SHADES, strict=True):
        look: dict[str, Any] = {"color": shade, "ec": "white", "label": labels.get(str(part), part)}
        ax.barh(table.index, table[part], left=left[part], **look)
    key(ax, 5)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.invert_yaxis()
    return ax


def costs(rows: pd.DataFrame) -> Axes:
    """Seconds of every method on a logarithmic scale; at the right its evaluations, and how many
    updates were timed if not all. Columns name, seconds, updates, timed_updates, evaluations."""
    ax = dots(rows.assign(value=rows["seconds"]), "name")
    for i, row in enumerate(rows.itertuples()):
        text = f"{row.seconds:.3g} s"
        text += f", {row.evaluations:,} evaluations" if row.evaluations else ""
        text += f" (from {row.timed_updates} updates)" if row.timed_updates != row.updates else ""
        ax.text(1.02, i, text, transform=ax.get_yaxis_transform(), va="center", fontsize=SMALL)
    ax.set(xscale="log", xlabel="seconds of one erasure (logarithmic)")
    ax.xaxis.set_major_formatter("{x:g}")
    return ax


def memory(rows: pd.DataFrame) -> Axes:
    """The most that each part of an update held, stacked, and by ◆ the most that all held at once.
    Columns train_method, arrangement, {weights, gradients, optimiser, activations, peak}_mb."""
    names = list(rows["train_method"] + ", " + rows["arrangement"])
    parts = ("weights", "gradients", "optimiser", "activations")
    held = pd.DataFrame({part: list(rows[f"{part}_mb"] / 1000) for part in parts}, names)
    ax = axes(None, 0.32 * len(rows) + 1.4)
    ax.plot(rows["peak_mb"] / 1000, names, "kD", ms=6, label="all at once", zorder=3)
    stacked(held, {}, ax)
    ax.set_xlabel("GB, each part at its own peak")
    return ax


def caption(rows: pd.DataFrame, width: int = 140) -> str:
    """What measured the rows: for each instrument its metrics, n, prompts, seeds, what the interval
    is of, and the notes; so that the numbers can be quoted. Of `measure.means` how many runs and
    targets. Lines of at most `width` letters. Raises `EraseError` for a table that has neither
    groups nor n and measured_by, and for an empty one."""
    if "groups" in rows and len(rows):
        of = f"{_span(rows['runs'])} runs, {_span(rows['groups'])} targets"
        return f"Mean of {of} · intervals: 95 %, Student's t over the targets"
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


def each(table: pd.DataFrame) -> str:
    """How many pairs of pictures stand behind each row's δ, if the table says so."""
    return f"; {_span(table['n'])} pairs of pictures each" if "n" in table else ""


def quoted(concept: str) -> str:
    """A neutral concept's name: in quotes, and of the empty prompt that it is empty."""
    return f"“{concept}”" if concept else "“” (empty)"


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def footnote(figure: Figure, text: str | pd.DataFrame) -> Figure:
    """The figure with small print at its foot: a text, or the caption of a table of rows."""
    if isinstance(text, pd.DataFrame):
        text = caption(text, int(figure.get_figwidth() * 16.5))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7.5, color="#555555")
    return figure
