"""Where (z_t, t) come from: trajectories that the teacher drew once (replay), or sampling anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from erase_lib.diffusion import noise, trajectory
from erase_lib.models import Pipeline


@dataclass
class Bank:
    """Guided trajectories: `z (steps, rows, c, h, w)`, `timesteps (steps,)`, their ends `clean
    (rows, c, h, w)`, the number of each one's prompt `of (rows,)`, and where it is known beforehand
    L1's `goal` along them, as z."""

    z: Tensor
    timesteps: Tensor
    clean: Tensor
    of: Tensor
    goal: Tensor | None = None

    def draw(self, prompts: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """z_t `(n, c, h, w)`, t `(n,)` and the goal of the prompts `(n,)`, each at a random
        timestep."""
        step = torch.randint(len(self.timesteps), (len(prompts),), generator=g).to(prompts.device)
        row = (prompts[:, None] == self.of).int().argmax(1)
        goal = None if self.goal is None else self.goal[step, row]
        return self.z[step, row], self.timesteps[step], goal

    def along(self, f: Callable[[Tensor, Tensor, Tensor], Tensor], batch: int = 32) -> Tensor:
        """f(z_t, t, prompt) at every latent of the trajectories, shaped as `z`."""
        t = self.timesteps.repeat_interleave(len(self.of))
        every = self.z.flatten(0, 1), t, self.of.repeat(len(self.timesteps))
        parts = zip(*(x.split(batch) for x in every), strict=True)
        return torch.cat([f(*part) for part in parts]).view_as(self.z)

    def add(self, other: Bank) -> Bank:
        """This one with the trajectories of other prompts."""
        z, clean = torch.cat([self.z, other.z], 1), torch.cat([self.clean, other.clean])
        return Bank(z, self.timesteps, clean, torch.cat([self.of, other.of]), self.goal)


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
    """A guided trajectory of every prompt `(n, tokens, dim)` by the weights in place, numbered by
    `of (n,)`: 2 · steps evaluations each."""
    parts, ends, timesteps = [], [], []
    for part in embeddings.split(batch):
        *path, (_, end) = trajectory(pipe, noise(pipe, len(part), g), part, empty, steps, scale)
        parts.append(torch.stack([z for _, z in path]))
        ends.append(end)
        timesteps = [t for t, _ in path]
    return Bank(torch.cat(parts, 1), torch.stack(timesteps), torch.cat(ends), of)


def sample_to(
    pipe: Pipeline, embeddings: Tensor, empty: Tensor, steps: int, scale: float, g: torch.Generator
) -> tuple[Tensor, Tensor, int]:
    """As published: draw a bin, sample down to it; z_t, t `(n,)` and evaluations spent."""
    stop = int(torch.randint(steps, (1,), generator=g))
    path = trajectory(pipe, noise(pipe, len(embeddings), g), embeddings, empty, steps, scale)
    t, z = next(islice(path, stop, None))
    return z, t.expand(len(z)), 2 * stop * len(z)
