"""What a suite is counted with: a classifier, a CLIP, a detector, a reference for FID."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from erase_lib.concepts import EMOJI
from erase_lib.errors import EraseError, reason
from erase_lib.measure.classifiers import Classifier, load_classifier
from erase_lib.measure.clip import SmallCLIP, load_clip, load_transformers_clip
from erase_lib.measure.detectors import Detector, NudeNet, ThemeDetector
from erase_lib.measure.judges import Judge
from erase_lib.measure.suite import Suite
from erase_lib.models import pick_device

# what the profile "paper" measures, and with what; by hub id
PAPER: dict[str, str | None] = {
    "model": "CompVis/stable-diffusion-v1-4",
    "classifier": "microsoft/resnet-50",
    "clip": "openai/clip-vit-large-patch14",
    "detector": "nudenet",
}


@dataclass
class Instruments:
    """Everything that looks at the pictures. None of it was used in training or search."""

    classifier: Classifier
    clip: SmallCLIP
    detector: Detector | None = None
    net: str = "auto"
    """Of the distance between two pictures, see `quality.perceptual`."""
    reference: Sequence[Image.Image] | None = None
    """Real pictures for FID and KID; None: those of the data set that the prompts name, or where
    there are none the unedited model's."""

    def check(self, suite: Suite, prompts: pd.DataFrame) -> None:
        """Raise `EraseError`, before anything is drawn, for what they cannot count."""
        for name, group in suite.groups.items():
            part = prompts[prompts["group"] == name]
            if "NER" in group.metrics and self.detector is None:
                raise EraseError(
                    f"suite {suite.name!r}, group {name!r} counts NER, but there is no detector:"
                    " give a theme's name, or nudenet"
                )
            if any(m.endswith(" style") for m in group.metrics) and not isinstance(
                self.classifier, Judge
            ):
                raise EraseError(
                    f"suite {suite.name!r}, group {name!r} counts styles, which"
                    f" {self.classifier.name} does not know: leave the metric out"
                )
            if any(m.startswith(("ESR", "PSR")) and "style" not in m for m in group.metrics):
                self.classifier.index(part["concept"].unique())


def load_instruments(
    suite: Suite,
    targets: Sequence[str],
    classifier: str | None = None,
    clip: str | None = None,
    detector: str | None = None,
    net: str = "auto",
    reference: str | Path | None = None,
    device: str = "cpu",
) -> Instruments:
    """The embedded judge and CLIP, or others by hub id or folder.

    `detector`: "nudenet", a theme's name, or None: the theme that the suite calls a split with
    these targets, where it counts NER. `reference`: a folder of real pictures for FID. Raises
    `EraseError` for what cannot be loaded.
    """
    known = load_classifier(classifier, device)
    counts = any("NER" in group.metrics for group in suite.groups.values())
    found: Detector | None = None
    if not counts:
        pass
    elif detector == "nudenet":
        found = NudeNet()
    else:
        if not isinstance(known, Judge):
            raise EraseError(
                f"detector is {detector!r}: a theme needs the embedded judge; for photographs give"
                " nudenet"
            )
        found = ThemeDetector(known, detector or suite.split(targets))
    seen = (load_transformers_clip(clip) if clip else load_clip()).to(pick_device(device))
    return Instruments(known, seen, found, net, read_folder(reference) if reference else None)


def read_folder(folder: str | Path) -> list[Image.Image]:
    """Every PNG and JPEG of a folder, by name. Raises `EraseError` for none, and a damaged one."""
    paths = sorted(
        p for p in Path(folder).glob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg")
    )
    if not paths:
        raise EraseError(f"reference {folder} holds no PNG or JPEG: give a folder of pictures")
    found = []
    for path in paths:
        try:
            found.append(Image.open(path).convert("RGB"))
        except OSError as error:
            raise EraseError(f"picture {path} is damaged ({reason(error)}): remove it") from None
    return found


def real_pictures(prompts: pd.DataFrame) -> list[Image.Image] | None:
    """The data set's picture of each prompt's concept and style; None where one is not of it."""
    table = pd.read_parquet(EMOJI / "pictures.parquet").set_index(["concept", "style"])["png"]
    wanted = list(zip(prompts["concept"], prompts["style"], strict=True))
    if not set(wanted) <= set(table.index):
        return None
    return [Image.open(io.BytesIO(table[pair])).convert("RGB") for pair in wanted]
