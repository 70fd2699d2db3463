"""Where (z_t, t) come from: a bank of trajectories (replay), or sampling anew (published)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from erase_lib.diffusion import noise, trajectory
from erase_lib.models import Pipeline


@dataclass
class Bank:
    """Guided trajectories: `z (steps, rows, c, h, w)`, their timesteps `(steps,)`, where they end,
    `clean (rows, c, h, w)`, and the prompt that each was drawn for, `of (rows,)`."""

    z: Tensor
    timesteps: Tensor
    clean: Tensor
    of: Tensor

    def draw(self, prompts: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """z_t `(n, c, h, w)`, t `(n,)` of the prompts `(n,)`, each at a random timestep."""
        step = torch.randint(len(self.timesteps), (len(prompts),), generator=g).to(prompts.device)
        row = (prompts[:, None] == self.of).int().argmax(1)
        return self.z[step, row], self.timesteps[step]

    def lacks(self, prompts: Tensor) -> Tensor:
        """Those of the prompts that have no trajectory yet, each once."""
        return prompts[~torch.isin(prompts, self.of)].unique()

    def add(self, other: Bank) -> None:
        """Take in the trajectories of other prompts."""
        self.z = torch.cat([self.z, other.z], 1)
        self.clean = torch.cat([self.clean, other.clean])
        self.of = torch.cat([self.of, other.of])


def fill_bank(
    pipe: Pipeline,
    embeddings: Tensor,
    of: Tensor,
    empty: Tensor,
    steps: int,
    scale: float,
    g: torch.Generator,
    batch: int = 32,
) -> Bank:
    """A guided trajectory of every prompt `(n, tokens, dim)` with the weights in place; `of (n,)`
    numbers them."""
    parts, ends, timesteps = [], [], []
    for part in embeddings.split(batch):
        *path, (_, end) = trajectory(pipe, noise(pipe, len(part), g), part, empty, steps, scale)
        parts.append(torch.stack([z for _, z in path]))
        ends.append(end)
        timesteps = [t for t, _ in path]
    return Bank(torch.cat(parts, 1), torch.stack(timesteps), torch.cat(ends), of)


def sample_to(
    pipe: Pipeline,
    embeddings: Tensor,
    empty: Tensor,
    steps: int,
    scale: float,
    g: torch.Generator,
) -> tuple[Tensor, Tensor, int]:
    """As published: draw a bin, sample down to it; z_t, t `(n,)` and evaluations spent."""
    stop = int(torch.randint(steps, (1,), generator=g))
    path = trajectory(pipe, noise(pipe, len(embeddings), g), embeddings, empty, steps, scale)
    t, z = next(islice(path, stop, None))
    return z, t.expand(len(z)), 2 * stop * len(z)
