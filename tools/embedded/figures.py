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

from erase_lib.show import COLOURS, GREY, INK, dots, grid


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


def channels(latents: Mapping[str, Tensor]) -> Figure:
    """Mean and deviation of each channel of latents `(n, channels, h, w)`, a panel each; in grey
    the noise of diffusion."""
    fig, axes = plt.subplots(
        1, len(latents), figsize=(8.5, 2.8), sharex=True, sharey=True, layout="constrained"
    )
    for ax, (title, z) in zip(axes, latents.items(), strict=True):
        n, middle, spread = z.shape[1], z.mean((0, 2, 3)), z.std((0, 2, 3))
        ax.errorbar(range(n), middle, spread, fmt="o", color=INK, capsize=3)
        ax.axhspan(-1, 1, color=GREY, alpha=0.15)
        ax.set_title(f"{title} (grey: the noise)", fontsize=10)
        ax.set(xlabel="channel", xticks=range(0, n, 3))
    axes[0].set_ylabel("mean ± deviation")
    return fig


def clean_errors(alpha_bar: Tensor, ax: Axes | None = None) -> Axes:
    """The error of ẑ₀ that an error of 1 makes at each timestep, for ε and for v.

    `alpha_bar`: ᾱ `(timesteps,)`.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(8.5, 3.4), layout="constrained")
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    ax.semilogy(b / a, color=COLOURS[1], linestyle="--", label="UNet says ε: √(1−ᾱ) / √ᾱ")
    ax.semilogy(b, color=INK, label="UNet says v: √(1−ᾱ)")
    ax.set(xlabel="timestep t (right: pure noise)", ylabel="error of ẑ₀\nfor an error of 1")
    ax.legend(frameon=False)
    return ax
