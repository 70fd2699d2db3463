"""CLIP score: how well a picture fits its prompt, by the embedded model's small CLIP or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, ResNetModel

from erase_lib.errors import EraseError
from erase_lib.files import DATA
from erase_lib.measure.judges import read_model, reading
from erase_lib.measure.pictures import picture_tensor
from erase_lib.models import pick_device

MODELS = DATA / "models"
# OpenAI's, of the pixels in [0, 1] that every CLIP in transformers' format was trained with
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


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
    # `(3, 1, 1)`, of pixels in [−1, 1]; None: they are taken as they are
    mean: Tensor | None = None
    std: Tensor | None = None

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        """`(n, dim)` of n prompts; what is longer than the encoder's tokens is cut."""
        limit = self.text.config.max_position_embeddings
        outs = [torch.zeros(0, len(self.text_projection))]
        for a in range(0, len(prompts), batch):
            ids = self.tokenizer(
                list(prompts[a : a + batch]),
                padding="max_length",
                max_length=limit,
                truncation=True,
                return_tensors="pt",
            ).input_ids.to(self.text_projection.device)
            outs.append((self.text(ids).pooler_output @ self.text_projection.T).cpu())
        return F.normalize(torch.cat(outs), dim=-1)

    @torch.no_grad()
    def image_features(self, pictures: Sequence[Image.Image] | Tensor, batch: int = 128) -> Tensor:
        """`(n, dim)` of PIL pictures or a float tensor `(n, 3, h, w)` in [−1, 1]."""
        outs = [torch.zeros(0, len(self.visual_projection))]
        for a in range(0, len(pictures), batch):
            pixels = picture_tensor(pictures[a : a + batch], self.size)
            if self.mean is not None and self.std is not None:
                pixels = (pixels - self.mean) / self.std
            pooled = self.vision(pixels.to(self.visual_projection.device)).pooler_output.flatten(1)
            outs.append((pooled @ self.visual_projection.T).cpu())
        return F.normalize(torch.cat(outs), dim=-1)

    def to(self, device: str | torch.device) -> SmallCLIP:
        """Computes on the device from now on; features come back to the CPU. Returns itself."""
        self.text, self.vision = self.text.to(device), self.vision.to(device)
        self.text_projection = self.text_projection.to(device)
        self.visual_projection = self.visual_projection.to(device)
        return self


def load_clip(model_id: str | Path | None = None, device: str = "cpu") -> SmallCLIP:
    """The embedded CLIP, or a `CLIPModel` of transformers by hub id or folder; in float32.

    Raises `EraseError` when it is missing, damaged, no whole CLIP with its tokenizer, or cannot be
    loaded, such as a hub id without a network.
    """
    return (_transformers(model_id) if model_id else _embedded()).to(pick_device(device))


def _embedded() -> SmallCLIP:
    """Image tower and projections; the text encoder is that of the embedded pipeline."""
    folder, pipe = MODELS / "emoji-clip", MODELS / "emoji-diffusion"
    text = read_model(CLIPTextModel, pipe / "text_encoder", "CLIP")
    vision = read_model(ResNetModel, folder / "vision", "CLIP")
    with reading("CLIP", folder):
        tokenizer = CLIPTokenizer.from_pretrained(pipe / "tokenizer", local_files_only=True)
        projections = load_file(folder / "projections.safetensors")
        matrices = [projections[f"{side}_projection"].float() for side in ("text", "visual")]
    return SmallCLIP(text, tokenizer, vision, matrices[0], matrices[1])


def _transformers(model_id: str | Path) -> SmallCLIP:
    model = read_model(CLIPModel, model_id, "CLIP")
    with reading("CLIP", model_id):
        tokenizer = CLIPTokenizer.from_pretrained(model_id)
    # without its files a tokenizer has two tokens
    if not model.config.text_config.vocab_size / 2 < len(tokenizer):
        raise EraseError(f"CLIP {str(model_id)!r} is not whole: it lacks its tokenizer")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return SmallCLIP(
        model.text_model,
        tokenizer,
        model.vision_model,
        model.text_projection.weight.detach(),
        model.visual_projection.weight.detach(),
        Path(model_id).name,
        model.config.vision_config.image_size,
        2 * mean - 1,
        2 * std,
    )


def clip_score(images: Tensor, texts: Tensor) -> np.ndarray:
    """100 · max(cosine, 0) of each picture's features and its prompt's, both `(n, dim)`, as `(n,)`
    (Hessel et al. 2021, w = 100). Raises `EraseError` for another number of prompts."""
    if len(images) != len(texts):
        raise EraseError(f"{len(images)} pictures but {len(texts)} prompts; expected one a picture")
    return 100 * (images * texts).sum(1).clamp(min=0).numpy()


def feature_distance(before: Tensor, after: Tensor) -> np.ndarray:
    """1 − cos `(n,)` of unit features `(n, dim)`, 0 to 2; and 0 exactly of the same picture."""
    return ((before - after).pow(2).sum(1) / 2).numpy()
