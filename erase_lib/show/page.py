"""The page, 816 px wide: no figure is wider than `WIDTH` inches, no letter smaller than `SMALL`
points, which are 11 px there; axes, legends, words and small pictures in it."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patheffects import withStroke
from PIL import Image

WIDTH = 8.5  # inches: 816 px at 96 an inch
SMALL, MEDIUM, LARGE = 8.5, 10.0, 11.0  # points; LARGE for the one title of a figure
HALO = [withStroke(linewidth=2.5, foreground="white")]  # around letters on lines and pictures
LETTER = 0.62 / 72  # inches of an average letter of one point


def axes(ax: Axes | None, height: float, width: float = WIDTH) -> Axes:
    """These axes, or new ones of this size in inches."""
    return ax or plt.figure(figsize=(width, height), layout="constrained").subplots()


def panels(
    n: int, height: float, names: float = 0.0, least: float = 1.7, sharey: bool = True
) -> tuple[Figure, Any]:
    """`n` axes beside each other, each at least `least` inches wide, and wrapped where the page
    ends; `names` inches are for the rows' names, which they share."""
    lines = -(-n // max(1, int((WIDTH - names) / least)))
    across = -(-n // lines)
    size = (min(WIDTH, names + 3.1 * across), height * lines)
    figure = plt.figure(figsize=size, layout="constrained")
    every = figure.subplots(lines, across, squeeze=False, sharey=sharey).ravel()
    for ax in every[n:]:
        ax.remove()
    return figure, every[:n]


def key(on: Axes | Figure, ncols: int = 4, **where: Any) -> None:
    """The legend: above the axes at their right end, or `where` else."""
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.1}
    on.legend(ncols=ncols, frameon=False, fontsize=SMALL, **place | where)


def wrapped(text: str, inches: float, points: float = MEDIUM) -> str:
    """The text in lines of at most so many inches; its own ends of lines stay, and long words."""
    wrapper = textwrap.TextWrapper(max(1, int(inches / LETTER / points)), break_long_words=False)
    return "\n".join(wrapper.fill(line) for line in text.split("\n"))


def titled(on: Axes | Figure, text: str) -> Any:
    """The same with what was found in words at its top left, above the legend."""
    figure: Any = on.figure if isinstance(on, Axes) else on
    figure.suptitle(wrapped(text, figure.get_figwidth(), LARGE), x=0.01, ha="left", fontsize=LARGE)
    return on


def said(ax: Axes, text: str, at: Any, shift: tuple[float, float], **how: Any) -> None:
    """Words, `shift` points from a point of the axes."""
    look: dict[str, Any] = {"fontsize": SMALL, "path_effects": HALO, "textcoords": "offset points"}
    ax.annotate(text, at, shift, **look | how)


def stamp(
    ax: Axes,
    picture: Image.Image,
    at: tuple[float, float],
    shift: tuple[float, float] = (0, 0),
    coordinates: Any = "data",
    size: float = 18,
) -> None:
    """A picture `size` points high, its white ground transparent, at a point of the axes."""
    pixels = np.array(picture.convert("RGBA"))
    pixels[(pixels[..., :3] > 250).all(2), 3] = 0
    image = OffsetImage(pixels, zoom=size / picture.height, resample=True)
    given: dict[str, Any] = {"boxcoords": "offset points", "frameon": False, "pad": 0}
    box = AnnotationBbox(image, at, shift, xycoords=coordinates, **given)
    box.set_in_layout(False)
    ax.add_artist(box)
