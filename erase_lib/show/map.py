"""The map of concepts: a figure; by hand with hover and lasso; and a page that needs no kernel.

plotly's FigureWidget draws it: pan, zoom, hover and lasso are there, each calls Python, its HTML
stands alone, and nothing is fetched from a network.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO

import ipywidgets as w
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from PIL import Image

from erase_lib.errors import EraseError
from erase_lib.show.charts import LOOKS, SCALE
from erase_lib.show.page import SMALL, axes, stamp


def concept_map(
    table: pd.DataFrame,
    target: str,
    pictures: Mapping[str, Image.Image] | None = None,
    worst: int = 12,
    label: str = "δ",
    ax: Axes | None = None,
) -> Axes:
    """Concepts on a plane, coloured by δ; the target a star, the `worst` hurt by their picture.
    `table`: concept, x, y, delta. Colours end at the 2nd and 98th percentile."""
    ax = axes(ax, 7)
    others = table[table["concept"] != target].sort_values("delta")
    drawn = ax.scatter("x", "y", 38, "delta", data=others, cmap=SCALE, lw=0)
    drawn.set_clim(others["delta"].quantile(0.02), others["delta"].quantile(0.98))
    ax.figure.colorbar(drawn, ax=ax, shrink=0.7, label=label)
    span = np.ptp(table["y"]) or 1.0
    for row in others.tail(worst).itertuples():
        if pictures and row.concept in pictures:
            stamp(ax, pictures[row.concept], (row.x, row.y), size=23)
        at = (row.x, row.y - 0.022 * span)
        ax.annotate(row.concept, at, ha="center", va="top", fontsize=SMALL)
    for row in table[table["concept"] == target].itertuples():
        ax.plot(row.x, row.y, **LOOKS["target"] | {"ms": 24, "zorder": 4})
        ax.annotate(target, (row.x, row.y + 0.03 * span), ha="center", fontsize=12, weight="bold")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


class MapExplorer:
    """A map of concepts: hover shows before and after, a lasso lists what it holds.

    `maps` has tables concept, x, y, delta by the name of the map, with the same concepts in the
    same order; `before` and `after` a picture a concept, in that order too. Show `.box`.
    """

    def __init__(
        self,
        maps: Mapping[str, pd.DataFrame],
        target: str,
        before: Sequence[Image.Image],
        after: Sequence[Image.Image],
        label: str = "δ",
    ) -> None:
        first = next(iter(maps.values()))
        if len(first) < 3:
            raise EraseError(f"{len(first)} concepts are no map: give 3 or more")
        if not len(first) == len(before) == len(after):
            given = f"{len(before)} and {len(after)} pictures"
            raise EraseError(f"{given} for {len(first)} concepts: give one each")
        self.maps, self.concepts = maps, first["concept"].tolist()
        self.before, self.after = before, after
        self.space = w.Dropdown(options=list(maps), description="map")
        self.figure = go.FigureWidget(map_figure(first, target, label))
        self.name, self.table = w.HTML("hover a concept"), w.HTML("lasso some to list them")
        self.old, self.new = (w.Image(width=160, height=160) for _ in range(2))
        points = self.figure.data[0]
        points.on_hover(lambda trace, points, state: self.hover(points.point_inds))
        points.on_selection(lambda trace, points, state: self.select(points.point_inds))
        self.space.observe(lambda change: self.move(change["new"]), "value")
        named = {"original": self.old, "erased": self.new}
        pair = w.HBox([w.VBox([w.HTML(name), image]) for name, image in named.items()])
        side = w.VBox([self.name, pair, self.table], layout={"width": "360px"})
        self.box = w.VBox([self.space, w.HBox([self.figure, side])])
        self.hover([0])

    def hover(self, places: Sequence[int]) -> None:
        """Show the first of these concepts before and after."""
        if not places:
            return
        i, delta = places[0], self.maps[self.space.value]["delta"]
        self.name.value = f"<b>{escape(self.concepts[i])}</b>, δ {delta.iloc[i]:+.3f}"
        self.old.value, self.new.value = (as_png(p[i]) for p in (self.before, self.after))

    def select(self, places: Sequence[int]) -> None:
        """List these concepts, the most hurt first."""
        rows = self.maps[self.space.value].iloc[list(places)]
        rows = rows[["concept", "delta"]].sort_values("delta", ascending=False)
        self.table.value = rows.head(20).to_html(index=False, float_format="{:+.3f}".format)

    def move(self, name: str) -> None:
        """Another map of the same concepts."""
        rows = self.maps[name]
        with self.figure.batch_update():
            self.figure.data[0].x, self.figure.data[0].y = rows["x"], rows["y"]


def map_figure(table: pd.DataFrame, target: str, label: str = "δ") -> go.Figure:
    """The map as a plotly figure: colour is δ, the target a star."""
    low, high = table.loc[table["concept"] != target, "delta"].quantile([0.02, 0.98])
    gone = table["concept"] == target
    marker = {"color": table["delta"], "colorscale": SCALE, "cmin": low, "cmax": high}
    marker["size"], marker["symbol"] = np.where(gone, 18, 9), np.where(gone, "star", "circle")
    marker["colorbar"] = {"title": label}
    named = {"text": table["concept"], "hovertemplate": "%{text}<extra></extra>"}
    points = go.Scatter(x=table["x"], y=table["y"], mode="markers", marker=marker, **named)
    look = {"template": "plotly_white", "dragmode": "pan", "width": 760, "height": 620}
    look |= {"xaxis_visible": False, "yaxis_visible": False}
    return go.Figure(points).update_layout(margin={"l": 10, "r": 10, "t": 20, "b": 10}, **look)


def map_page(
    table: pd.DataFrame,
    target: str,
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    label: str = "δ",
) -> str:
    """The map as a page of HTML that needs neither kernel nor network: hover shows before and
    after."""
    figure = map_figure(table, target, label)
    cards = []
    for row, old, new in zip(table.itertuples(), before, after, strict=True):
        name = escape(str(row.concept))
        pair = [_image(old, f"original {name}"), _image(new, f"erased {name}")]
        cards.append(f"{''.join(pair)}{name}, δ {row.delta:+.3f} (left: original, right: erased)")
    figure.data[0].customdata = cards
    return figure.to_html(include_plotlyjs=True, post_script=_HOVER)


_HOVER = """
const at = document.getElementById('{plot_id}'), card = document.createElement('div');
card.style.cssText = 'font:15px sans-serif;display:flex;gap:12px;align-items:center;height:150px';
card.textContent = 'Hover a concept to see it before and after.';
at.after(card);
at.on('plotly_hover', event => { card.innerHTML = event.points[0].customdata; });
"""


def _image(picture: Image.Image, alt: str) -> str:
    """A picture as an element of HTML, for a page that stands alone."""
    data = base64.b64encode(as_png(picture)).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{alt}" width="140" height="140">'


def as_png(picture: Image.Image) -> bytes:
    """A picture as a PNG file's bytes."""
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
