"""The map of concepts: a figure; and by plotly the map that `roam` moves by hand, and a page that
needs no kernel: its HTML stands alone, nothing is fetched."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib import colormaps
from matplotlib.axes import Axes
from PIL import Image

from erase_lib.show.charts import GREY, LOOKS, SCALE, TARGET, TWO_SIDED
from erase_lib.show.page import axes, said, stamp

Pictures = Sequence[Image.Image]
WIDE, HIGH = 760, 620  # pixels of the map
# fields of the view, across and up, of which each has one dot that answers where there are too many
FIELDS = (25, 20)
LIVE = FIELDS[0] * FIELDS[1]
VIEW = (-0.04, 1.04)  # of a map whose concepts lie between 0 and 1
DOT, CARD = 9, 300  # pixels of a dot, and of a card's pictures together


def concept_map(
    table: pd.DataFrame,
    target: str,
    pictures: Mapping[str, Image.Image] | None = None,
    worst: int = 12,
    label: str = "δ",
    ax: Axes | None = None,
    ends: tuple[float, float] | None = None,
) -> Axes:
    """Concepts on a plane, coloured by δ; the target a star, the `worst` hurt by their picture.
    `table`: concept, x, y, delta. Colours end at `ends`, else at the 2nd and 98th percentile; from
    −b to b they are of two sides, for a difference."""
    ax = axes(ax, 7)
    others = table[table["concept"] != target].sort_values("delta")
    low, high = ends or others["delta"].quantile([0.02, 0.98])
    look: dict[str, Any] = {"cmap": SCALE, "lw": 0}
    look |= {"cmap": TWO_SIDED, "lw": 0.4, "ec": GREY} if low == -high else {}
    drawn = ax.scatter("x", "y", 38, "delta", data=others, **look)
    drawn.set_clim(low, high)
    ax.figure.colorbar(drawn, ax=ax, shrink=0.7, label=label)
    for row in others.tail(worst).itertuples():
        if pictures and row.concept in pictures:
            colour = [tuple(drawn.to_rgba(np.array([row.delta]))[0])]
            ax.scatter(row.x, row.y, 900, facecolors="none", edgecolors=colour, lw=3, zorder=3)
            stamp(ax, pictures[row.concept], (row.x, row.y), size=20)
        said(ax, row.concept, (row.x, row.y), (0, -17), ha="center", va="top")
    for row in table[table["concept"] == target].itertuples():
        ax.plot(row.x, row.y, **LOOKS["target"] | {"ms": 24, "zorder": 4})
        said(ax, target, (row.x, row.y), (0, 14), ha="center", fontsize=12, weight="bold")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def placed(table: pd.DataFrame) -> np.ndarray:
    """The map's points `(n, 2)` between 0 and 1: every map is looked at alike."""
    flat = table[["x", "y"]].to_numpy(dtype=float)
    return (flat - flat.min(0)) / np.maximum(np.ptp(flat, axis=0), 1e-9)


def map_figure(table: pd.DataFrame, target: str, label: str = "δ") -> go.Figure:
    """The map as a plotly figure: colour is δ, the target a star. Of more than `LIVE` concepts one
    a field answers to the pointer, the others stand in a picture: see `drawn`."""
    flat, gone = placed(table), (table["concept"] == target).to_numpy()
    dots = go.Scatter(mode="markers", hovertemplate="%{text}<extra></extra>")
    dots.marker = {"size": DOT, "coloraxis": "coloraxis"}
    # these two do not answer to the pointer: what stands close by, and the target
    names = go.Scatter(x=[], y=[], text=[], mode="text", textposition="bottom center")
    star = go.Scatter(x=flat[gone, 0], y=flat[gone, 1], mode="markers")
    star.marker = {"symbol": "star", "size": 18, "color": TARGET, "line": {"width": 1}}
    names.hoverinfo = star.hoverinfo = "skip"
    look = {"template": "plotly_white", "dragmode": "pan", "width": WIDE, "height": HIGH}
    look |= {"xaxis_range": VIEW, "yaxis_range": VIEW, "showlegend": False, "title_font_size": 14}
    look |= {"xaxis_visible": False, "yaxis_visible": False, "title_x": 0.01}
    look |= {"coloraxis": colours(table["delta"].to_numpy()[~gone], label)}
    figure = go.Figure([dots, names, star])
    figure.update_layout(margin={"l": 10, "r": 10, "t": 40, "b": 10}, **look)
    lit = np.ones(len(table), dtype=bool)
    figure.layout.images = drawn(figure, table, flat, np.array([VIEW, VIEW]), lit)[2]
    return figure


def colours(values: np.ndarray, label: str, two_sided: bool = False) -> dict[str, Any]:
    """The scale of these δ, from the 2nd to the 98th percentile, or both sides of 0 alike."""
    low, high = np.nanquantile(values, [0.02, 0.98])
    if two_sided:
        high = np.nanquantile(np.abs(values), 0.98)
        low = -high
    bar = {"title": {"text": label, "side": "right"}}
    scale = TWO_SIDED if two_sided else SCALE
    return {"colorscale": scale, "cmin": low, "cmax": high, "colorbar": bar}


def drawn(
    figure: go.Figure, table: pd.DataFrame, flat: np.ndarray, spans: np.ndarray, lit: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Draw the dots that answer to the pointer: who is in view, who answers, and the picture of
    all. A browser draws thousands of dots anew at every frame, a picture it only moves; so where
    more than `LIVE` are in view, the most hurt of each field answers, and closer by all do. What is
    not `lit` is grey in the picture."""
    (low, high), delta = spans.T, table["delta"].to_numpy(dtype=float)
    low, high = np.minimum(low, high), np.maximum(low, high)
    near = np.flatnonzero(((flat >= low) & (flat <= high)).all(1))
    live, images, axis = np.arange(len(table)), [], figure.layout.coloraxis
    weight = np.abs(delta) if axis.cmin == -axis.cmax else delta
    if len(table) > LIVE:
        live = near[np.lexsort([-weight[near], ~lit[near]])]
        if len(near) > LIVE:
            field = ((flat[live] - low) / (high - low) * 0.999 * FIELDS).astype(int)
            live = live[np.unique(field @ (1, FIELDS[0]), return_index=True)[1]]
        images = [_cloud(flat, delta, weight, lit, low, high, axis)]
    place = {"x": flat[live, 0], "y": flat[live, 1], "customdata": live}
    place |= {"text": table["concept"].to_numpy()[live], "marker": {"color": delta[live]}}
    figure.data[0].update(place)
    return near, live, images


def _cloud(
    flat: np.ndarray,
    delta: np.ndarray,
    weight: np.ndarray,
    lit: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    scale: Any,
) -> dict[str, Any]:
    """All concepts as a picture of the view and half as much around it, the most hurt on top."""
    size, wide, tall = 2 * (high - low), 2 * WIDE, 2 * HIGH
    corner = (low + high - size) / 2
    at = ((flat - corner) / size * (wide, tall)).astype(int)
    order = np.lexsort([weight, lit])
    order = order[((at[order] > 0) & (at[order] < (wide - 4, tall - 4))).all(1)]
    share = np.clip((delta - scale.cmin) / max(scale.cmax - scale.cmin, 1e-12), 0, 1)
    shade = np.where(lit, 2 + 253 * np.nan_to_num(share), 1)[order].astype(np.uint8)
    pixels = np.zeros((tall, wide), dtype=np.uint8)
    for right, up in np.ndindex(4, 4):
        pixels[tall - 1 - at[order, 1] - up, at[order, 0] + right] = shade
    scheme = colormaps[TWO_SIDED if scale.cmin == -scale.cmax else SCALE]
    palette = [(1, 1, 1), (0.8, 0.8, 0.8), *scheme(np.linspace(0, 1, 254))[:, :3]]
    picture = Image.fromarray(pixels)
    picture.putpalette(np.uint8(255 * np.array(palette)).tobytes())
    picture.info["transparency"] = 0
    place = {"x": corner[0], "y": corner[1], "sizex": size[0], "sizey": size[1]}
    place |= {"xref": "x", "yref": "y", "yanchor": "bottom", "layer": "below", "sizing": "stretch"}
    return {"source": picture, **place}


def map_page(table: pd.DataFrame, target: str, before: Pictures, after: Pictures) -> str:
    """The map as a page of HTML that needs neither kernel nor network: hover shows pictures."""
    figure, rows = map_figure(table, target), table.to_dict("records")
    sides = [{"original": old, "erased": new} for old, new in zip(before, after, strict=True)]
    dots = figure.data[0]
    dots.customdata = [card(rows[i], sides[i]) for i in dots.customdata]
    return figure.to_html(include_plotlyjs=True, post_script=_HOVER)


_HOVER = """
const at = document.getElementById('{plot_id}'), card = document.createElement('div');
card.style.cssText = 'font:15px sans-serif;height:180px';
card.textContent = 'Hover a concept to see it before and after.';
at.after(card);
at.on('plotly_hover', event => { card.innerHTML = event.points[0].customdata; });
"""


def card(row: dict[Any, Any], sides: Mapping[str, Image.Image], label: str = "δ") -> str:
    """A concept's δ and, if there are any, its pictures in HTML, which stands alone."""
    name, images = escape(row["concept"]), ""
    for what, picture in sides.items():
        file = BytesIO()
        picture.save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        alt = f"{escape(what)} {name}"
        images += (
            f'<img src="data:image/png;base64,{data}" alt="{alt}" height="{CARD // len(sides)}"> '
        )
    told = "<br>" * bool(sides) + f"<b>{name}</b>, {label} {row['delta']:+.3f}"
    return images + told + f" (from the left: {escape(', '.join(sides))})" * bool(sides)
