"""The sensitivity explorer: thin layout around `sensitivity` and `viz_sensitivity`, every callback
a plain method."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets as w
import pandas as pd
from PIL import Image

from erase_lib.concepts import neutral_concepts, style_names
from erase_lib.config import EraseConfig
from erase_lib.diffusion import generate
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError, unknown
from erase_lib.measure import sensitivity_prompts
from erase_lib.models import Pipeline
from erase_lib.show.jobs import Job, canvas, picture, png, put
from erase_lib.show.sensitivity import bars, strip, thumbnails
from erase_lib.study import SCORES, STEPS, deltas, measure_pairs
from erase_lib.train import erase

METHODS = ("esd", "uce", "eap", "eap_closed")


class SensitivityExplorer:
    """Target, method and score → who is hurt; a concept → its pictures before and after.

    `pairs` is the damage atlas, one row a pair of pictures with a column `targets`, of plain ESD;
    `strengths` says how far each of its edits goes. Of it the bars are instant; `Measure` makes
    another method's, `Draw` the pictures. Show `.box`.
    """

    def __init__(
        self,
        pipe: Pipeline,
        pairs: pd.DataFrame,
        strengths: Mapping[str, float],
        thin: int = 4,
        pictures: int = 4,
    ) -> None:
        if pairs.empty:
            raise EraseError("the atlas is empty: run `make results-atlas`")
        self.pipe, self.strengths, self.thin = pipe, strengths, thin
        self.tables = {(t, "esd"): part for t, part in pairs.groupby("targets", sort=False)}
        self.edits: dict[tuple[str, str], Erasure] = {}
        self.thumbs = thumbnails()
        known = list(dict.fromkeys(pairs["targets"]))
        self.target = w.Combobox(value=known[0], options=known, description="target")
        self.method = w.Dropdown(options=METHODS, description="method")
        self.score = w.Dropdown(
            options=[(text, name) for name, text in SCORES.items()],
            value="features",
            description="score",
            layout=w.Layout(width="420px"),
        )
        self.measure_button = w.Button(description="Measure", tooltip="of another method or target")
        self.concept = w.Dropdown(description="concept", layout=w.Layout(width="420px"))
        self.pictures = w.BoundedIntText(pictures, min=1, max=8, description="seeds")
        self.draw_button = w.Button(description="Draw before / after", button_style="primary")
        self.bars, self.strip = picture(), picture()
        self.job = Job([self.measure_button, self.draw_button])
        for control in (self.target, self.method, self.score):
            control.observe(lambda _: self.show(), "value")
        self.measure_button.on_click(lambda _: self.job.start(self.measure, "measuring"))
        self.draw_button.on_click(lambda _: self.job.start(self.draw, "drawing"))
        choose = w.VBox(
            [w.HBox([self.target, self.method]), w.HBox([self.score, self.measure_button])]
        )
        look = w.HBox([self.concept, self.pictures, self.draw_button])
        self.box = w.VBox([choose, self.job.status, self.bars, look, self.strip])
        self.show()

    def table(self) -> pd.DataFrame:
        """δ of the chosen target, method and score. Raises `EraseError` if it is not measured."""
        key = (self.target.value, self.method.value)
        if key not in self.tables:
            raise EraseError(f"{key[1]} of {key[0]!r} is not measured yet: press Measure")
        table = deltas(self.tables[key], self.score.value)
        # an interval of two pictures would span the figure
        table.loc[table["n"] < 4, ["low", "high"]] = float("nan")
        return table

    def show(self) -> None:
        """The bars, and the concepts to choose from, the most hurt first."""

        def redraw() -> None:
            table, target = self.table(), self.target.value
            neutral = [c for c in neutral_concepts()[:3] if c in set(table["concept"])]
            shown = table[table["concept"].isin(self.thumbs) | table["concept"].isin(neutral)]
            label = f"δ: {SCORES[self.score.value]}"
            ax = bars(shown, [target], neutral, self.thumbs, 10, label, canvas(9, 8))
            ax.set_title(f"{self.method.value} erases “{target}”: least and most hurt")
            put(self.bars, png(ax.figure))
            order = table.sort_values("delta", ascending=False)
            self.concept.options = [
                (f"{c or '(empty)'}   δ {d:+.3f}", c)
                for c, d in zip(order["concept"], order["delta"], strict=True)
            ]
            self.concept.index = 0

        self.job.attempt(redraw)

    def measure(self) -> str:
        """Erase and measure every `thin`-th concept, one pair of pictures each."""
        target, method = self.target.value, self.method.value
        names = list(self.thumbs)
        if target not in names:
            raise unknown("target", target, names)
        concepts = [target, *(c for c in names[:: self.thin] if c != target)]
        prompts = sensitivity_prompts(concepts, 1, neutral_concepts()[:3])
        pairs = measure_pairs(self.pipe, self.edit(target, method), prompts, progress=False)
        self.tables[target, method] = pairs
        self.show()
        return f"{len(concepts)} concepts measured, one pair of pictures each: no intervals"

    def draw(self) -> str:
        """The chosen concept before and after, at several seeds."""
        concept, n = self.concept.value, self.pictures.value
        if concept is None:
            raise EraseError("no concept to draw: measure first")
        edit = self.edit(self.target.value, self.method.value)
        before, after = drawn(self.pipe, edit, concept, n)
        title = f"“{concept}” when {self.method.value} erases “{self.target.value}”"
        put(self.strip, png(strip(before, after, [f"seed {i}" for i in range(n)], title)))
        return f"{2 * n} pictures drawn"

    def edit(self, target: str, method: str) -> Erasure:
        """The erasure, made once; ESD's as far as in the atlas."""
        if (target, method) not in self.edits:
            config = EraseConfig(targets=(target,), method=method)
            edit = erase(self.pipe, config, progress=False)
            strength = self.strengths.get(target, 1.0) if method == "esd" else 1.0
            self.edits[target, method] = edit.scaled(self.pipe, strength)
        return self.edits[target, method]


def drawn(
    pipe: Pipeline, edit: Erasure, concept: str, n: int, seed: int = 0
) -> tuple[list[Image.Image], list[Image.Image]]:
    """n pictures of a concept before and after, in the styles in turn; a neutral one by itself."""
    styles = style_names()
    plain = concept in neutral_concepts()
    prompts = [concept if plain else f"a {concept} in {styles[i % 4]} style" for i in range(n)]
    return before_after(pipe, edit, prompts, seed)


def before_after(
    pipe: Pipeline, edit: Erasure, prompts: list[str], seed: int
) -> tuple[list[Image.Image], list[Image.Image]]:
    """The prompts without and with the edit, from the same noise."""
    before = generate(pipe, prompts, seed, STEPS, progress=False)
    with edit.applied(pipe):
        after = generate(pipe, prompts, seed, STEPS, progress=False)
    return before, after
