"""Whom would it hurt, and whom to preserve: a prediction before anything is erased, and a choice by
hand, from a list, a search box or a lasso on the map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as w
import pandas as pd
from matplotlib.figure import Figure

from erase_lib import study
from erase_lib.concepts import vocabulary, without
from erase_lib.errors import EraseError, unknown
from erase_lib.measure import World, near_and_far
from erase_lib.show.explorers import WIDE, Job, drawn, in_words, picture, put, row
from erase_lib.show.pictures import grid, thumbnails
from erase_lib.show.roam import MapExplorer

LISTED, DRAFTED, DRAWN = 500, 40, 8  # words that are predicted, by drafts; that are drawn
PREDICTORS = {
    "distance": "how near the words are: no evaluation",
    "kv": "how far UCE moves K and V: no evaluation",
    "draft": f"how drafts change, of the {DRAFTED} nearest: 64 evaluations each, the best",
}


def known_words(world: World) -> list[str]:
    """What may be typed: the concepts, the styles, and common English words."""
    styles = (f"{style} style" for style in world.styles if style)
    return list(dict.fromkeys([*world.words, *styles, *vocabulary("english")]))


def check_word(world: World, concept: str) -> str:
    """The concept in single blanks. Raises `EraseError` for an empty one, or a rare word that the
    tokenizer of the embedded model reads in pieces, for those would be erased."""
    if not (words := concept.split()):
        raise EraseError("the concept is empty: type one or more words, such as church")
    known = {word for phrase in known_words(world) for word in phrase.split()}
    for word in words if world.embedded else ():
        pieces = world.pipe.tokenizer.tokenize(word)
        if word not in known and len(pieces) != 1:
            read = " + ".join(piece.removesuffix("</w>") for piece in pieces)
            raise EraseError(f"{unknown('word', word, known)} (the model reads {read})")
    return " ".join(words)


class Risks:
    """Predict who is hurt by erasing what is typed, `.foretold`, and choose whom to preserve,
    `.chosen`."""

    def __init__(self, world: World, job: Job, folder: Path) -> None:
        self.world, self.job, self.folder = world, job, folder
        self.table = pd.DataFrame({"concept": [], "prediction": [], "target": []})
        known = known_words(world)
        self.word = w.Combobox(options=known, value="church", description="concept")
        self.word.placeholder, self.word.tooltip = "church, castle", "several with a comma between"
        by = [(text, name) for name, text in PREDICTORS.items()]
        self.predictor = w.Dropdown(options=by, description="predict by", **WIDE)
        large = {"width": "340px", "height": "110px"}
        self.hurt = w.SelectMultiple(description="at risk", layout=large)
        self.other = w.Combobox(options=known, description="search", placeholder="any word")
        self.preserved = w.Text(description="preserved", placeholder="nobody by hand", **WIDE)
        self.strip, self.words, self.map = picture(), w.HTML(), w.VBox()
        b, lasso = job.button, "near words lie near each other; a lasso's words can be preserved"
        told = b("Predict", self.predict, "predicting", button_style="primary")
        find = w.VBox([self.other, b("Preserve", self.preserve, "adding")])
        laid = b("Lay out the map", self.lay_out, "laying out", tooltip=lasso)
        self.foretold = w.VBox([row(self.word, self.predictor, told), self.strip, self.words])
        mine = w.VBox([self.preserved, laid])
        self.chosen = w.VBox([row(self.hurt, find, mine), self.map])

    def targets(self) -> tuple[str, ...]:
        """The concepts that are typed, with a comma between them, each checked."""
        return tuple(check_word(self.world, word) for word in self.word.value.split(","))

    def kept(self) -> list[str]:
        """Whom to preserve by hand, typed alike; nobody where nothing is."""
        words = filter(str.strip, self.preserved.value.split(","))
        return list(dict.fromkeys(check_word(self.world, word) for word in words))

    def predict(self) -> str:
        """Who is most at risk, before anything is erased: a list to choose from, and pictures."""
        targets, how = self.targets(), self.predictor.value
        words = without(self.world.words, targets)
        most = min(DRAFTED if how == "draft" else LISTED, len(words))
        near = near_and_far(self.world.pipe, targets, most, 0, words=words)[0]
        given: dict[str, Any] = {}
        if how == "draft":
            given = {"judge": self.world.judge_of(targets), "clip": self.world.clip}
            given["progress"] = self.job.check
        table = study.predictions(self.world.pipe, targets, near, [how], **given)
        column = "draft features" if how == "draft" else how
        table = table[["concept"]].assign(prediction=table[column], target="|".join(targets))
        self.table = table.sort_values("prediction", ascending=False, ignore_index=True)
        names = self.table["concept"].tolist()
        self.hurt.options = [(f"{i}. {name}", name) for i, name in enumerate(names, 1)]
        some = names[:DRAWN]
        prompts = [self.world.prompt(name, i) for i, name in enumerate(some)]
        asked = pd.DataFrame({"prompt": prompts, "seed": range(len(some))})
        heads = [f"{i}. {name}" for i, name in enumerate(some, 1)]
        by = PREDICTORS[how].partition(":")[0]
        title = f"most at risk if “{', '.join(targets)}” is erased, by {by}"
        rows = drawn(self.job, self.world.pipe, asked)
        put(self.strip, grid(rows, heads, title=title, figure=Figure()))
        self.words.value = in_words(title, [", ".join(heads)])
        told = f"{len(names)} words predicted by {PREDICTORS[how]}"
        return f"{told}. Only their order means something"

    def add(self, words: Iterable[str]) -> str:
        """Preserve these too."""
        words = [check_word(self.world, word) for word in words]
        known = self.kept()
        self.preserved.value = ", ".join([*known, *dict.fromkeys(without(words, known))])
        return f"to preserve by hand: {self.preserved.value or 'nobody'}"

    def preserve(self) -> str:
        """Preserve what is chosen in the list and typed beside it."""
        words = [*self.hurt.value, *filter(None, [self.other.value.strip()])]
        if not words:
            raise EraseError("nobody is chosen: mark words in the list, or type one beside it")
        self.hurt.value, self.other.value = (), ""
        return self.add(words)

    def lay_out(self) -> str:
        """The words that were predicted, and the target, on a map by their embeddings."""
        if self.table.empty:
            raise EraseError("nothing is predicted yet: press Predict")
        known = self.table
        target = known["target"][0].split("|")[0]
        table = pd.DataFrame({"concept": [target, *known["concept"]]})
        table["delta"] = [known["prediction"].max(), *known["prediction"]]
        space = study.text_space(self.world.pipe, table["concept"].tolist())
        table[["x", "y"]] = study.project(space, "pca")
        given: dict[str, Any] = {"points": space, "label": "prediction", "take": self.add}
        given |= {"pictures": thumbnails() if self.world.embedded else {}, "folder": self.folder}
        self.map.children = [MapExplorer({"words, PCA": table}, target, **given).box]
        return f"{len(table)} words; the nearer, the more alike for the text encoder"

    def most(self, targets: Sequence[str], n: int) -> list[str]:
        """The n most at risk, if they were predicted for these targets."""
        return self.table["concept"][self.table["target"] == "|".join(targets)].tolist()[:n]
