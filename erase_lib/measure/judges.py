"""Who says what a picture shows: the embedded judge, or any image classifier; never in training."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification

from erase_lib.concepts import is_style, normal
from erase_lib.errors import EraseError, reason
from erase_lib.files import DATA, check_keys, sought
from erase_lib.measure.pictures import Images, in_batches, picture_tensor
from erase_lib.models import pick_device, quiet

JUDGE = DATA / "models" / "emoji-judge"
STYLE = "style: "  # begins the labels that name a style


class Classifier:
    """Who says what a picture shows, by `name`: which of the `concepts`, and of the `styles` where
    it tells any. `place` has the column of every name that it goes by."""

    name: str
    concepts: list[str]
    styles: list[str] = []
    place: dict[str, int]

    def likelihoods(self, pictures: Any) -> tuple[np.ndarray, np.ndarray]:
        """`(n, concepts)` and `(n, styles)` of pictures `(n)`, the rows of each summing to 1."""
        raise NotImplementedError

    def concept_probabilities(self, pictures: Images | Tensor) -> Tensor:
        """`(n, concepts)`, each row summing to 1."""
        return torch.from_numpy(self.likelihoods(pictures)[0])

    def sees(self, pictures: Images | Tensor) -> list[str]:
        """The concept that each picture is taken for."""
        return [self.concepts[i] for i in self.likelihoods(pictures)[0].argmax(1)]

    def index(self, names: Iterable[str]) -> np.ndarray:
        """The column `(n,)` of each concept, by any name in any case; `EraseError` for another."""
        keys = [normal(str(name)) for name in names]
        check_keys(keys, f"concept of {self.name}", self.place)
        return np.array([self.place[key] for key in keys], dtype=int)


class Judge(Classifier):
    """The embedded classifier, never used in training: which concept, which style."""

    def __init__(self, model: Any, name: str) -> None:
        named = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.model, self.name = model, name
        self.concepts = [label for label in named if not label.startswith(STYLE)]
        self.styles = [label.removeprefix(STYLE) for label in named if label.startswith(STYLE)]
        if named != [*self.concepts, *(STYLE + style for style in self.styles)] or not self.styles:
            raise EraseError("the judge's labels must be concepts, then styles as 'style: NAME'")
        self.place = {normal(name): i for i, name in enumerate(self.concepts)}

    @classmethod
    def load(cls, folder: str | Path | None = None, device: str | torch.device = "cpu") -> Judge:
        """Read a stock folder of transformers. Raises `EraseError` when it is missing, damaged, or
        its labels are not concepts and styles, and for a device that cannot be used."""
        folder = sought(folder) if folder else JUDGE
        model = read_model(AutoModelForImageClassification, folder, "judge")
        weights = (folder / "model.safetensors").read_bytes()
        name = f"emoji-judge, ConvNeXtV2, {hashlib.sha256(weights).hexdigest()[:8]}"
        return cls(model.to(pick_device(device)), name)

    @torch.no_grad()
    def logits(self, pictures: Images | Tensor, batch: int = 128) -> Tensor:
        """`(n, concepts + styles)`, computed `batch` pictures at a time."""
        none, model = torch.zeros(0, self.model.config.num_labels), self.model
        parts = (picture_tensor(some).to(model.device) for some in in_batches(pictures, batch))
        return torch.cat([none, *(model(part).logits.float().cpu() for part in parts)])

    def likelihoods(self, pictures: Images | Tensor) -> tuple[np.ndarray, np.ndarray]:
        """`(n, concepts)` and `(n, styles)`, the rows of each summing to 1."""
        concepts, styles = self.logits(pictures).tensor_split([len(self.concepts)], 1)
        return concepts.softmax(1).numpy(), styles.softmax(1).numpy()


class ImageClassifier(Classifier):
    """A classifier of photographs, such as ResNet-50 on ImageNet, with its own preprocessing."""

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor, self.name = model, processor, name
        labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.concepts = [label.split(",")[0].strip() for label in labels]
        self.place = {}
        # ImageNet's are "tench, Tinca tinca"; a first word is before another label's synonym
        for words in (self.concepts, labels):
            for i, label in enumerate(words):
                for word in (label, *label.split(",")):
                    self.place.setdefault(normal(word), i)

    @classmethod
    def load(cls, model_id: str | Path, device: str | torch.device = "cpu") -> ImageClassifier:
        """By hub id or folder, such as microsoft/resnet-50; in float32. Raises `EraseError` when it
        cannot be loaded, is no classifier, or says no labels."""
        model_id = local(model_id)
        model = read_model(AutoModelForImageClassification, model_id, "classifier")
        with reading("preprocessor_config.json of classifier", model_id):
            processor = AutoImageProcessor.from_pretrained(model_id, backend="pil")
        if all(label.startswith("LABEL_") for label in model.config.id2label.values()):
            hint = "give its config.json an id2label"
            raise EraseError(f"classifier {str(model_id)!r} does not say its labels: {hint}")
        version = hashlib.sha256()
        for tensor in model.state_dict().values():
            version.update(tensor.float().numpy().tobytes())
        name = f"{Path(model_id).name}, {type(model).__name__}, {version.hexdigest()[:8]}"
        return cls(model.to(pick_device(device)), processor, name)

    @torch.no_grad()
    def likelihoods(self, pictures: Images, batch: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """As `Classifier`, of PIL pictures; of no styles `(n, 0)`."""
        outs = [torch.zeros(0, len(self.concepts))]
        for some in in_batches(pictures, batch):
            given = self.processor([p.convert("RGB") for p in some], return_tensors="pt")
            outs.append(self.model(**given.to(self.model.device)).logits.float().softmax(1).cpu())
        return torch.cat(outs).numpy(), np.zeros((len(pictures), 0))


def verdicts(
    classifier: Classifier,
    pictures: Images,
    prompts: pd.DataFrame,
    model: str = "original",
    ranked: np.ndarray | None = None,
) -> pd.DataFrame:
    """The prompts (at least prompt, concept), a row a picture in the same order, with what each is
    found to show: seen (the likeliest concept), rank and probability (of that asked for; rank 0 =
    top), style_seen and style_rank if the classifier tells styles, model, measured_by, seconds (of
    looking). `ranked` `(n,)`: whose concept is asked for (None: all); of others the rank is NaN.
    Raises `EraseError` for a lacking column, an unknown concept, another number of pictures."""
    if lacking := {"prompt", "concept"} - set(prompts.columns):
        raise EraseError(f"the table of prompts lacks the columns {sorted(lacking)}")
    begin, table = time.perf_counter(), prompts.reset_index(drop=True)
    known = np.full(len(table), True) if ranked is None else ranked
    if known.dtype != bool or known.shape != (len(table),):
        what = f"{known.dtype} {known.shape}"
        raise EraseError(f"ranked is {what}: expected True or False for {len(table)} prompts")
    check_columns(table[known], words=["concept"])
    columns = np.full(len(table), -1)
    columns[known] = classifier.index(table["concept"][known])
    likely, of_style = classifier.likelihoods(pictures)
    if len(likely) != len(table):
        raise EraseError(f"{len(likely)} pictures but {len(table)} prompts; expected one a picture")
    table["seen"] = [classifier.concepts[i] for i in likely.argmax(1)]
    table["rank"], table["probability"] = ranks(likely, columns)
    if classifier.styles:
        table["style_seen"] = [classifier.styles[i] for i in of_style.argmax(1)]
        place = {normal(style): i for i, style in enumerate(classifier.styles)}
        asked = [place.get(normal(str(s)), -1) for s in table.get("style", [None] * len(table))]
        table["style_rank"], _ = ranks(of_style, np.array(asked, dtype=int))
    seconds = (time.perf_counter() - begin) / max(len(table), 1)
    return table.assign(model=model, measured_by=classifier.name, seconds=seconds)


def by_style(table: pd.DataFrame) -> pd.DataFrame:
    """Verdicts with a column target, where those of a style have the rank among the styles (NaN if
    the classifier tells none), and the style that is seen, in place of the object's."""
    styled = table["target"].map(is_style)
    for column, of_style in (("rank", "style_rank"), ("seen", "style_seen")):
        if of_style in table or column == "rank":
            table[column] = table[column].mask(styled, table.get(of_style, np.nan))
    return table


def check_columns(table: pd.DataFrame, words: Sequence[str], numbers: Sequence[str] = ()) -> None:
    """Raise `EraseError` for the first value that is no text, or no number, where one is wanted."""
    for name in (*words, *numbers):
        kind, kinds = (str, "text") if name in words else (Real, "numbers")
        if wrong := [value for value in table[name] if not isinstance(value, kind)]:
            raise EraseError(f"column {name!r} of the table has {wrong[0]!r:.60}: expected {kinds}")


def ranks(likely: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank `(n,)`, 0 the largest, and value of one column a row of `(n, concepts)`; NaN for −1."""
    own = np.take_along_axis(likely, columns[:, None], 1)
    rank = (likely > own).sum(1)
    return np.where(columns < 0, np.nan, rank), np.where(columns < 0, np.nan, own[:, 0])


def local(source: str | Path) -> str | Path:
    """A model's folder as a path where there is one, `sought`; else the hub's id as it is."""
    return folder if (folder := sought(source)).is_dir() else source


def read_model(kind: Any, source: str | Path, what: str) -> Any:
    """A model of transformers' class `kind` in float32: of a folder, or (a string) of the hub.
    Raises `EraseError`, which calls it `what`, for one that is missing, damaged or not whole."""
    how = {"dtype": torch.float32, "local_files_only": isinstance(source, Path)}
    for path in (source, source / "config.json") if isinstance(source, Path) else ():
        if not path.exists():
            raise EraseError(f"{what}: {path} is missing; restore data/ or give a whole folder")
    with reading(what, source):
        model, loaded = kind.from_pretrained(source, output_loading_info=True, **how)
    if missing := sorted(loaded["missing_keys"]):  # another kind of model, what it lacks random
        raise EraseError(f"{what} {str(source)!r} lacks {len(missing)} tensors, as {missing[0]}")
    return model.eval()


@contextmanager
def reading(what: str, source: str | Path) -> Iterator[None]:
    """Whatever a library raises within the block is an `EraseError` of one line."""
    try:
        with quiet():
            yield
    except Exception as error:  # each library raises its own kind
        text = f"{what} {str(source)!r} cannot be loaded ({reason(error)})"
        raise EraseError(f"{text}: give a whole folder, or a hub id that is downloaded") from None
