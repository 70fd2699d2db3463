"""The explorers: layout around figures, and every callback a plain method.

Type a concept, erase it, watch, look and save; choose a target and see who is hurt.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets as w
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from erase_lib.concepts import concept_table, is_style, neutral_concepts, style_names, vocabulary
from erase_lib.config import EraseConfig
from erase_lib.diffusion import generate
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError, unknown
from erase_lib.measure import near_and_far, sensitivity_prompts
from erase_lib.models import Pipeline
from erase_lib.show.charts import delta_bars
from erase_lib.show.curves import losses
from erase_lib.show.jobs import Job, canvas, picture, png, put
from erase_lib.show.pictures import grid, thumbnails
from erase_lib.study import SCORES, STEPS, deltas, measure_pairs
from erase_lib.train import Run, erase

MEASURED = ("esd", "uce", "eap", "eap_closed")  # methods of the sensitivity explorer
METHODS = ("eap", "esd", "esd_neutral", "age", "uce", "eap_closed", "rece", "speed")
EVERY = 5  # updates between two pictures of the losses


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
        self.method = w.Dropdown(options=MEASURED, description="method")
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
            ax = delta_bars(shown, [target], neutral, self.thumbs, 10, label, canvas(8.5, 7))
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
        styles = (
            [""] if concept in neutral_concepts() else [f" in {s} style" for s in style_names()]
        )
        forms = [
            f"a {concept}{styles[i % len(styles)]}" if styles[0] else concept for i in range(n)
        ]
        rows = without_and_with(self.pipe, edit, forms, 0)
        title = f"“{concept}” when {self.method.value} erases “{self.target.value}”"
        heads = [f"seed {i}" for i in range(n)]
        put(self.strip, png(grid(rows, heads, title=title, figure=Figure())))
        return f"{2 * n} pictures drawn"

    def edit(self, target: str, method: str) -> Erasure:
        """The erasure, made once; ESD's as far as in the atlas."""
        if (target, method) not in self.edits:
            config = EraseConfig(targets=(target,), method=method)
            edit = erase(self.pipe, config, callbacks=[])
            strength = self.strengths.get(target, 1.0) if method == "esd" else 1.0
            self.edits[target, method] = edit.scaled(self.pipe, strength)
        return self.edits[target, method]


def without_and_with(
    pipe: Pipeline, edit: Erasure, prompts: list[str], seed: int
) -> dict[str, list[Image.Image]]:
    """Pictures of the prompts without ("original") and with the edit ("erased"), from the same
    noise."""
    before = generate(pipe, prompts, seed, STEPS, progress=False)
    with edit.applied(pipe):
        return {"original": before, "erased": generate(pipe, prompts, seed, STEPS, progress=False)}


def known_words() -> list[str]:
    """What may be typed: the concepts, the styles, and common English words."""
    named = [*concept_table()["concept"], *(f"{s} style" for s in style_names())]
    return list(dict.fromkeys([*named, *vocabulary("english")]))


def check_word(pipe: Pipeline, concept: str) -> None:
    """Raise `EraseError` for an empty concept, or a rare word that the tokenizer reads in pieces.

    Such a word is no concept of the text encoder's: what is erased would be its pieces.
    """
    if not concept:
        raise EraseError("the concept is empty: type one or more words, such as church")
    known = {word for phrase in known_words() for word in phrase.split()}
    for word in concept.split():
        pieces = pipe.tokenizer.tokenize(word)
        if word not in known and len(pieces) != 1:
            shown = " + ".join(piece.removesuffix("</w>") for piece in pieces)
            near = difflib.get_close_matches(word, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "type a more common word"
            raise EraseError(f"unknown word {word!r}, which the model reads as {shown}: {hint}")


class Studio:
    """Erase any concept by hand. Show `.box`.

    `Erase` trains in a thread, `Stop` keeps the updates done. Another strength of the same edit
    only draws again. What is drawn: the concept in every style, and its four nearest neighbours.
    """

    def __init__(self, pipe: Pipeline, folder: str | Path = "runs/studio", steps: int = 0) -> None:
        self.pipe, self.folder, self.steps = pipe, Path(folder), steps
        self.word = w.Combobox(options=known_words(), value="church", description="concept")
        self.method = w.Dropdown(options=METHODS, description="method")
        self.strength = w.FloatSlider(
            1.0,
            min=0.1,
            max=2.0,
            step=0.1,
            description="strength",
            continuous_update=False,
            layout=w.Layout(width="420px"),
        )
        self.seed = w.BoundedIntText(0, min=0, max=99_999, description="seed")
        self.erase_button = w.Button(description="Erase", button_style="primary")
        self.stop_button = w.Button(description="Stop", button_style="warning")
        self.draw_button = w.Button(description="Draw again", tooltip="at this strength and seed")
        self.save_button = w.Button(description="Save")
        self.bar = w.IntProgress(0, 0, 1, layout=w.Layout(width="100%"))
        self.losses, self.strip = picture(), picture()
        self.preserved = w.HTML()
        self.edit: Erasure | None = None
        buttons = [self.erase_button, self.draw_button, self.save_button]
        self.job = Job(buttons, self.stop_button)
        self.erase_button.on_click(lambda _: self.job.start(self.erase, "erasing"))
        self.draw_button.on_click(lambda _: self.job.start(self.draw, "drawing"))
        self.save_button.on_click(lambda _: self.job.start(self.save, "saving"))
        asked = w.VBox([w.HBox([self.word, self.method]), w.HBox([self.strength, self.seed])])
        pressed = w.HBox([self.erase_button, self.stop_button, self.draw_button, self.save_button])
        seen = w.HBox([self.losses, self.preserved])
        self.box = w.VBox([asked, pressed, self.bar, self.job.status, self.strip, seen])

    def erase(self) -> str:
        """Erase what was typed, showing each update; then draw."""
        word = " ".join(self.word.value.split())
        check_word(self.pipe, word)
        given: dict[str, Any] = {"steps": self.steps} if self.steps else {}
        config = EraseConfig.from_dict({"targets": (word,), "method": self.method.value} | given)
        self.edit = None
        self.bar.max, self.bar.value = config.steps, 0
        put(self.losses, b"")
        self.preserved.value = ""
        self.edit = erase(self.pipe, config, callbacks=[self.watch])
        done = len(self.edit.history)
        self.bar.value = self.bar.max
        stopped = self.job.stopping.is_set()
        end = (
            f"stopped after {done} of {config.steps} updates, which are kept"
            if stopped
            else "erased"
        )
        self.job.say(f"{end}; drawing …")
        self.draw()
        return f"“{word}” {end}"

    def watch(self, run: Run) -> None:
        """Before the first update and after each: progress, and now and then the losses and the
        search."""
        self.bar.value = done = len(run.history)
        if done and done % EVERY == 0:
            table = pd.DataFrame(run.history)
            put(self.losses, png(losses(table, canvas(6, 2.8)).figure))
            if "chosen" in table:
                now = table["chosen"].iloc[-EVERY:].str.split("|").explode().unique()
                self.preserved.value = "preserved just now:<br>" + "<br>".join(now[:10])
        self.job.check()

    def draw(self) -> str:
        """Before and after, at the strength of the slider."""
        if self.edit is None:
            raise EraseError("nothing is erased yet: press Erase")
        word, strength = self.edit.config.targets[0], self.strength.value
        styles, seed = style_names(), self.seed.value
        if is_style(word):
            things = ["dog", "church", "apple", "guitar"]
            asked = [(f"a {thing} in {word}", word) for thing in things]
            asked += [(f"a {t} in {s} style", s) for t, s in zip(things, styles, strict=True)]
        else:
            near = near_and_far(self.pipe, [word], near=4, far=0)[0]
            asked = [(f"a {word} in {s} style", s) for s in styles]
            asked += [(f"a {c} in {styles[i]} style", c) for i, c in enumerate(near)]
        prompts = [prompt for prompt, _ in asked]
        scaled = self.edit.scaled(self.pipe, strength)
        rows = without_and_with(self.pipe, scaled, prompts, seed)
        title = f"“{word}” erased by {self.edit.config.method}, strength {strength:.1f}"
        heads = [head for _, head in asked]
        put(self.strip, png(grid(rows, heads, title=title, figure=Figure())))
        return title

    def save(self) -> str:
        """Write the erasure, as strong as the slider says, into a folder of its own."""
        if self.edit is None:
            raise EraseError("nothing is erased yet: press Erase")
        word, method = self.edit.config.targets[0], self.edit.config.method
        name = f"{word.replace(' ', '-')}-{method}-{self.strength.value:.1f}"
        folder = self.edit.scaled(self.pipe, self.strength.value).save(self.folder / name)
        return f"saved to {folder}"
