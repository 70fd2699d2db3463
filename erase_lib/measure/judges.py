"""The judge: which concept and which style a picture shows. Never part of training or search."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import ConvNextV2ForImageClassification

from erase_lib.errors import EraseError, reason, unknown
from erase_lib.files import DATA
from erase_lib.models import pick_device, quiet

JUDGE = DATA / "models" / "emoji-judge"
STYLE = "style: "  # begins the labels that name a style


def picture_tensor(pictures: Sequence[Image.Image] | Tensor, size: int = 64) -> Tensor:
    """PIL pictures or a float tensor `(n, 3, h, w)` in [−1, 1], as float32 `(n, 3, size, size)`."""
    if isinstance(pictures, Tensor):
        out = pictures.detach().float()
        if out.ndim != 4 or out.shape[1] != 3:
            raise EraseError(
                f"pictures have shape {tuple(out.shape)}; expected (n, 3, height, width)"
            )
        if out.shape[-2:] != (size, size):
            out = F.interpolate(out, (size, size), mode="bicubic", antialias=True)
        return out.clamp(-1, 1)
    arrays = [np.zeros((0, size, size, 3), np.uint8)]
    for picture in pictures:
        white = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
        if flat.size != (size, size):
            flat = flat.resize((size, size), Image.Resampling.BICUBIC)
        arrays.append(np.asarray(flat)[None])
    return torch.from_numpy(np.concatenate(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def read_model(kind: Any, folder: Path) -> Any:
    """A stock transformers folder as a float32 model of class `kind`; EraseError if not whole."""
    for path in (folder, folder / "config.json", folder / "model.safetensors"):
        if not path.exists():
            raise EraseError(f"{path} is missing; restore data/ or build the model again")
    try:
        with quiet():
            model, loaded = kind.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # each library raises its own kind for a broken file
        raise EraseError(f"{folder} is damaged ({reason(error)}); restore the folder") from error
    if missing := sorted(loaded["missing_keys"]):
        raise EraseError(
            f"{folder} lacks {len(missing)} tensors, the first {missing[0]}; restore the folder"
        )
    return model.eval()


class Judge:
    """A classifier of pictures, never used in training: which concept, which style."""

    def __init__(self, model: Any, name: str) -> None:
        named = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.model, self.name = model, name
        self.concepts = [label for label in named if not label.startswith(STYLE)]
        self.styles = [label.removeprefix(STYLE) for label in named if label.startswith(STYLE)]
        if named != [*self.concepts, *(STYLE + style for style in self.styles)] or not self.styles:
            raise EraseError(
                "the judge's labels must be the concepts, then the styles as 'style: NAME'"
            )

    @classmethod
    def load(cls, folder: str | Path | None = None, device: str = "cpu") -> Judge:
        """Read a stock `ConvNextV2ForImageClassification` folder.

        Raises EraseError when it is missing, damaged, or its labels are not concepts and styles,
        and for a device that cannot be used.
        """
        folder = Path(folder or JUDGE)
        model = read_model(ConvNextV2ForImageClassification, folder)
        weights = (folder / "model.safetensors").read_bytes()
        name = f"emoji-judge, ConvNeXtV2, {hashlib.sha256(weights).hexdigest()[:8]}"
        return cls(model.to(pick_device(device)), name)

    @torch.no_grad()
    def logits(self, pictures: Sequence[Image.Image] | Tensor, batch: int = 128) -> Tensor:
        """`(n, concepts + styles)`, computed `batch` pictures at a time."""
        outs = [torch.zeros(0, self.model.config.num_labels)]
        for a in range(0, len(pictures), batch):
            chunk = picture_tensor(pictures[a : a + batch]).to(self.model.device)
            outs.append(self.model(chunk).logits.float().cpu())
        return torch.cat(outs)

    def concept_probabilities(self, pictures: Sequence[Image.Image] | Tensor) -> Tensor:
        """`(n, concepts)`, each row summing to 1."""
        return self.logits(pictures)[:, : len(self.concepts)].softmax(1)

    def sees(self, pictures: Sequence[Image.Image] | Tensor) -> list[str]:
        """The concept that the judge takes each picture for."""
        return [self.concepts[i] for i in self.concept_probabilities(pictures).argmax(1).tolist()]

    def style_probabilities(self, pictures: Sequence[Image.Image] | Tensor) -> Tensor:
        """`(n, styles)`, each row summing to 1."""
        return self.logits(pictures)[:, len(self.concepts) :].softmax(1)

    def index(self, names: Iterable[str]) -> np.ndarray:
        """The column of each concept `(n,)`; EraseError names the nearest known one for another."""
        place = {name: i for i, name in enumerate(self.concepts)}
        names = list(names)
        for name in names:
            if name not in place:
                raise unknown("concept of the judge", name, self.concepts)
        return np.array([place[name] for name in names], dtype=int)

    def rank_of(self, pictures: Sequence[Image.Image] | Tensor, names: Iterable[str]) -> np.ndarray:
        """How many concepts are likelier than the named one, one name a picture `(n,)`: 0 = top."""
        return ranks(self.concept_probabilities(pictures).numpy(), self.index(names))


def ranks(probabilities: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Rank `(n,)` of one column a row of `(n, concepts)`; 0 is the largest."""
    if len(probabilities) != len(columns):
        raise EraseError(
            f"{len(probabilities)} pictures but {len(columns)} names; expected one a picture"
        )
    return (probabilities > np.take_along_axis(probabilities, columns[:, None], 1)).sum(1)
