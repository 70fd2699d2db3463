"""The figures of notebooks/16_build_the_embedded_model.ipynb, each a function of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from erase_lib.show import KEPT, LOST, show_picture


def to_pil(pictures: Tensor) -> list[Image.Image]:
    """Pictures `(n, 3, h, w)`, uint8 or in [−1, 1], as PIL."""
    if pictures.is_floating_point():
        pictures = ((pictures.detach().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pictures]


def sheet(
    rows: Mapping[str, Tensor | Sequence[Image.Image]], titles: Sequence[str], title: str = ""
) -> Figure:
    """Rows of pictures: each row's name on its left, one title above each column."""
    n = len(titles)
    size = max(1.0, min(2.0, 13 / n))
    shape = (size * n + 0.5, size * len(rows) + 0.6)
    fig, axes = plt.subplots(len(rows), n, figsize=shape, squeeze=False, layout="constrained")
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        shown = to_pil(pictures) if isinstance(pictures, Tensor) else pictures
        for ax, picture in zip(line, shown, strict=True):
            show_picture(picture, ax)
        line[0].set_ylabel(name, fontsize=11)
    for ax, name in zip(axes[0], titles, strict=True):
        ax.set_title(name.replace(" ", "\n"), fontsize=10)
    if title:
        fig.suptitle(title, fontsize=13)
    return fig


def intervals(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Shares with their intervals: columns on, what (concept or style), value, low, high, n."""
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 0.7 * table["on"].nunique() + 1), layout="constrained")
    names = list(dict.fromkeys(table["on"]))
    kinds = (("concept", KEPT, "o", -0.13), ("style", LOST, "s", 0.13))
    for what, colour, marker, aside in kinds:
        part = table[table["what"] == what]
        y = [names.index(name) + aside for name in part["on"]]
        bars = [part["value"] - part["low"], part["high"] - part["value"]]
        ax.errorbar(part["value"], y, xerr=bars, fmt=marker, color=colour, capsize=4, label=what)
    counts = table.drop_duplicates("on")["n"]
    labels = [f"{name}\nn = {n}" for name, n in zip(names, counts, strict=True)]
    ax.set_yticks(range(len(names)), labels)
    ax.set(xlim=(0, 1.02), xlabel="share that the judge sees as asked for, 95 % interval")
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    ax.legend(frameon=False, loc="lower left")
    return ax
