"""The metric card: what stands under a figure, so that its numbers can be quoted."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from erase_lib.errors import EraseError


def metric_card(rows: pd.DataFrame, width: int = 150) -> str:
    """What measured the rows (`rows.COLUMNS`): for each instrument its metrics, n, prompts, seeds,
    what the interval is of, and the notes. Lines of at most `width` letters.

    Raises `EraseError` for a table without n or measured_by, and for an empty one.
    """
    if lacking := {"metric", "n", "measured_by"} - set(rows) or rows.empty:
        what = f"lacks {sorted(lacking)}" if isinstance(lacking, set) else "is empty"
        raise EraseError(f"the table {what}: a figure without n and detector cannot be quoted")
    lines = []
    for name, part in rows.groupby("measured_by", sort=False):
        about = ", ".join(part["metric"].unique())
        line = f"{about}: measured by {name} · n = {_span(part['n'])} pictures"
        if "prompts" in part:
            line += f" of {_span(part['prompts'])} prompts"
        if "seeds" in part:
            line += f", seeds {' | '.join(dict.fromkeys(part['seeds'].astype(str)))}"
        if "seconds" in part:
            # the rows of a group share one look at its pictures
            each = part.groupby("group")["seconds"].max() if "group" in part else part["seconds"]
            line += f" · {each.sum():.1f} s"
        lines += textwrap.wrap(line, width)
    lines.append(_intervals(rows))
    if "note" in rows:
        for note in filter(None, dict.fromkeys(rows["note"].fillna("").astype(str))):
            lines += textwrap.wrap(f"Note: {note}", width)
    return "\n".join(lines)


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _intervals(rows: pd.DataFrame) -> str:
    of = {m in ("FID", "KID") for m in rows["metric"]}
    found = ["bootstrap over prompts"] * (False in of) + ["jackknife over prompts"] * (True in of)
    return f"Intervals: 95 %, {' (FID, KID: '.join(found)}{')' * (len(found) - 1)}."


def under(figure: Figure, rows: pd.DataFrame) -> Figure:
    """The figure with the metric card of `rows` at its foot."""
    return foot(figure, metric_card(rows, int(figure.get_figwidth() * 18)))


def foot(figure: Figure, text: str) -> Figure:
    """The figure with small print at its foot."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7.5, color="#555555")
    return figure
