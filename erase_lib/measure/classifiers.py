"""Who says what a picture shows: the embedded judge, or any image classifier of transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification

from erase_lib.errors import EraseError, reason, unknown
from erase_lib.measure.judges import Judge
from erase_lib.models import pick_device, quiet


class Classifier(Protocol):
    """What ESR and PSR need."""

    name: str
    """Model and version, for the column measured_by."""
    concepts: list[str]

    def concept_probabilities(self, pictures: Sequence[Image.Image] | Tensor) -> Tensor:
        """`(n, concepts)`, each row summing to 1."""
        ...

    def index(self, names: Iterable[str]) -> np.ndarray:
        """The column of each concept `(n,)`; `EraseError` with the nearest for an unknown one."""
        ...


class ImageClassifier:
    """A classifier of photographs, such as ResNet-50 on ImageNet, with its own preprocessing."""

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor, self.name = model, processor, name
        labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.concepts = [label.split(",")[0].strip() for label in labels]
        self.place: dict[str, int] = {}
        # ImageNet's are "tench, Tinca tinca"; a first word is before another label's synonym
        for words in (self.concepts, labels):
            for i, label in enumerate(words):
                for word in (label, *label.split(",")):
                    self.place.setdefault(word.strip().lower(), i)

    @classmethod
    def load(cls, model_id: str | Path, device: str = "cpu") -> ImageClassifier:
        """By hub id or folder, such as microsoft/resnet-50; in float32.

        Raises `EraseError` when it cannot be loaded, is no classifier, or says no labels.
        """
        kind: Any = AutoModelForImageClassification
        try:
            with quiet():
                model, found = kind.from_pretrained(
                    model_id, dtype=torch.float32, output_loading_info=True
                )
                processor = AutoImageProcessor.from_pretrained(model_id, backend="pil")
        except Exception as error:  # each library raises its own kind
            raise EraseError(
                f"classifier {str(model_id)!r} cannot be loaded ({reason(error)}): give a hub id"
                " that is downloaded, or a whole folder"
            ) from None
        if missing := sorted(found["missing_keys"]):  # another kind of model, its head random
            raise EraseError(
                f"{str(model_id)!r} is no whole image classifier: it lacks {len(missing)} tensors,"
                f" the first {missing[0]}"
            )
        if all(label.startswith("LABEL_") for label in model.config.id2label.values()):
            raise EraseError(
                f"classifier {str(model_id)!r} does not say its labels: give its config.json an"
                " id2label"
            )
        name = f"{Path(model_id).name}, {type(model).__name__}, {_version(model)}"
        return cls(model.eval().to(pick_device(device)), processor, name)

    @torch.no_grad()
    def concept_probabilities(
        self, pictures: Sequence[Image.Image] | Tensor, batch: int = 32
    ) -> Tensor:
        """`(n, concepts)`, each row summing to 1, of PIL pictures."""
        if isinstance(pictures, Tensor):
            raise EraseError("the classifier takes PIL pictures, for it scales them itself")
        outs = [torch.zeros(0, len(self.concepts))]
        for a in range(0, len(pictures), batch):
            some = [picture.convert("RGB") for picture in pictures[a : a + batch]]
            given = self.processor(some, return_tensors="pt").to(self.model.device)
            outs.append(self.model(**given).logits.float().softmax(1).cpu())
        return torch.cat(outs)

    def index(self, names: Iterable[str]) -> np.ndarray:
        """The column of each concept `(n,)`, by any of a label's synonyms, whatever their case."""
        names = list(names)
        for name in names:
            if str(name).lower() not in self.place:
                raise unknown(f"class of {self.name}", str(name).lower(), self.place)
        return np.array([self.place[name.lower()] for name in names], dtype=int)


def load_classifier(model_id: str | None = None, device: str = "cpu") -> Classifier:
    """The embedded judge, or another by hub id or folder. Raises `EraseError` as these."""
    return ImageClassifier.load(model_id, device) if model_id else Judge.load(device=device)


def _version(model: Any) -> str:
    """Short hash of the weights."""
    found = hashlib.sha256()
    for tensor in model.state_dict().values():
        found.update(tensor.detach().cpu().float().numpy().tobytes())
    return found.hexdigest()[:8]
