"""The figures of notebooks/16_build_the_embedded_model.ipynb, each a function of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from erase_lib.show import dots, grid


def to_pil(pictures: Tensor) -> list[Image.Image]:
    """Pictures `(n, 3, h, w)`, uint8 or in [−1, 1], as PIL."""
    if pictures.is_floating_point():
        pictures = ((pictures.detach().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pictures]


def sheet(
    rows: Mapping[str, Tensor | Sequence[Image.Image]], titles: Sequence[str], title: str = ""
) -> Figure:
    """Rows of pictures: each row's name on its left, one title above each column."""
    shown = {name: to_pil(p) if isinstance(p, Tensor) else p for name, p in rows.items()}
    return grid(shown, titles, title=title)


def intervals(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Shares with their intervals: columns on, what (concept or style), value, low, high, n."""
    counts = table.drop_duplicates("on").set_index("on")["n"]
    names = [f"{name}\nn = {counts[name]}" for name in table["on"]]
    if ax is None:
        size = (8.5, 0.6 * table["on"].nunique() + 1)
        ax = plt.figure(figsize=size, layout="constrained").subplots()
    ax = dots(table.assign(name=names), "name", "what", ax=ax)
    ax.set(xlim=(0, 1.02), xlabel="share that the judge sees as asked for, 95 % interval")
    return ax
