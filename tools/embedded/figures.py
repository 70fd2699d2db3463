"""The figures of notebooks/16_build_the_embedded_model.ipynb, each a function of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image as Shown
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from erase_lib.show import KEPT, LOST, QUIET, show_picture


def to_pil(pictures: Tensor) -> list[Image.Image]:
    """Pictures `(n, 3, h, w)`, uint8 or in [−1, 1], as PIL."""
    if pictures.is_floating_point():
        pictures = ((pictures.detach().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pictures]


def put(path: Path) -> None:
    """Show a picture file that a training has written."""
    display(Shown(str(path)))


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


def channels(latents: Mapping[str, Tensor]) -> Figure:
    """Mean and deviation of each channel of latents `(n, channels, h, w)`, a panel each; in grey
    the noise of diffusion."""
    fig, axes = plt.subplots(
        1, len(latents), figsize=(11, 3.2), sharex=True, sharey=True, layout="constrained"
    )
    for ax, (title, z) in zip(axes, latents.items(), strict=True):
        n, middle, spread = z.shape[1], z.mean((0, 2, 3)), z.std((0, 2, 3))
        ax.errorbar(range(n), middle, spread, fmt="o", color=KEPT, capsize=3)
        ax.axhspan(-1, 1, color=QUIET, alpha=0.15)
        ax.set(title=f"{title} (grey: the noise)", xlabel="channel", xticks=range(0, n, 3))
    axes[0].set_ylabel("mean ± deviation")
    return fig


def clean_errors(alpha_bar: Tensor, ax: Axes | None = None) -> Axes:
    """The error of ẑ₀ that an error of 1 makes at each timestep, for ε and for v.

    `alpha_bar`: ᾱ `(timesteps,)`.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    ax.semilogy(b / a, color=LOST, linestyle="--", label="UNet says ε: √(1−ᾱ) / √ᾱ")
    ax.semilogy(b, color=KEPT, label="UNet says v: √(1−ᾱ)")
    ax.set(xlabel="timestep t (right: pure noise)", ylabel="error of ẑ₀\nfor an error of 1")
    ax.legend(frameon=False)
    return ax
