"""The studio: type a concept, erase it, watch, look and save. Every callback is a plain method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as w
import pandas as pd

from erase_lib.concepts import is_style, vocabulary
from erase_lib.config import EraseConfig
from erase_lib.erasure import Erasure, Interrupted
from erase_lib.errors import EraseError, unknown
from erase_lib.files import as_path
from erase_lib.measure import World, near_and_far
from erase_lib.models import Pipeline
from erase_lib.show.curves import losses
from erase_lib.show.explorers import WIDE, Job, before_and_after, canvas, picture, put
from erase_lib.train import Run, erase

METHODS = ("eap", "esd", "esd_neutral", "age", "uce", "eap_closed", "rece", "speed")
EVERY = 5  # updates between two pictures of the losses


def known_words(world: World) -> list[str]:
    """What may be typed: the concepts, the styles, and common English words."""
    styles = (f"{style} style" for style in world.styles if style)
    return list(dict.fromkeys([*world.words, *styles, *vocabulary("english")]))


def check_word(world: World, concept: str) -> None:
    """Raise `EraseError` for an empty concept, or a rare word that the tokenizer of the embedded
    model reads in pieces, for those would be erased."""
    if not concept:
        raise EraseError("the concept is empty: type one or more words, such as church")
    known = {word for phrase in known_words(world) for word in phrase.split()}
    for word in concept.split() if world.embedded else ():
        pieces = world.pipe.tokenizer.tokenize(word)
        if word not in known and len(pieces) != 1:
            read = " + ".join(piece.removesuffix("</w>") for piece in pieces)
            raise EraseError(f"{unknown('word', word, known)} (the model reads {read})")


class Studio:
    """Erase any concept by hand; the concept is drawn in every style, and its four nearest
    neighbours. Another strength of the same edit only draws again. Show `.box`."""

    def __init__(
        self,
        pipe: Pipeline,
        folder: str | Path = "runs/studio",
        steps: int = 0,
        words: str | None = None,
    ) -> None:
        self.pipe, self.folder, self.steps = pipe, as_path(folder), steps
        self.world = World(pipe, words=words)
        known = known_words(self.world)
        self.word = w.Combobox(options=known, value="church", description="concept")
        self.method = w.Dropdown(options=METHODS, description="method")
        given = WIDE | {"description": "strength", "continuous_update": False}
        self.strength = w.FloatSlider(1.0, min=0.1, max=2.0, step=0.1, **given)
        self.seed = w.BoundedIntText(0, min=0, max=99_999, description="seed")
        self.bar = w.IntProgress(0, 0, 1, layout={"width": "100%"})
        self.losses, self.strip, self.preserved = picture(), picture(), w.HTML()
        self.edit: Erasure | None = None
        self.job = job = Job(pipe)
        begin = job.button("Erase", self.erase, "erasing", button_style="primary")
        again = job.button("Draw again", self.draw, "drawing", tooltip="at this strength and seed")
        keep = job.button("Save", self.save, "saving")
        asked = [w.HBox([self.word, self.method]), w.HBox([self.strength, self.seed])]
        pressed = w.HBox([begin, job.stop_button, again, keep])
        seen = w.HBox([self.losses, self.preserved])
        self.box = w.VBox([*asked, pressed, self.bar, job.status, self.strip, seen])

    def erase(self) -> str:
        """Erase what was typed, showing each update; then draw."""
        word = " ".join(self.word.value.split())
        check_word(self.world, word)
        given: dict[str, Any] = {"steps": self.steps} if self.steps else {}
        config = EraseConfig.from_dict({"targets": (word,), "method": self.method.value} | given)
        self.edit, end = None, "erased"
        self.bar.max, self.bar.value, self.preserved.value = config.steps, 0, ""
        put(self.losses)
        try:
            self.edit = erase(self.pipe, config, callbacks=[self.watch])
        except Interrupted as stopped:
            self.edit, done = stopped.erasure, len(stopped.erasure.history)
            end = f"stopped after {done} of {config.steps} updates, which are kept"
        self.bar.value = self.bar.max
        self.job.say(f"{end}; drawing …")
        self.draw()
        return f"“{word}” {end}"

    def watch(self, run: Run) -> None:
        """At each update the progress, and now and then the losses and the search."""
        self.bar.value = done = len(run.history)
        if done and done % EVERY == 0:
            table = pd.DataFrame(run.history)
            put(self.losses, losses(table, canvas(6, 2.8)).figure)
            if "chosen" in table:
                now = table["chosen"].iloc[-EVERY:].str.split("|").explode().unique()
                self.preserved.value = "preserved just now:<br>" + "<br>".join(now[:10])
        self.job.check()

    def draw(self) -> str:
        """Before and after, at the strength of the slider."""
        edit, world = self._scaled(), self.world
        word = edit.config.targets[0]
        heads = [style or word for style in world.styles]
        if is_style(word):
            things = ["dog", "church", "apple", "guitar"]
            prompts, heads = [f"a {t} in {word}" for t in things], [word] * len(things) + heads
        else:
            things = near_and_far(self.pipe, [word], near=4, far=0, words=world.words)[0]
            prompts, heads = [world.prompt(word, i) for i in range(4)], heads + things
        prompts += [world.prompt(thing, i) for i, thing in enumerate(things)]
        title = f"“{word}” erased by {edit.config.method}, strength {self.strength.value:.1f}"
        seed = self.seed.value
        put(self.strip, before_and_after(self.pipe, edit, prompts, seed, heads, title))
        return title

    def _scaled(self) -> Erasure:
        """The edit at the strength of the slider."""
        if self.edit is None:
            raise EraseError("nothing is erased yet: press Erase")
        return self.edit.scaled(self.pipe, self.strength.value)

    def save(self) -> str:
        """Write the erasure, as strong as the slider says, into a folder of its own."""
        edit = self._scaled()
        word, method = edit.config.targets[0].replace(" ", "-"), edit.config.method
        folder = edit.save(self.folder / f"{word}-{method}-{self.strength.value:.1f}")
        return f"saved to {folder}"
