"""Pictures of sensitivity: spectra, bars, strips and maps, with the concepts' own pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from erase_lib.concepts import EMOJI
from erase_lib.errors import EraseError
from erase_lib.show.charts import KEPT, LOST, QUIET, TARGET

NEUTRAL = "#E69F00"
MAP = "cividis"  # one scale of δ for all maps, read alike by colour-blind readers


def thumbnails(style: str = "noto") -> dict[str, Image.Image]:
    """The artists' own picture of every concept of the embedded model, 64 × 64."""
    table = pd.read_parquet(EMOJI / "pictures.parquet", columns=["concept", "style", "png"])
    rows = table[table["style"] == style]
    return {row.concept: Image.open(BytesIO(row.png)) for row in rows.itertuples()}


def mark(
    ax: Axes,
    picture: Image.Image,
    at: tuple[float, float],
    zoom: float = 0.4,
    coordinates: str = "data",
) -> None:
    """A picture centred at a point, in the axes' data unless said otherwise."""
    image = OffsetImage(np.asarray(picture.convert("RGBA")), zoom=zoom, resample=True)
    box = AnnotationBbox(image, at, xycoords=coordinates, frameon=False, pad=0)
    box.set_in_layout(False)
    ax.add_artist(box)


def spectrum(
    table: pd.DataFrame,
    targets: Sequence[str] = (),
    neutral: Sequence[str] = (),
    named: Sequence[str] = ("", "a photo", "a picture"),
    label: str = "δ",
    ax: Axes | None = None,
) -> Axes:
    """All concepts from the least to the most hurt, the neutral ones where they stand among them.

    `table` has columns concept, delta, low, high (the band). A target is a star; of the neutral
    concepts those `named` are written beside their mark.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(10, 4.5), layout="constrained")
    rows = table.sort_values("delta").reset_index(drop=True)
    ax.fill_between(rows.index, rows["low"], rows["high"], color=KEPT, alpha=0.2, lw=0)
    ax.plot(rows.index, rows["delta"], color=KEPT, lw=2)
    ax.axhline(0, color=QUIET, lw=0.8)
    plain, gone = rows["concept"].isin(list(neutral)), rows["concept"].isin(list(targets))
    given: dict[str, Any] = {"ls": "", "mec": "black", "zorder": 3}
    if plain.any():
        text = f"neutral ({plain.sum()})"
        ax.plot(rows.index[plain], rows["delta"][plain], "D", c=NEUTRAL, ms=7, label=text, **given)
    if gone.any():
        text = "target"
        ax.plot(rows.index[gone], rows["delta"][gone], "*", c=TARGET, ms=16, label=text, **given)
    for k, i in enumerate(rows.index[plain & rows["concept"].isin(list(named))]):
        at, late = (i, rows["delta"][i]), i > 0.8 * len(rows)
        to = (-30 if late else 0, 26 + 20 * (k % 3))  # to the left at the right end
        arrow = {"arrowstyle": "-", "color": QUIET}
        name = f"“{rows['concept'][i]}”"
        ax.annotate(
            name,
            at,
            to,
            textcoords="offset points",
            ha="right" if late else "center",
            fontsize=11,
            arrowprops=arrow,
        )
    ax.set(xlabel=f"{len(rows)} concepts, the least hurt first", ylabel=label)
    ax.legend(frameon=False, loc="upper left", fontsize=11)
    ax.margins(x=0.02)
    return ax


def bars(
    table: pd.DataFrame,
    targets: Sequence[str] = (),
    neutral: Sequence[str] = (),
    pictures: Mapping[str, Image.Image] | None = None,
    most: int = 12,
    label: str = "δ",
    ax: Axes | None = None,
) -> Axes:
    """The `most` and as many of the least hurt concepts, with interval and picture.

    `table` has columns concept, delta, low, high. Targets and neutral concepts are always shown, in
    their own colours.
    """
    rows = table.sort_values("delta").reset_index(drop=True)
    special = rows["concept"].isin([*targets, *neutral])
    ends = rows.index[~special]
    chosen = rows.loc[sorted({*ends[:most], *ends[-most:], *rows.index[special]})]
    if ax is None:
        size = (8, 0.33 * len(chosen) + 0.9)
        _, ax = plt.subplots(figsize=size, layout="constrained")
    colours = [
        TARGET if c in targets else NEUTRAL if c in neutral else LOST if d > 0 else KEPT
        for c, d in zip(chosen["concept"], chosen["delta"], strict=True)
    ]
    y = np.arange(len(chosen))
    ax.barh(y, chosen["delta"], color=colours, height=0.75)
    gaps = [chosen["delta"] - chosen["low"], chosen["high"] - chosen["delta"]]
    ax.errorbar(chosen["delta"], y, xerr=gaps, fmt="none", color="black", lw=1, capsize=2)
    ax.axvline(0, color=QUIET, lw=1)
    names = [f"“{c}”" if c in neutral else c for c in chosen["concept"]]
    ax.set_yticks(y, names, fontsize=10)
    ax.tick_params(axis="y", pad=24 if pictures else 3, length=0)
    ax.set_ylim(-0.6, len(chosen) - 0.4)
    for i, concept in enumerate(chosen["concept"]):
        if pictures and concept in pictures:
            # beside the axis, between it and the name
            mark(
                ax,
                pictures[concept],
                (-0.022, (i + 0.6) / (len(chosen) + 0.2)),
                0.3,
                "axes fraction",
            )
    ax.set_xlabel(label)
    return ax


def strip(
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    captions: Sequence[str],
    title: str = "",
) -> Figure:
    """Pairs of the same prompt and noise, the original above, the erased below, a caption on top.

    Not pyplot's figure: it may be made in another thread. Raises `EraseError` for no pictures, or
    numbers that differ.
    """
    if not before or not len(before) == len(after) == len(captions):
        raise EraseError(
            f"{len(before)} pictures before, {len(after)} after, {len(captions)} captions: expected"
            " one of each for every pair, and at least one"
        )
    figure = Figure(figsize=(1.5 * len(before) + 0.4, 3.9 if title else 3.5), layout="constrained")
    axes = figure.subplots(2, len(before), squeeze=False)
    for row, pictures, name in zip(axes, (before, after), ("original", "erased"), strict=True):
        for ax, picture in zip(row, pictures, strict=True):
            ax.imshow(picture.resize((256, 256), Image.Resampling.LANCZOS))
            ax.set(xticks=[], yticks=[])
            for side in ax.spines.values():
                side.set(color=KEPT if name == "original" else LOST, linewidth=2)
        row[0].set_ylabel(name, fontsize=12)
    for ax, caption in zip(axes[0], captions, strict=True):
        ax.set_title(caption, fontsize=10)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def concept_map(
    table: pd.DataFrame,
    target: str,
    pictures: Mapping[str, Image.Image] | None = None,
    worst: int = 12,
    label: str = "δ",
    ax: Axes | None = None,
) -> Axes:
    """Concepts on a plane, coloured by δ; the target a star, the `worst` hurt by their picture.

    `table` has columns concept, x, y, delta. Colours end at the 2nd and 98th percentile.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(8.5, 7), layout="constrained")
    others = table[table["concept"] != target].sort_values("delta")
    low, high = np.percentile(others["delta"], [2, 98])
    drawn = ax.scatter(
        others["x"], others["y"], c=others["delta"], s=38, cmap=MAP, vmin=low, vmax=high, lw=0
    )
    ax.figure.colorbar(drawn, ax=ax, shrink=0.7, label=label)
    span = np.ptp(table["y"]) or 1.0
    for row in others.tail(worst).itertuples():
        if pictures and row.concept in pictures:
            mark(ax, pictures[row.concept], (row.x, row.y), 0.36)
        at = (row.x, row.y - 0.022 * span)
        ax.annotate(row.concept, at, ha="center", va="top", fontsize=9)
    for row in table[table["concept"] == target].itertuples():
        ax.plot(row.x, row.y, "*", color=TARGET, ms=24, mec="black", zorder=4)
        ax.annotate(target, (row.x, row.y + 0.03 * span), ha="center", fontsize=12, weight="bold")
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)
    return ax
