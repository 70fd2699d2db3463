"""How far pictures are from others: pair by pair (LPIPS, CLIP features), and as sets (FID, KID)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import (
    learned_perceptual_image_patch_similarity as _lpips,
)
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from erase_lib.errors import EraseError, reason, unknown
from erase_lib.measure.clip import SmallCLIP, feature_distance
from erase_lib.measure.pictures import picture_tensor
from erase_lib.measure.statistics import jackknife

# the very files that torchvision reads; in place of any other it would download them
BACKBONES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
ENOUGH = 2000  # pictures, below which FID's bias is larger than most differences


def perceptual(
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    clip: SmallCLIP,
    net: str = "auto",
) -> tuple[np.ndarray, str]:
    """The distance of each pair of pictures `(n,)`, and its name.

    `net`: alex, vgg or squeeze for LPIPS (Zhang et al. 2018, through torchmetrics), whose backbone
    torchvision must have at hand; clip for 1 − cos of CLIP image features, 0 to 2; auto for LPIPS
    by alex, or else CLIP. Nothing is downloaded. Raises `EraseError` for an unknown net, one
    without its backbone, and lists of unequal length.
    """
    if net not in (*BACKBONES, "auto", "clip"):
        raise unknown("net", net, [*BACKBONES, "auto", "clip"])
    if len(before) != len(after):
        raise EraseError(f"{len(before)} pictures before, {len(after)} after: expected pairs")
    if net in BACKBONES or (net == "auto" and backbone("alex")):
        return lpips(before, after, "alex" if net == "auto" else net)
    old, new = clip.image_features(before), clip.image_features(after)
    return feature_distance(old, new), f"CLIP feature distance ({clip.name})"


def backbone(net: str) -> bool:
    """Whether torchvision and the weights of LPIPS's backbone are at hand."""
    if find_spec("torchvision") is None:
        return False
    return (Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net]).is_file()


@torch.no_grad()
def lpips(
    before: Sequence[Image.Image], after: Sequence[Image.Image], net: str, batch: int = 64
) -> tuple[np.ndarray, str]:
    """LPIPS of each pair and its name. Raises `EraseError` where the backbone is not at hand."""
    if not backbone(net):
        raise EraseError(
            f"net {net!r} needs torchvision and its weights {BACKBONES[net]} in"
            f" {torch.hub.get_dir()}/checkpoints: install and fetch them, or choose clip"
        )
    outs, kind = [np.zeros(0)], cast(Literal["alex", "vgg", "squeeze"], net)
    for a in range(0, len(before), batch):
        pair = [picture_tensor(some[a : a + batch], some[0].width) for some in (before, after)]
        try:
            found = _lpips(pair[0], pair[1], net_type=kind, reduction="none")
        except Exception as error:  # torchvision and torch each raise their own kinds
            raise EraseError(f"LPIPS by {net} cannot be used ({reason(error)})") from None
        outs.append(found.reshape(-1).numpy())  # of a single pair it is a number
    return np.concatenate(outs), f"LPIPS ({net}, torchmetrics {version('torchmetrics')})"


class _Features(nn.Module):
    """Lets torchmetrics take features for pictures, so that each is encoded once."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_features = size

    def forward(self, features: Tensor) -> Tensor:
        return features


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
        metric.update(
            some[torch.linspace(0, len(some) - 1, n).round().long()].double(), real=is_real
        )
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
    """FID and KID of features, a row each: metric, value, low, high, n, note, measured_by.

    The interval leaves out groups (prompts) of the drawn ones, see `jackknife`; the real
    ones stay. Under `ENOUGH` pictures a warning, and the note, say why not to quote it.
    """
    _check(real, drawn)
    n, dim = min(len(real), len(drawn)), real.shape[1]
    notes = {"FID": "", "KID": ""}
    if n < ENOUGH:
        notes["FID"] = f"{n} pictures, fewer than {ENOUGH:,}: FID is biased upwards by about 1/n"
        notes["FID"] += ", so compare it at equal n only"
        notes["KID"] = f"{n} pictures, fewer than {ENOUGH:,}: KID is unbiased, but noisy"
        if n <= dim:
            notes["FID"] += f"; and {n} span no covariance of {dim} features"
        warnings.warn(notes["FID"], stacklevel=2)
    rows = [
        (name, *jackknife(lambda i, of=of: of(real, drawn[i]), len(drawn), groups))  # type: ignore[misc]
        for name, of in (("FID", fid), ("KID", kid))
    ]
    by = f"{extractor} features, torchmetrics {version('torchmetrics')}"
    table = pd.DataFrame(rows, columns=["metric", "value", "low", "high"])
    return table.assign(n=len(drawn), note=list(notes.values()), measured_by=by)
