"""The second witness beside a judge: what was erased has to be gone to the eye as well, and what
stands in its place has to be a picture. A judge may take the pale ghost of a church for garlic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from erase_lib.families import Pipeline
from erase_lib.measure.distances import SmallCLIP, feature_distance
from erase_lib.measure.pictures import Images, draw, in_batches, picture_tensor
from erase_lib.measure.prompts import prompt_table, styles_of

BOTH = " judge+eye"  # ends the name of a rate that both witnesses must grant
SHARE, CRISP = 5, 0.9  # the percentile of two pictures' distance; of the original's sharpness
CONCEPTS, SEEDS, STEPS = 8, (4000, 4001), 12  # whose pictures the distances are of


@dataclass(frozen=True)
class Eye:
    """Gone is what looks as unlike the original as another concept's picture would, at the least,
    and is as crisp. `apart`: that distance of CLIP features, the 5th percentile of two concepts'
    pictures in one style, from the same noise; `style_apart`: of two styles' of one concept."""

    clip: SmallCLIP
    apart: float
    style_apart: float = float("nan")

    @classmethod
    def of(cls, pipe: Pipeline, words: Sequence[str], clip: SmallCLIP) -> Eye:
        """By pictures that the pipeline draws of a few of the words, once: they are cached."""
        concepts, styles = words[:: max(1, len(words) // CONCEPTS)][:CONCEPTS], styles_of(pipe)
        asked = [(c, s) for _ in SEEDS for s in dict.fromkeys(styles) for c in concepts]
        seeds = np.repeat(SEEDS, len(asked) // len(SEEDS)).tolist()
        prompts = list(prompt_table(asked)["prompt"])
        features = clip.image_features(draw(pipe, prompts, seeds, STEPS, progress=False))
        # (seed, style, concept, dim); every two of the last axis but one, and of the one before
        table = features.view(len(SEEDS), -1, len(concepts), features.shape[1])
        return cls(clip, *map(_least, (table, table.transpose(1, 2))))

    @property
    def name(self) -> str:
        apart = f"feature distance ≥ {self.apart:.3f} ({self.style_apart:.3f} of a style)"
        return f"{self.clip.name} {apart}, sharpness ≥ {CRISP} of the original's"

    def gone(
        self,
        before: Images,
        after: Images,
        styled: bool | np.ndarray = False,
        features: tuple[Tensor, Tensor] | None = None,
    ) -> np.ndarray:
        """Of pairs from the same noise 1 or 0 `(n,)`. `styled`: where a style was erased; the CLIP
        `features` of both, where they are known. Raises `EraseError` for unequal lists."""
        old, new = features or (self.clip.image_features(some) for some in (before, after))
        apart = feature_distance(old, new) >= np.where(styled, self.style_apart, self.apart)
        crisp = (_crisp(after) >= CRISP * _crisp(before)).numpy()
        return (apart & crisp).astype(float)


def sharpness(pictures: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels `(n,)`, of `(n, 3, h, w)` in [−1, 1]."""
    across, down = (pictures.diff(dim=d).abs().mean((1, 2, 3)) for d in (-1, -2))
    return (across + down) / 2


def _crisp(pictures: Images) -> Tensor:
    """`sharpness` `(n,)`, each at the size that it has."""
    of = (picture_tensor(some, some[0].width) for some in in_batches(pictures, 128))
    return torch.cat([torch.zeros(0), *map(sharpness, of)])


def _least(features: Tensor) -> float:
    """The percentile of 1 − cos of every two of `(…, n, dim)`; NaN for fewer than two."""
    n = features.shape[-2]
    i, j = torch.triu_indices(n, n, 1)
    pairs = 1 - (features @ features.transpose(-1, -2))[..., i, j].flatten().numpy()
    return float(np.percentile(pairs, SHARE)) if len(pairs) else float("nan")
