"""The map of concepts: a figure; by hand with hover and lasso; and a page that needs no kernel,
both by plotly: its FigureWidget calls Python, its HTML stands alone, nothing is fetched."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from PIL import Image

from erase_lib.errors import EraseError
from erase_lib.show.charts import LOOKS, SCALE
from erase_lib.show.page import axes, said, stamp

Pictures = Sequence[Image.Image]


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
    for row in others.tail(worst).itertuples():
        if pictures and row.concept in pictures:
            stamp(ax, pictures[row.concept], (row.x, row.y), size=23)
        said(ax, row.concept, (row.x, row.y), (0, -11), ha="center", va="top")
    for row in table[table["concept"] == target].itertuples():
        ax.plot(row.x, row.y, **LOOKS["target"] | {"ms": 24, "zorder": 4})
        said(ax, target, (row.x, row.y), (0, 14), ha="center", fontsize=12, weight="bold")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


class MapExplorer:
    """A map of concepts: hover shows before and after, a lasso lists what it holds. Show `.box`.
    `maps` has tables concept, x, y, delta by the name of the map, with the same concepts in the
    same order; `before` and `after` a picture a concept, in that order too."""

    def __init__(
        self, maps: Mapping[str, pd.DataFrame], target: str, before: Pictures, after: Pictures
    ) -> None:
        first = next(iter(maps.values()))
        if (n := len(first)) < 3:
            raise EraseError(f"{n} concepts are no map: give 3 or more")
        if not n == len(before) == len(after):
            raise EraseError(f"{len(before)} and {len(after)} pictures: give {n}, one a concept")
        self.maps, self.before, self.after = maps, before, after
        self.space = w.Dropdown(options=list(maps), description="map")
        self.figure = go.FigureWidget(map_figure(first, target))
        self.card, self.table = w.HTML(), w.HTML("lasso some to list them")
        points = self.figure.data[0]
        points.on_hover(lambda trace, points, state: self.hover(points.point_inds))
        points.on_selection(lambda trace, points, state: self.select(points.point_inds))
        self.space.observe(lambda change: self.move(change["new"]), "value")
        side = w.VBox([self.card, self.table], layout={"width": "360px"})
        self.box = w.VBox([self.space, w.HBox([self.figure, side])])
        self.hover([0])

    def hover(self, places: Sequence[int]) -> None:
        """Show the first of these concepts before and after."""
        for i in places[:1]:
            row = self.maps[self.space.value].iloc[i].to_dict()
            self.card.value = _card(row, self.before[i], self.after[i])

    def select(self, places: Sequence[int]) -> None:
        """List these concepts, the most hurt first."""
        rows = self.maps[self.space.value].iloc[list(places)]
        rows = rows[["concept", "delta"]].sort_values("delta", ascending=False)
        self.table.value = rows.head(20).to_html(index=False, float_format="{:+.3f}".format)

    def move(self, name: str) -> None:
        """Another map of the same concepts."""
        self.figure.update_traces(x=self.maps[name]["x"], y=self.maps[name]["y"])


def map_figure(table: pd.DataFrame, target: str) -> go.Figure:
    """The map as a plotly figure: colour is δ, the target a star."""
    low, high = table.loc[table["concept"] != target, "delta"].quantile([0.02, 0.98])
    gone = table["concept"] == target
    marker = {"color": table["delta"], "colorscale": SCALE, "cmin": low, "cmax": high}
    marker |= {"size": np.where(gone, 18, 9), "symbol": np.where(gone, "star", "circle")}
    marker["colorbar"] = {"title": "δ"}
    named = {"text": table["concept"], "hovertemplate": "%{text}<extra></extra>"}
    points = go.Scatter(x=table["x"], y=table["y"], mode="markers", marker=marker, **named)
    look = {"template": "plotly_white", "dragmode": "pan", "width": 760, "height": 620}
    look |= {"xaxis_visible": False, "yaxis_visible": False}
    return go.Figure(points).update_layout(margin={"l": 10, "r": 10, "t": 20, "b": 10}, **look)


def map_page(table: pd.DataFrame, target: str, before: Pictures, after: Pictures) -> str:
    """The map as a page of HTML that needs neither kernel nor network: hover shows pictures."""
    figure = map_figure(table, target)
    cards = zip(table.to_dict("records"), before, after, strict=True)
    figure.data[0].customdata = [_card(*card) for card in cards]
    return figure.to_html(include_plotlyjs=True, post_script=_HOVER)


_HOVER = """
const at = document.getElementById('{plot_id}'), card = document.createElement('div');
card.style.cssText = 'font:15px sans-serif;height:180px';
card.textContent = 'Hover a concept to see it before and after.';
at.after(card);
at.on('plotly_hover', event => { card.innerHTML = event.points[0].customdata; });
"""


def _card(row: dict[Any, Any], before: Image.Image, after: Image.Image) -> str:
    """A concept's δ and pictures in HTML, which stands alone."""
    name, images = escape(row["concept"]), ""
    for what, picture in (("original", before), ("erased", after)):
        file = BytesIO()
        picture.save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        images += f'<img src="data:image/png;base64,{data}" alt="{what} {name}" height="150"> '
    return f"{images}<br><b>{name}</b>, δ {row['delta']:+.3f} (left: original, right: erased)"
