"""CLIP scores, and how far pictures are from others: in pairs (LPIPS, CLIP), as sets (FID, KID)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity as _lpips
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, ResNetModel

from erase_lib.errors import EraseError, reason
from erase_lib.files import DATA, check_keys
from erase_lib.measure.judges import local, read_model, reading
from erase_lib.measure.pictures import Images, in_batches, picture_tensor
from erase_lib.measure.statistics import jackknife
from erase_lib.models import pick_device

MODELS = DATA / "models"
# OpenAI's, of the pixels in [0, 1] that every CLIP in transformers' format was trained with
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# the very files that torchvision reads; in place of any other it would download them
BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
BACKBONES["squeeze"] = "squeezenet1_1-b8a52dc0.pth"
ENOUGH = 2000  # pictures, below which FID's bias is larger than most differences


@dataclass
class SmallCLIP:
    """Both towers and their projections; features are `(n, dim)`, unit length (dim 192)."""

    text: Any  # CLIPTextModel
    tokenizer: Any  # CLIPTokenizer
    vision: Any  # ResNetModel, or the vision tower of a CLIPModel
    text_projection: Tensor  # (dim, width), y = W x
    visual_projection: Tensor
    name: str = "emoji-clip"
    size: int = 64  # of the pictures, which are scaled to it
    mean: Tensor | float = 0.0  # `(3, 1, 1)`, of pixels in [−1, 1]
    std: Tensor | float = 1.0

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        """`(n, dim)` of n prompts; what is longer than the encoder's tokens is cut."""
        how = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        limit, matrix = self.text.config.max_position_embeddings, self.text_projection
        outs = [torch.zeros(0, len(matrix))]
        for some in in_batches(list(prompts), batch):
            ids = self.tokenizer(some, max_length=limit, **how).input_ids.to(matrix.device)
            outs.append((self.text(ids).pooler_output @ matrix.T).cpu())
        return F.normalize(torch.cat(outs), dim=-1)

    @torch.no_grad()
    def image_features(self, pictures: Images | Tensor, batch: int = 128) -> Tensor:
        """`(n, dim)` of PIL pictures or a float tensor `(n, 3, h, w)` in [−1, 1]."""
        none, parts = torch.zeros(0, len(self.visual_projection)), in_batches(pictures, batch)
        return torch.cat([none, *(self.unit(picture_tensor(x, self.size)).cpu() for x in parts)])

    def unit(self, pixels: Tensor) -> Tensor:
        """The features of `(n, 3, size, size)` in [−1, 1] on its device, with a gradient."""
        matrix = self.visual_projection
        x, (mean, std) = pixels.to(matrix.device), map(torch.as_tensor, (self.mean, self.std))
        given = (x - mean.to(x)) / std.to(x)
        return F.normalize(self.vision(given).pooler_output.flatten(1) @ matrix.T, dim=-1)

    def to(self, device: str | torch.device) -> SmallCLIP:
        """Computes on the device from now on; features come back to the CPU. Returns itself."""
        for name in ("text", "vision", "text_projection", "visual_projection"):
            setattr(self, name, getattr(self, name).to(device))
        return self


def load_clip(model_id: str | Path | None = None, device: str | torch.device = "cpu") -> SmallCLIP:
    """The embedded CLIP, or a `CLIPModel` of transformers by hub id or folder; in float32. Raises
    `EraseError` when it cannot be loaded, or is no whole CLIP with its tokenizer."""
    return (_transformers(model_id) if model_id else _embedded()).to(pick_device(device))


def _embedded() -> SmallCLIP:
    """Image tower and projections; the text encoder is that of the embedded pipeline."""
    folder, pipe = MODELS / "emoji-clip", MODELS / "emoji-diffusion"
    text = read_model(CLIPTextModel, pipe / "text_encoder", "CLIP")
    vision = read_model(ResNetModel, folder / "vision", "CLIP")
    with reading("CLIP", folder):
        tokenizer = CLIPTokenizer.from_pretrained(pipe / "tokenizer", local_files_only=True)
        found = load_file(folder / "projections.safetensors")
        of_text, of_picture = (found[f"{side}_projection"].float() for side in ("text", "visual"))
    return SmallCLIP(text, tokenizer, vision, of_text, of_picture)


def _transformers(model_id: str | Path) -> SmallCLIP:
    model_id = local(model_id)
    model = read_model(CLIPModel, model_id, "CLIP")
    with reading("CLIP", model_id):
        tokenizer = CLIPTokenizer.from_pretrained(model_id)
    # without its files a tokenizer has two tokens
    if not model.config.text_config.vocab_size / 2 < len(tokenizer):
        raise EraseError(f"CLIP {str(model_id)!r} is not whole: it lacks its tokenizer")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    sides = model.text_projection.weight.detach(), model.visual_projection.weight.detach()
    towers = model.text_model, tokenizer, model.vision_model
    name, size = Path(model_id).name, model.config.vision_config.image_size
    return SmallCLIP(*towers, *sides, name, size, 2 * mean - 1, 2 * std)


def clip_score(images: Tensor, texts: Tensor) -> np.ndarray:
    """100 · max(cosine, 0) of each picture's features and its prompt's, both `(n, dim)`, as `(n,)`
    (Hessel et al. 2021, w = 100). Raises `EraseError` for another number of prompts."""
    if len(images) != len(texts):
        raise EraseError(f"{len(images)} pictures but {len(texts)} prompts; expected one a picture")
    return 100 * (images * texts).sum(1).clamp(min=0).numpy()


def feature_distance(before: Tensor, after: Tensor) -> np.ndarray:
    """1 − cos `(n,)` of unit features `(n, dim)`, 0 to 2; and 0 exactly of the same picture."""
    if len(before) != len(after):
        raise EraseError(f"{len(before)} features before, {len(after)} after: expected pairs")
    return ((before - after).pow(2).sum(1) / 2).numpy()


@torch.no_grad()
def perceptual(
    before: Images, after: Images, clip: SmallCLIP, net: str = "auto"
) -> tuple[np.ndarray, str]:
    """The distance of each pair of pictures `(n,)`, and its name. `net`: alex, vgg or squeeze for
    LPIPS (Zhang et al. 2018, through torchmetrics), whose backbone torchvision must have at hand;
    clip for 1 − cos of CLIP image features, 0 to 2; auto for LPIPS by alex, or else CLIP. Nothing
    is downloaded. Raises `EraseError` for a net unknown or without backbone, and unequal lists."""
    check_keys([net], "net", [*BACKBONES, "auto", "clip"])
    if len(before) != len(after):
        raise EraseError(f"{len(before)} pictures before, {len(after)} after: expected pairs")
    auto, net = net == "auto", "alex" if net == "auto" else net
    weights = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES.get(net, "")
    at_hand = find_spec("torchvision") is not None and weights.is_file()
    if net == "clip" or (auto and not at_hand):
        old, new = clip.image_features(before), clip.image_features(after)
        return feature_distance(old, new), f"CLIP feature distance ({clip.name})"
    if not at_hand:
        raise EraseError(f"net {net!r} needs torchvision and {weights}: fetch it, or choose clip")
    outs: list[np.ndarray] = [np.zeros(0)]
    for pair in zip(in_batches(before, 64), in_batches(after, 64), strict=True):
        old, new = (picture_tensor(some, before[0].width) for some in pair)
        try:
            found = _lpips(old, new, net_type=net, reduction="none")  # type: ignore[arg-type]
        except Exception as error:  # torchvision and torch each raise their own kinds
            raise EraseError(f"LPIPS by {net} cannot be used ({reason(error)})") from None
        outs.append(found.reshape(-1).numpy())  # of a single pair it is a number
    return np.concatenate(outs), f"LPIPS ({net}, torchmetrics {version('torchmetrics')})"


class _Features(nn.Identity):
    """Lets torchmetrics take features for pictures, so that each is encoded once."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_features = size


def fid(real: Tensor, drawn: Tensor) -> float:
    """Fréchet distance (Heusel et al. 2017) of two sets of features `(n, dim)`, by torchmetrics:
    ‖μ − μ'‖² + tr(Σ + Σ' − 2 √(ΣΣ')). Raises `EraseError` for fewer than two in a set."""
    _check(real, drawn)
    metric = FrechetInceptionDistance(_Features(real.shape[1]))
    metric.update(real.double(), real=True)
    metric.update(drawn.double(), real=False)
    return float(metric.compute())


def kid(real: Tensor, drawn: Tensor) -> float:
    """Kernel distance (Bińkowski et al. 2018), the unbiased MMD² with (x·y / dim + 1)³, of features
    `(n, dim)`, through torchmetrics. As that wants sets of one size, of the larger one as many as
    there are in the smaller, spread over it. Raises `EraseError` for fewer than two in a set."""
    _check(real, drawn)
    n = min(len(real), len(drawn))
    with warnings.catch_warnings():  # it says that it keeps the features
        warnings.simplefilter("ignore")
        metric = KernelInceptionDistance(_Features(real.shape[1]), subsets=1, subset_size=n)
    for some, is_real in ((real, True), (drawn, False)):
        spread = torch.linspace(0, len(some) - 1, n).round().long()
        metric.update(some[spread].double(), real=is_real)
    return float(metric.compute()[0])


def _check(real: Tensor, drawn: Tensor) -> None:
    for name, some in (("real", real), ("drawn", drawn)):
        if some.ndim != 2 or len(some) < 2:
            raise EraseError(f"{name} has shape {tuple(some.shape)}: expected two or more features")
        if not some.isfinite().all():
            raise EraseError(f"{name} holds NaN or infinite features: a picture is damaged")


def set_distances(
    real: Tensor, drawn: Tensor, groups: Sequence[object], extractor: str
) -> pd.DataFrame:
    """FID and KID of features, a row each: metric, value, low, high, n, note, measured_by. The
    interval leaves out groups (prompts) of the drawn ones, see `jackknife`; the real ones stay.
    Under `ENOUGH` pictures a warning, and the note, say why not to quote it."""
    _check(real, drawn)
    n, dim, notes = min(len(real), len(drawn)), real.shape[1], ["", ""]
    if n < ENOUGH:
        few = f"{n} pictures, fewer than {ENOUGH:,}"
        biased = f"{few}: FID is biased upwards by about 1/n, so compare it at equal n only"
        biased += f"; and {n} span no covariance of {dim} features" if n <= dim else ""
        notes = [biased, f"{few}: KID is unbiased, but noisy"]
        warnings.warn(biased, stacklevel=2)
    rows = [
        (name, *jackknife(lambda i, of=of: of(real, drawn[i]), len(drawn), groups))  # type: ignore[misc]
        for name, of in (("FID", fid), ("KID", kid))
    ]
    by = f"{extractor} features, torchmetrics {version('torchmetrics')}"
    table = pd.DataFrame(rows, columns=["metric", "value", "low", "high"])
    return table.assign(n=len(drawn), note=notes, measured_by=by)
