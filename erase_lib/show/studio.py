"""The erasure studio: type a concept, erase it, watch, look, save."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import ipywidgets as w
import pandas as pd

from erase_lib.concepts import concept_table, is_style, style_names, vocabulary
from erase_lib.config import EraseConfig
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError
from erase_lib.measure import near_and_far
from erase_lib.models import Pipeline
from erase_lib.show.charts import losses
from erase_lib.show.explorers import before_after
from erase_lib.show.jobs import Job, canvas, picture, png, put
from erase_lib.show.sensitivity import strip
from erase_lib.train import erase

METHODS = ("eap", "esd", "esd_neutral", "age", "uce", "eap_closed", "rece", "speed")
EVERY = 5  # updates between two pictures of the losses


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
        self.history: list[dict[str, Any]] = []
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
        self.edit, self.history = None, []
        self.bar.max, self.bar.value = config.steps, 0
        put(self.losses, b"")
        self.preserved.value = ""
        self.edit = erase(self.pipe, config, progress=False, callback=self.watch)
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

    def watch(self, row: dict[str, Any]) -> None:
        """One update of the erasure: progress, and now and then the losses and the search."""
        self.history.append(row)
        self.bar.value = len(self.history)
        if len(self.history) % EVERY == 0:
            table = pd.DataFrame(self.history)
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
        before, after = before_after(self.pipe, scaled, prompts, seed)
        title = f"“{word}” erased by {self.edit.config.method}, strength {strength:.1f}"
        figure = strip(before, after, [caption for _, caption in asked], title)
        put(self.strip, png(figure))
        return title

    def save(self) -> str:
        """Write the erasure, as strong as the slider says, into a folder of its own."""
        if self.edit is None:
            raise EraseError("nothing is erased yet: press Erase")
        word, method = self.edit.config.targets[0], self.edit.config.method
        name = f"{word.replace(' ', '-')}-{method}-{self.strength.value:.1f}"
        folder = self.edit.scaled(self.pipe, self.strength.value).save(self.folder / name)
        return f"saved to {folder}"
