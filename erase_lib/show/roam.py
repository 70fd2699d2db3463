"""The map of concepts by hand: hover, click, lasso, search and other colours, by plotly's
FigureWidget, which calls Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.path import Path as Outline
from PIL import Image

from erase_lib.concepts import concept_table
from erase_lib.errors import EraseError, unknown
from erase_lib.files import as_path, whole, writing
from erase_lib.show.explorers import Job, row
from erase_lib.show.map import (
    DOT,
    HIGH,
    LIVE,
    VIEW,
    WIDE,
    Pictures,
    card,
    colours,
    drawn,
    map_figure,
    placed,
)

RING = 44  # pixels of the ring of a picture
NAMED, PICTURED = 60, 30  # concepts in view that have names, and pictures
NEAREST, CLOSE = 8, 20  # concepts beside that of a click, and of a search


class MapExplorer:
    """A map of concepts: hover shows before and after, a click the nearest, a lasso lists what it
    holds, and what is listed stays marked when the map or the colour changes; close by stand names
    and pictures. Show `.box`. `maps` has tables concept, x, y, delta and category (else Unicode's,
    of the words it knows) by the name of the map, the same concepts in the same order; `deltas`,
    instead of the maps' own, δ of several erasures by their names, in that order: of two also their
    difference. `before` and `after` a picture a concept in that order, or none (`after` of several
    erasures by name). `pictures` by name stand on the map (by default the first `after`); `points`
    `(n, dim)`: the space in which the nearest are looked for, else the map. `take` is given the
    list by the button Preserve; `folder` is where Export writes it."""

    def __init__(
        self,
        maps: Mapping[str, pd.DataFrame],
        target: str,
        before: Pictures = (),
        after: Pictures | Mapping[str, Pictures] = (),
        pictures: Mapping[str, Image.Image] | None = None,
        points: np.ndarray | None = None,
        take: Callable[[list[str]], str] | None = None,
        folder: str | Path = "runs/map",
        label: str = "δ",
        deltas: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        first = next(iter(maps.values()))
        if (n := len(first)) < 3:
            raise EraseError(f"{n} concepts are no map: give 3 or more")
        sides = dict(after) if isinstance(after, Mapping) else {"erased": after}
        for some in sides.values():
            if len(before) != len(some) or len(some) not in (0, n):
                raise EraseError(f"{len(before)} and {len(some)} pictures: give {n}, one a concept")
        self.sides = {"original": before, **sides} if len(before) else {}
        self.deltas = {k: np.asarray(v, dtype=float) for k, v in (deltas or {}).items()}
        if wrong := [k for k, v in self.deltas.items() if len(v) != n]:
            raise EraseError(f"δ of {wrong[0]!r} has another length: give {n}, one a concept")
        if len(self.deltas) == 2:
            (a, one), (b, two) = self.deltas.items()
            self.deltas[f"{b} − {a}"] = two - one
        self.maps, self.folder, self.target = maps, as_path(folder), target
        self.names, self.points, self.take, self.label = list(first["concept"]), points, take, label
        known = next(iter(sides.values()))
        self.pictures = dict(zip(self.names, known, strict=False)) if pictures is None else pictures
        self.chosen: list[int] = []
        self.said = label  # of the δ that is shown
        self.figure = go.FigureWidget(map_figure(first, target, label))
        self.job, self.card, self.table = Job(), w.HTML(), w.HTML("lasso some to list them")
        known = first["concept"].map(concept_table().set_index("concept")["category"])
        kinds = first.get("category", known)
        self.kinds = kinds.fillna("other").to_numpy()
        self.box = self._box(sorted(set(self.kinds)) if kinds.notna().any() else [])
        dots = self.figure.data[0]
        dots.on_hover(lambda _, points, state: self.hover(self._met(points)))
        dots.on_click(lambda _, points, state: self.click(self._met(points)))
        dots.on_selection(lambda _, points, outline: self.select(self._met(points, outline)))
        dots.on_deselect(lambda _, points: self.select([]))
        self.figure.layout.on_change(lambda *_: self.zoom(), "xaxis.range", "yaxis.range")
        self.recolour()
        self.hover([0])

    def _box(self, kinds: list[str]) -> Any:
        """The controls around the map; those that have nothing to say are left out."""
        self.space = w.Dropdown(options=list(self.maps), description="map")
        self.search = w.Combobox(options=self.names, description="search", continuous_update=False)
        self.category = w.Dropdown(options=["all", *kinds], description="category")
        self.colour = w.Dropdown(options=list(self.deltas), description="δ of")
        self.space.observe(lambda _: self.move(), "value")
        self.search.observe(lambda change: self.find(change["new"]), "value")
        self.category.observe(lambda _: self.zoom(), "value")
        self.colour.observe(lambda _: self.recolour(), "value")
        preserve, export = (w.Button(description=d) for d in ("Preserve these", "Export the list"))
        preserve.on_click(lambda _: self.hand_over())
        export.on_click(lambda _: self.export())
        asked = [self.space, *([self.colour] if self.deltas else []), self.search]
        asked += [self.category] if kinds else []
        given = row(*([preserve] if self.take else []), export)
        side = w.VBox([self.card, given, self.job.status, self.table], layout={"width": "360px"})
        return w.VBox([row(*asked), row(self.figure, side)])

    @property
    def now(self) -> pd.DataFrame:
        """The table of the map that is shown, with the δ that is shown."""
        table = self.maps[self.space.value]
        return table.assign(delta=self.deltas[self.colour.value]) if self.deltas else table

    @property
    def listed(self) -> list[str]:
        """The concepts of the list, in its order."""
        return [self.names[i] for i in self.chosen]

    def _met(self, points: Any, outline: Any = None) -> list[int]:
        """The concepts of these dots; of a map that is thinned all within the outline."""
        if outline is None or len(self.names) <= LIVE:
            return [int(self.figure.data[0].customdata[i]) for i in points.point_inds]
        if outline.type == "box":
            (left, right), (low, high) = sorted(outline.xrange), sorted(outline.yrange)
            corners = [(left, low), (right, low), (right, high), (left, high)]
        else:
            corners = list(zip(outline.xs, outline.ys, strict=True))
        return np.flatnonzero(Outline(corners).contains_points(placed(self.now))).tolist()

    def hover(self, places: Sequence[int]) -> None:
        """Show the first of these concepts before and after."""
        for i in places[:1]:
            sides = {name: some[i] for name, some in self.sides.items()}
            self.card.value = card(self.now.iloc[i].to_dict(), sides, self.said)

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
        """These concepts are the list, in this order, and marked on the map."""
        self.chosen = [*places]
        self._tell()
        self.zoom()

    def _tell(self) -> None:
        """The first twenty of the list as a table."""
        rows = self.now.iloc[self.chosen][["concept", "delta"]]
        rows = rows.rename(columns={"delta": self.said}).head(20)
        self.table.value = rows.to_html(index=False, float_format="{:+.3f}".format)

    def move(self) -> None:
        """Another map of the same concepts: what is listed stays so, its outline goes."""
        self.figure.update_layout(xaxis_range=VIEW, yaxis_range=VIEW, selections=[])
        star = placed(self.now)[[name == self.target for name in self.names]]
        self.figure.data[2].update(x=star[:, 0], y=star[:, 1])
        self.zoom()

    def recolour(self) -> None:
        """Colours of the δ that is chosen: erasures share one scale, a difference has two sides."""
        name, others = self.colour.value, np.array(self.names) != self.target
        two = name is not None and " − " in name
        if self.deltas:
            self.said = f"{self.label}, {name}"
            shown = [v for k, v in self.deltas.items() if (" − " in k) == two]
            values = np.concatenate([v[others] for v in shown])
            self.figure.layout.coloraxis = colours(values, self.said, two)
            self.figure.layout.plot_bgcolor = "#D9D9D9" if two else "white"
        self.figure.layout.title.text = f"“{escape(self.target)}” erased: {escape(self.said)}"
        if self.chosen:
            self._tell()
        self.zoom()

    def find(self, name: str) -> None:
        """Go to a concept and show its card; of an unknown word the nearest known is said."""
        if not name:
            return
        if name not in self.names:
            self.job.say(str(unknown("word", name, self.names)), wrong=True)
            return
        i, flat = self.names.index(name), placed(self.now)
        reach = 1.05 * np.sort(np.abs(flat - flat[i]).max(1))[: CLOSE + 1][-1]
        spans = np.stack([flat[i] - reach, flat[i] + reach], axis=1).tolist()
        self.figure.update_layout(xaxis_range=spans[0], yaxis_range=spans[1])
        self.hover([i])
        self.zoom()

    def zoom(self) -> None:
        """Dots that answer, of many in view some; names where few are in view, and where fewer are
        their pictures, each in a ring whose colour is δ, so that no picture hides it."""
        table, flat, dots = self.now, placed(self.now), self.figure.data[0]
        spans = np.array([self.figure.layout[f"{axis}axis"].range for axis in "xy"], dtype=float)
        kept = (self.kinds == self.category.value) | (self.category.value == "all")
        lit = kept & np.isin(np.arange(len(kept)), self.chosen) if self.chosen else kept
        near, live, images = drawn(self.figure, table, flat, spans, lit)
        some = near if len(near) <= NAMED else near[:0]
        shown = table["concept"].isin(list(self.pictures)).to_numpy()[some]
        pictured = some[shown] if len(some) <= PICTURED else some[:0]
        for i in pictured.tolist():
            images.append(self._image(self.names[i], flat[i], spans))
        look: dict[str, Any] = {"symbol": "circle", "size": DOT, "line": {"width": 0}}
        if len(pictured):
            ring = np.isin(live, pictured)
            look = {"symbol": np.where(ring, "circle-open", "circle")}
            look |= {"size": np.where(ring, RING, DOT), "line": {"width": np.where(ring, 4, 0)}}
        look |= {"opacity": np.where(kept[live], 1.0, 0.08)}
        chosen = np.flatnonzero(np.isin(live, self.chosen)).tolist() if self.chosen else None
        text = np.where(np.isin(some, pictured), "<br><br>", "") + table["concept"].to_numpy()[some]
        # one after the other: a batch of both would take from each what only the other is given
        self.figure.data[1].update(x=flat[some, 0], y=flat[some, 1], text=text)
        dots.update(marker=look, selectedpoints=chosen)
        self.figure.layout.images = images

    def _image(self, name: str, at: np.ndarray, spans: np.ndarray) -> dict[str, Any]:
        """A concept's picture, a little smaller than its ring."""
        wide, high = np.abs(np.diff(spans, axis=1))[:, 0].tolist()
        size = {"sizex": wide * RING / WIDE * 0.7, "sizey": high * RING / HIGH * 0.7}
        place = {"x": at[0], "y": at[1], "xref": "x", "yref": "y", "layer": "below"}
        source = self.pictures[name].convert("RGB")
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
