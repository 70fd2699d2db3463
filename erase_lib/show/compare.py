"""Pictures of a comparison: what each method erases against what it keeps, and their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from erase_lib.show.charts import KEPT, LOST, QUIET, show_picture

MARKS = "osD^v<>PXph*d"


def plane(
    levels: pd.DataFrame,
    erased: tuple[str, str] = ("target", "ESR-1"),
    kept: tuple[str, str] = ("near", "PSR-1"),
    ax: Axes | None = None,
) -> Axes:
    """The erased × kept plane: each setting a mark with both its 95 % intervals, best at the top
    right; the dashed line is what the unedited model keeps. `levels` as `compare.levels`."""
    if ax is None:
        _, ax = plt.subplots(figsize=(8.5, 6), layout="constrained")
    x, y = (
        levels[(levels["group"] == g) & (levels["metric"] == m)].set_index("setting")
        for g, m in (erased, kept)
    )
    settings = [s for s in x.index if s in y.index and s != "original"]
    for i, (name, colour) in enumerate(
        zip(settings, sns.color_palette("colorblind", len(settings)), strict=True)
    ):
        a, b = x.loc[name], y.loc[name]
        ax.errorbar(
            a["value"],
            b["value"],
            xerr=[[a["value"] - a["low"]], [a["high"] - a["value"]]],
            yerr=[[b["value"] - b["low"]], [b["high"] - b["value"]]],
            fmt=MARKS[i % len(MARKS)],
            ms=9,
            color=colour,
            mec="black",
            mew=0.6,
            elinewidth=1,
            alpha=0.95,
            label=name,
        )
    if "original" in y.index:
        ax.axhline(y.loc["original", "value"], color=QUIET, ls="--", lw=1)
        ax.annotate(
            "not erased",
            (0.01, y.loc["original", "value"]),
            (0, -12),
            color=QUIET,
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize=9,
        )
    ax.set(xlabel=f"{erased[1]} of {erased[0]}: erased →", ylabel=f"{kept[1]} of {kept[0]}: kept →")
    ax.grid(alpha=0.25)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return ax


def side_by_side(
    rows: Mapping[str, Sequence[Image.Image]],
    seen: Mapping[str, Sequence[str]],
    concepts: Sequence[str],
    targets: Sequence[str],
) -> Figure:
    """A line of pictures a method, a column a prompt, all from the same noise; below each what the
    classifier sees. Blue: as it should be (kept, or the target gone), orange: not."""
    fig, axes = plt.subplots(
        len(rows),
        len(concepts),
        figsize=(1.3 * len(concepts), 1.75 * len(rows)),
        squeeze=False,
        layout="constrained",
    )
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for ax, picture, found, concept in zip(line, pictures, seen[name], concepts, strict=True):
            wanted = (
                (found != concept)
                if concept in targets and name != "original"
                else (found == concept)
            )
            show_picture(picture, ax, "", found, KEPT if wanted else LOST)
            ax.xaxis.label.set_fontsize(7.5)
        line[0].set_ylabel(name, fontsize=10)
    for ax, concept in zip(axes[0], concepts, strict=True):
        ax.set_title(f"erase:\n{concept}" if concept in targets else concept, fontsize=8.5)
    return fig
