"""The map of concepts: a figure; by hand with hover and lasso; and a page that needs no kernel.

plotly's FigureWidget draws it: pan, zoom, hover and lasso are there, each calls Python, its HTML
stands alone, and nothing is fetched from a network.
"""

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
from erase_lib.show.charts import LOOKS, SCALE, axes
from erase_lib.show.pictures import SMALL, stamp


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
    ax = axes(ax, 7)
    others = table[table["concept"] != target].sort_values("delta")
    low, high = np.percentile(others["delta"], [2, 98])
    drawn = ax.scatter(
        others["x"], others["y"], c=others["delta"], s=38, cmap=SCALE, vmin=low, vmax=high, lw=0
    )
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
            raise EraseError(
                f"{len(before)} and {len(after)} pictures for {len(first)} concepts: one each"
            )
        self.maps, self.concepts = maps, first["concept"].tolist()
        self.before, self.after = before, after
        self.space = w.Dropdown(options=list(maps), description="map")
        self.figure = go.FigureWidget(map_figure(first, target, label))
        self.name, self.table = w.HTML("hover a concept"), w.HTML("lasso some to list them")
        self.old, self.new = (w.Image(width=160, height=160) for _ in range(2))
        self.figure.data[0].on_hover(lambda trace, points, state: self.hover(points.point_inds))
        self.figure.data[0].on_selection(
            lambda trace, points, selector: self.select(points.point_inds)
        )
        self.space.observe(lambda change: self.move(change["new"]), "value")
        pair = w.HBox(
            [w.VBox([w.HTML("original"), self.old]), w.VBox([w.HTML("erased"), self.new])]
        )
        side = w.VBox([self.name, pair, self.table], layout=w.Layout(width="360px"))
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
    points = go.Scatter(
        x=table["x"],
        y=table["y"],
        mode="markers",
        text=table["concept"],
        hovertemplate="%{text}<extra></extra>",
        marker={
            "color": table["delta"],
            "colorscale": SCALE,
            "cmin": low,
            "cmax": high,
            "size": [18 if g else 9 for g in gone],
            "symbol": ["star" if g else "circle" for g in gone],
            "colorbar": {"title": label},
        },
    )
    figure = go.Figure(points)
    bare = {"visible": False}
    figure.update_layout(
        width=760, height=620, template="plotly_white", xaxis=bare, yaxis=bare, dragmode="pan"
    )
    figure.update_layout(margin={"l": 10, "r": 10, "t": 20, "b": 10})
    return figure


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
    figure.data[0].customdata = [
        [f"{delta:+.3f}", *(as_url(picture) for picture in pair)]
        for delta, *pair in zip(table["delta"], before, after, strict=True)
    ]
    return figure.to_html(include_plotlyjs=True, post_script=_HOVER)


_HOVER = """
const at = document.getElementById('{plot_id}');
const card = document.createElement('div');
card.style.cssText = 'font:15px sans-serif;display:flex;gap:12px;align-items:center;height:150px';
card.textContent = 'Hover a concept to see it before and after.';
at.after(card);
at.on('plotly_hover', function (event) {
  const point = event.points[0], [delta, before, after] = point.customdata;
  card.replaceChildren();
  for (const source of [before, after]) {
    const image = document.createElement('img');
    image.src = source; image.width = image.height = 140;
    image.alt = (source === before ? 'original ' : 'erased ') + point.text;
    card.append(image);
  }
  const text = document.createElement('div');
  text.textContent = point.text + ', δ ' + delta + ' (left: original, right: erased)';
  card.append(text);
});
"""


def as_png(picture: Image.Image) -> bytes:
    """A picture as a PNG file's bytes."""
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def as_url(picture: Any) -> str:
    """A picture within an address, for a page that stands alone."""
    return "data:image/png;base64," + base64.b64encode(as_png(picture)).decode()
