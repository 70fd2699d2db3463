"""Pictures of how a picture comes about: rows of them, and what a place of it listens to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from erase_lib.show.charts import QUIET, show_picture


def gallery(
    rows: Mapping[str, Sequence[Image.Image]],
    columns: Sequence[str],
    below: Mapping[str, Sequence[str]] | None = None,
    colours: Mapping[str, str] | None = None,
    title: str = "",
) -> Figure:
    """A named row of pictures above the other, a column a setting.

    `below` are a row's words under its pictures, such as what the judge sees, and `colours` the
    frame of a word; every other one is grey. Rows may be shorter than `columns`.
    """
    said, colours = below or {}, colours or {}
    height = 1.6 if said else 1.4
    size = (1.45 * len(columns) + 0.4, height * len(rows) + (0.7 if title else 0.3))
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=size, squeeze=False, layout="constrained"
    )
    for i, (line, (name, pictures)) in enumerate(zip(axes, rows.items(), strict=True)):
        words = said.get(name, [""] * len(pictures))
        for j, ax in enumerate(line):
            if j >= len(pictures):
                ax.axis("off")
                continue
            head = columns[j] if i == 0 else ""
            show_picture(pictures[j], ax, head, words[j], colours.get(words[j], QUIET))
        line[0].set_ylabel(name, fontsize=10)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def overlay(picture: Image.Image, weights: Tensor, ax: Axes, title: str = "") -> Axes:
    """The picture in grey, and over it how much each place listens `(h, w)`: bright is much.

    The colours of one map run from its least to its most, so they say where, not how much.
    """
    size = (256, 256)
    low, high = float(weights.min()), float(weights.max())
    scaled = (weights.float().numpy() - low) / max(high - low, 1e-12)
    mask = Image.fromarray((scaled * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    ax.imshow(picture.convert("L").resize(size), cmap="gray", vmin=-120, vmax=255)
    ax.imshow(np.asarray(mask), cmap="inferno", alpha=0.6)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    return ax
