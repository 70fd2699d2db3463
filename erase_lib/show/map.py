"""The map of concepts: a figure; by hand with hover and lasso; and a page that needs no kernel,
both by plotly: its FigureWidget calls Python, its HTML stands alone, nothing is fetched."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from PIL import Image

from erase_lib.concepts import concept_table
from erase_lib.errors import EraseError, unknown
from erase_lib.files import as_path, whole, writing
from erase_lib.show.charts import LOOKS, SCALE
from erase_lib.show.explorers import Job, row
from erase_lib.show.page import axes, said, stamp

Pictures = Sequence[Image.Image]
WIDE, HIGH, RING = 760, 620, 44  # pixels of the map, and of a picture's ring
MANY = 2000  # concepts: more are drawn by WebGL, and smaller, or they hide one another
NAMED, PICTURED = 60, 30  # concepts in view that have names, and pictures
NEAREST, CLOSE = 8, 20  # concepts beside that of a click, and of a search


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
    for one in others.tail(worst).itertuples():
        if pictures and one.concept in pictures:
            colour = [tuple(drawn.to_rgba(np.array([one.delta]))[0])]
            ax.scatter(one.x, one.y, 900, facecolors="none", edgecolors=colour, lw=3, zorder=3)
            stamp(ax, pictures[one.concept], (one.x, one.y), size=20)
        said(ax, one.concept, (one.x, one.y), (0, -17), ha="center", va="top")
    for one in table[table["concept"] == target].itertuples():
        ax.plot(one.x, one.y, **LOOKS["target"] | {"ms": 24, "zorder": 4})
        said(ax, target, (one.x, one.y), (0, 14), ha="center", fontsize=12, weight="bold")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


class MapExplorer:
    """A map of concepts: hover shows before and after, a click the nearest, a lasso lists what it
    holds; close by stand names and pictures. Show `.box`. `maps` has tables concept, x, y, delta
    and category (else Unicode's, of the words it knows) by the name of the map, the same concepts
    in the same order; `before` and `after` a picture a concept in that order, or none. `pictures`
    by name stand on the map (by default `after`); `points` `(n, dim)`: the space in which the
    nearest are looked for, else the map. `take` is given the list by the button Preserve; `folder`
    is where Export writes it."""

    def __init__(
        self,
        maps: Mapping[str, pd.DataFrame],
        target: str,
        before: Pictures = (),
        after: Pictures = (),
        pictures: Mapping[str, Image.Image] | None = None,
        points: np.ndarray | None = None,
        take: Callable[[list[str]], str] | None = None,
        folder: str | Path = "runs/map",
        label: str = "δ",
    ) -> None:
        first = next(iter(maps.values()))
        if (n := len(first)) < 3:
            raise EraseError(f"{n} concepts are no map: give 3 or more")
        if len(before) != len(after) or len(after) not in (0, n):
            raise EraseError(f"{len(before)} and {len(after)} pictures: give {n}, one a concept")
        self.maps, self.before, self.after, self.folder = maps, before, after, as_path(folder)
        self.names, self.points, self.take, self.label = list(first["concept"]), points, take, label
        self.pictures = dict(zip(self.names, after, strict=False)) if pictures is None else pictures
        self.listed: list[str] = []
        self.figure = go.FigureWidget(map_figure(first, target, label))
        trace = self.figure.data[0]
        self.marked, self.size = list(trace.marker.symbol), np.array(trace.marker.size)
        self.job, self.card, self.table = Job(), w.HTML(), w.HTML("lasso some to list them")
        known = first["concept"].map(concept_table().set_index("concept")["category"])
        kinds = first.get("category", known)
        self.kinds = kinds.fillna("other").to_numpy()
        self.box = self._box(sorted(set(self.kinds)) if kinds.notna().any() else [])
        trace.on_hover(lambda trace, points, state: self.hover(points.point_inds))
        trace.on_click(lambda trace, points, state: self.click(points.point_inds))
        trace.on_selection(lambda trace, points, state: self.select(points.point_inds))
        self.figure.layout.on_change(lambda *_: self.zoom(), "xaxis.range", "yaxis.range")
        self.hover([0])
        self.zoom()

    def _box(self, kinds: list[str]) -> Any:
        """The controls around the map; those that have nothing to say are left out."""
        self.space = w.Dropdown(options=list(self.maps), description="map")
        self.search = w.Combobox(options=self.names, description="search", continuous_update=False)
        self.category = w.Dropdown(options=["all", *kinds], description="category")
        self.space.observe(lambda change: self.move(change["new"]), "value")
        self.search.observe(lambda change: self.find(change["new"]), "value")
        self.category.observe(lambda change: self.filter(change["new"]), "value")
        preserve, export = (w.Button(description=d) for d in ("Preserve these", "Export the list"))
        preserve.on_click(lambda _: self.hand_over())
        export.on_click(lambda _: self.export())
        asked = [self.space, self.search, *([self.category] if kinds else [])]
        given = row(*([preserve] if self.take else []), export)
        side = w.VBox([self.card, given, self.job.status, self.table], layout={"width": "360px"})
        return w.VBox([row(*asked), row(self.figure, side)])

    @property
    def now(self) -> pd.DataFrame:
        """The table of the map that is shown."""
        return self.maps[self.space.value]

    def hover(self, places: Sequence[int]) -> None:
        """Show the first of these concepts before and after."""
        for i in places[:1]:
            sides = (self.before[i], self.after[i]) if len(self.after) else None
            self.card.value = _card(self.now.iloc[i].to_dict(), sides, self.label)

    def click(self, places: Sequence[int]) -> None:
        """List the first of these concepts and the nearest to it."""
        for i in places[:1]:
            flat = self.points is None
            space = self.now[["x", "y"]].to_numpy() if flat else np.asarray(self.points)
            apart = np.linalg.norm(space - space[i], axis=1)
            near = [int(k) for k in np.argsort(apart, kind="stable") if k != i][:NEAREST]
            self._list([i, *near])
            where = "on this map, which is no measurement" if flat else "in the whole space"
            self.job.say(f"{self.names[i]} and the nearest to it {where}")

    def select(self, places: Sequence[int]) -> None:
        """List these concepts, the most hurt first."""
        delta = self.now["delta"].to_numpy()
        self._list(sorted(places, key=lambda i: -delta[i]))
        self.job.say(f"{len(places)} chosen")

    def _list(self, places: Sequence[int]) -> None:
        """These concepts are the list, in this order; the first twenty stand in the table."""
        rows = self.now.iloc[[*places]][["concept", "delta"]]
        self.listed = rows["concept"].tolist()
        rows = rows.rename(columns={"delta": self.label}).head(20)
        self.table.value = rows.to_html(index=False, float_format="{:+.3f}".format)

    def move(self, name: str) -> None:
        """Another map of the same concepts."""
        self.figure.update_traces(x=self.maps[name]["x"], y=self.maps[name]["y"], selector=0)
        self.figure.update_layout(xaxis_range=None, yaxis_range=None)
        self.zoom()

    def find(self, name: str) -> None:
        """Go to a concept and show its card; of an unknown word the nearest known is said."""
        if not name:
            return
        if name not in self.names:
            self.job.say(str(unknown("word", name, self.names)), wrong=True)
            return
        i, flat = self.names.index(name), self.now[["x", "y"]].to_numpy(dtype=float)
        far = np.maximum(np.ptp(flat, axis=0), 1e-9)
        apart = (np.abs(flat - flat[i]) / far).max(1)
        reach = 1.05 * far * np.sort(apart)[: CLOSE + 1][-1]
        spans = np.stack([flat[i] - reach, flat[i] + reach], axis=1).tolist()
        self.figure.update_layout(xaxis_range=spans[0], yaxis_range=spans[1])
        self.hover([i])
        self.zoom()

    def filter(self, category: str) -> None:
        """Let all but a category fade."""
        kept = (self.kinds == category) | (category == "all")
        self.figure.data[0].marker.opacity = np.where(kept, 1.0, 0.08)

    def zoom(self) -> None:
        """Names where few are in view, and where fewer are their pictures, each in a ring whose
        colour is δ, so that no picture hides it."""
        flat = self.now[["x", "y"]].to_numpy(dtype=float)
        given = [self.figure.layout[f"{axis}axis"].range for axis in "xy"]
        whole = zip(flat.min(0), flat.max(0), strict=True)
        spans = np.array([own or span for own, span in zip(given, whole, strict=True)], dtype=float)
        low, high = np.sort(spans, axis=1).T
        near = np.flatnonzero(((flat >= low) & (flat <= high)).all(1))
        some = self.now.iloc[near if len(near) <= NAMED else near[:0]]
        drawn = some if len(some) <= PICTURED else some[:0]
        drawn = drawn[drawn["concept"].isin(list(self.pictures))]
        images = [self._image(row, spans) for row in drawn.to_dict("records")]
        ring = self.now["concept"].isin(drawn["concept"]).to_numpy()
        star = np.array(self.marked) == "star"
        below = np.where(some["concept"].isin(drawn["concept"]), "<br><br>", "")
        look: dict[str, Any] = {"symbol": np.where(ring & ~star, "circle-open", self.marked)}
        look |= {"size": np.where(ring, RING, self.size), "line": {"width": np.where(ring, 4, 0)}}
        # one after the other: a batch of both would take from each what only the other is given
        self.figure.data[1].update(x=some["x"], y=some["y"], text=below + some["concept"])
        self.figure.data[0].update(marker=look)
        self.figure.layout.images = images

    def _image(self, row: dict[Any, Any], spans: np.ndarray) -> dict[str, Any]:
        """A concept's picture, a little smaller than its ring."""
        wide, high = np.abs(np.diff(spans, axis=1))[:, 0].tolist()
        size = {"sizex": wide * RING / WIDE * 0.7, "sizey": high * RING / HIGH * 0.7}
        place = {"x": row["x"], "y": row["y"], "xref": "x", "yref": "y", "layer": "below"}
        source = self.pictures[row["concept"]].convert("RGB")
        return {"source": source, "xanchor": "center", "yanchor": "middle", **size, **place}

    def hand_over(self) -> None:
        """Give the list to be preserved, where somebody takes it."""
        self._said(lambda: self.take(self.listed) if self.take else "")

    def export(self) -> None:
        """Write the list, a word a line, as every notebook's parameter `words` reads it."""
        path = self.folder / "chosen.txt"

        def written() -> str:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                with whole(path) as (file,):
                    file.write_text("\n".join(self.listed) + "\n", encoding="utf-8")
            return f"{len(self.listed)} words written to {path}"

        self._said(written)

    def _said(self, work: Callable[[], str]) -> None:
        """Do it with the list, and say what came of it."""
        if self.listed:
            self.job.attempt(work)
        else:
            self.job.say("the list is empty: lasso some, or click one", wrong=True)


def map_figure(table: pd.DataFrame, target: str, label: str = "δ") -> go.Figure:
    """The map as a plotly figure: colour is δ, the target a star. Of many concepts by WebGL."""
    low, high = table.loc[table["concept"] != target, "delta"].quantile([0.02, 0.98])
    gone = table["concept"] == target
    marker = {"color": table["delta"], "colorscale": SCALE, "cmin": low, "cmax": high}
    dot = 9 if len(table) <= MANY else 4
    marker |= {"size": np.where(gone, 18, dot), "symbol": np.where(gone, "star", "circle")}
    marker["colorbar"] = {"title": label}
    named = {"text": table["concept"], "hovertemplate": "%{text}<extra></extra>"}
    kind = go.Scattergl if len(table) > MANY else go.Scatter
    points = kind(x=table["x"], y=table["y"], mode="markers", marker=marker, **named)
    # what stands close by; it does not answer to the pointer
    names = go.Scatter(x=[], y=[], text=[], mode="text", hoverinfo="skip")
    names.textposition = "bottom center"
    look = {"template": "plotly_white", "dragmode": "pan", "width": WIDE, "height": HIGH}
    look |= {"xaxis_visible": False, "yaxis_visible": False, "showlegend": False}
    margin = {"l": 10, "r": 10, "t": 20, "b": 10}
    return go.Figure([points, names]).update_layout(margin=margin, **look)


def map_page(table: pd.DataFrame, target: str, before: Pictures, after: Pictures) -> str:
    """The map as a page of HTML that needs neither kernel nor network: hover shows pictures."""
    figure = map_figure(table, target)
    cards = zip(table.to_dict("records"), before, after, strict=True)
    figure.data[0].customdata = [_card(row, (old, new)) for row, old, new in cards]
    return figure.to_html(include_plotlyjs=True, post_script=_HOVER)


_HOVER = """
const at = document.getElementById('{plot_id}'), card = document.createElement('div');
card.style.cssText = 'font:15px sans-serif;height:180px';
card.textContent = 'Hover a concept to see it before and after.';
at.after(card);
at.on('plotly_hover', event => { card.innerHTML = event.points[0].customdata; });
"""


def _card(
    row: dict[Any, Any], sides: tuple[Image.Image, Image.Image] | None, label: str = "δ"
) -> str:
    """A concept's δ and, if there are any, its pictures in HTML, which stands alone."""
    name, images = escape(row["concept"]), ""
    for what, picture in zip(("original", "erased"), sides or (), strict=False):
        file = BytesIO()
        picture.save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        images += f'<img src="data:image/png;base64,{data}" alt="{what} {name}" height="150"> '
    told = "<br>" * bool(sides) + f"<b>{name}</b>, {label} {row['delta']:+.3f}"
    return images + told + " (left: original, right: erased)" * bool(sides)
