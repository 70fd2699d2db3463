"""Where training's (z_t, t) come from: a bank of trajectories (replay), or sampling anew
(published)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from erase_lib.diffusion import trajectory
from erase_lib.models import Pipeline


@dataclass
class Bank:
    """Guided trajectories of prompts: `z (steps, prompts, c, h, w)` and the timesteps
    `(steps,)`."""

    z: Tensor
    timesteps: Tensor

    def draw(self, prompts: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """z_t `(n, c, h, w)` and t `(n,)` of the given prompts `(n,)`, each at a random
        timestep."""
        step = torch.randint(len(self.timesteps), (len(prompts),), generator=g).to(prompts.device)
        return self.z[step, prompts], self.timesteps[step]


def noise(pipe: Pipeline, n: int, g: torch.Generator) -> Tensor:
    """Pure noise for n samples, drawn on the CPU so that every device sees the same."""
    size, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    return torch.randn(n, channels, size, size, generator=g).to(pipe.device)


def fill_bank(
    pipe: Pipeline,
    embeddings: Tensor,
    empty: Tensor,
    steps: int,
    scale: float,
    g: torch.Generator,
    batch: int = 32,
) -> Bank:
    """One guided trajectory of every prompt `(n, tokens, dim)` with whatever weights are in
    place."""
    parts, timesteps = [], []
    for part in embeddings.split(batch):
        path = list(trajectory(pipe, noise(pipe, len(part), g), part, empty, steps, scale))[:-1]
        parts.append(torch.stack([z for _, z in path]))
        timesteps = [t for t, _ in path]
    return Bank(torch.cat(parts, 1), torch.stack(timesteps))


def sample_to(
    pipe: Pipeline,
    embeddings: Tensor,
    empty: Tensor,
    steps: int,
    scale: float,
    g: torch.Generator,
) -> tuple[Tensor, Tensor, int]:
    """The published way: draw a bin, sample from noise down to it; z_t, t `(n,)` and evaluations
    spent."""
    stop = int(torch.randint(steps, (1,), generator=g))
    path = trajectory(pipe, noise(pipe, len(embeddings), g), embeddings, empty, steps, scale)
    t, z = next(islice(path, stop, None))
    return z, t.expand(len(z)), 2 * stop * len(z)
