"""The truth that a search is measured by: how far the student moved every candidate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from erase_lib.diffusion import alpha_bar, predict_clean
from erase_lib.models import Pipeline, in_place


class Probe:
    """Mean movement of ẑ₀ over `timesteps` × `noises`, the same for every concept and strategy.

    `clean (n, c, h, w)`: a latent that the teacher drew of each concept; `embeddings`
    `(n, tokens, dim)`. z_t = √ᾱ z₀ + √(1−ᾱ) ε at timesteps spread over the whole range, ε drawn
    from `seed`. A call costs n · timesteps · noises evaluations; as many of the teacher's, when it
    is made, are not counted: it is a yardstick. What Bui et al. 2024 (eq. 5) maximise over, without
    their single random t and ε.
    """

    def __init__(
        self,
        pipe: Pipeline,
        clean: Tensor,
        embeddings: Tensor,
        timesteps: int = 8,
        noises: int = 4,
        seed: int = 0,
    ) -> None:
        self.pipe, self.n = pipe, len(clean)
        most = pipe.scheduler.config.num_train_timesteps
        # the middle of each of `timesteps` equal parts
        t = ((torch.arange(timesteps) + 0.5) * most / timesteps).long().repeat_interleave(noises)
        g = torch.Generator().manual_seed(seed)
        epsilon = torch.randn(len(t), *clean.shape[1:], generator=g).to(clean)
        self.t = t.to(clean.device).repeat(self.n)
        self.embeddings, self.each = embeddings, len(t)
        a = alpha_bar(pipe, self.t)
        z = clean.repeat_interleave(self.each, 0)
        self.z = a.sqrt() * z + (1 - a).sqrt() * epsilon.repeat(self.n, 1, 1, 1)
        self.still = self.clean()
        self.evaluations = len(self.t)

    @torch.no_grad()
    def clean(self, batch: int = 64) -> Tensor:
        """ẑ₀ `(n · timesteps · noises, c, h, w)` by the weights in place."""
        every = torch.arange(len(self.t), device=self.t.device).split(batch)
        parts = [
            predict_clean(self.pipe, self.z[i], self.t[i], self.embeddings[i // self.each])
            for i in every
        ]
        return torch.cat(parts)

    def __call__(self, student: Mapping[str, Tensor]) -> Tensor:
        """‖ẑ₀' − ẑ₀‖², the mean over latents, timesteps and noises, of each concept `(n,)`."""
        with in_place(self.pipe.unet, student):
            moved = self.clean()
        return (moved - self.still).pow(2).mean((1, 2, 3)).view(self.n, self.each).mean(1)
