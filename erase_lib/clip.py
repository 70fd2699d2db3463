"""CLIP score by the small CLIP of the embedded model: how well a picture fits its prompt."""

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
from transformers import CLIPTextModel, CLIPTokenizer, ResNetModel

from erase_lib.errors import EraseError, reason
from erase_lib.judge import picture_tensor, read_model
from erase_lib.paths import DATA

MODELS = DATA / "models"


@dataclass
class SmallCLIP:
    """Both towers and their projections; features are `(n, 192)`, unit length."""

    text: Any  # CLIPTextModel
    tokenizer: Any  # CLIPTokenizer
    vision: Any  # ResNetModel
    text_projection: Tensor  # (192, 192), y = W x
    visual_projection: Tensor

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        """`(n, 192)` of n prompts; what is longer than the encoder's 16 tokens is cut."""
        limit = self.text.config.max_position_embeddings
        outs = [torch.zeros(0, len(self.text_projection))]
        for a in range(0, len(prompts), batch):
            ids = self.tokenizer(
                list(prompts[a : a + batch]),
                padding="max_length",
                max_length=limit,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            outs.append(self.text(ids).pooler_output @ self.text_projection.T)
        return F.normalize(torch.cat(outs), dim=-1)

    @torch.no_grad()
    def image_features(self, pictures: Sequence[Image.Image] | Tensor, batch: int = 128) -> Tensor:
        """`(n, 192)` of PIL pictures or a float tensor `(n, 3, h, w)` in [−1, 1]."""
        chunks = picture_tensor(pictures).split(batch)
        pooled = torch.cat([self.vision(chunk).pooler_output.flatten(1) for chunk in chunks])
        return F.normalize(pooled @ self.visual_projection.T, dim=-1)


def load_clip(folder: str | Path | None = None, text_folder: str | Path | None = None) -> SmallCLIP:
    """Image tower and projections from `folder`, text encoder from the pipeline in `text_folder`.

    All float32. Raises EraseError when a folder is missing or damaged.
    """
    folder = Path(folder or MODELS / "emoji-clip")
    text_folder = Path(text_folder or MODELS / "emoji-diffusion")
    text = read_model(CLIPTextModel, text_folder / "text_encoder")
    vision = read_model(ResNetModel, folder / "vision")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(text_folder / "tokenizer", local_files_only=True)
        projections = load_file(folder / "projections.safetensors")
        matrices = [projections[f"{side}_projection"].float() for side in ("text", "visual")]
    except Exception as error:  # each library raises its own kind for a broken file
        raise EraseError(f"{folder} or the tokenizer is damaged: {reason(error)}") from error
    return SmallCLIP(text, tokenizer, vision, *matrices)


def clip_score(
    clip: SmallCLIP, pictures: Sequence[Image.Image] | Tensor, prompts: Sequence[str]
) -> np.ndarray:
    """100 · max(cosine, 0) of each picture and its prompt, `(n,)` (Hessel et al. 2021, w = 100)."""
    images, texts = clip.image_features(pictures), clip.text_features(prompts)
    if len(images) != len(texts):
        raise EraseError(f"{len(images)} pictures but {len(texts)} prompts; expected one a picture")
    return 100 * (images * texts).sum(1).clamp(min=0).numpy()
