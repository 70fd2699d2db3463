"""Where (z_t, t) come from: trajectories that the teacher drew once (replay), or sampling anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from erase_lib.config import EraseConfig
from erase_lib.diffusion import alpha_bar, noise, predict_clean, sampler, trajectory
from erase_lib.families import Pipeline, denoiser, family
from erase_lib.hold import in_place
from erase_lib.text import encode_prompts

# the prompts `(n, tokens, dim)` of numbers `(n,)`
Numbered: TypeAlias = Callable[[Tensor], Tensor]


@dataclass
class Bank:
    """Guided trajectories: `z (steps, rows, c, h, w)`, `timesteps (steps,)`, their ends `clean
    (rows, c, h, w)`, the number of each one's prompt `of (rows,)`; where they are kept, as z, L1's
    `goal` along them, and ẑ₀ of their own prompts, as it was `predicted` while they were drawn."""

    z: Tensor
    timesteps: Tensor
    clean: Tensor
    of: Tensor
    goal: Tensor | None = None
    predicted: Tensor | None = None

    def draw(self, prompts: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """z_t `(n, c, h, w)`, t `(n,)` and goal of the prompts `(n,)`, each at a random step."""
        step = torch.randint(len(self.timesteps), (len(prompts),), generator=g).to(prompts.device)
        row = (prompts[:, None] == self.of).int().argmax(1)
        goal = None if self.goal is None else self.goal[step, row]
        return self.z[step, row], self.timesteps[step], goal

    def along(self, f: Callable[..., Tensor], batch: int = 32) -> Tensor:
        """f(z_t, t, prompt, predicted) at every latent of the trajectories, shaped as `z`."""
        assert self.predicted is not None
        t = self.timesteps.repeat_interleave(len(self.of))
        numbers = self.of.repeat(len(self.timesteps))
        every = self.z.flatten(0, 1), t, numbers, self.predicted.flatten(0, 1)
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
    parts, ends, predicted = [], [], []
    for part in embeddings.split(batch):
        begin, clean = noise(pipe, len(part), g), list[Tensor]()
        *path, (_, end) = trajectory(pipe, begin, part, empty, steps, scale, clean)
        parts.append(torch.stack([z for _, z in path]))
        ends.append(end)
        predicted.append(torch.stack(clean))
    together = torch.cat(parts, 1), sampler(pipe, steps).timesteps, torch.cat(ends), of
    return Bank(*together, predicted=torch.cat(predicted, 1))


class Start(NamedTuple):
    """What the latents of one update have in common: a bin of timesteps, counted from the clean
    end, the t in it that the denoiser is told, and the noise that sampling starts from."""

    bin: int
    t: Tensor
    noise: Tensor


class Latents:
    """Where a run's (z_t, t) come from: the teacher's banks (replay), or sampling, by the teacher
    (anew) or the `student` (published). `spend` is told of evaluations.

    Published is as EAP's code has it (Bui et al. 2024): t is any of the bin's timesteps, ᾱ the
    bin's own; the first step of sampling is left out and it ends a bin late, so that z is never
    pure noise and stands two bins cleaner than its ᾱ. A flow, which that code does not know, is
    sampled exactly to t, as ESD's code of 2025 does (anew)."""

    start: Start

    def __init__(
        self,
        pipe: Pipeline,
        config: EraseConfig,
        student: Mapping[str, Tensor],
        g: torch.Generator,
        spend: Callable[[int], None],
    ) -> None:
        self.pipe, self.config, self.student, self.g, self.spend = pipe, config, student, g, spend
        empty, self.banks = encode_prompts(pipe, [""]), dict[str, Bank]()
        self.sampling = empty, config.sampling_steps, config.guidance_scale, g
        self.late = config.schedule == "published" and not family(pipe).flow
        self.grid = sampler(pipe, config.sampling_steps).timesteps.flip(0)  # of each bin
        self.most = pipe.scheduler.config.num_train_timesteps

    def draw(
        self, name: str, of: Tensor, prompts: Numbered, fresh: Tensor, again: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """z_t, t of the prompts numbered `of (n,)`, and L1's goal where it is known: from the bank
        `name`, or sampled for the embeddings `fresh (n, tokens, dim)`, `again` by its start."""
        if self.config.schedule == "replay":
            return self.bank(name, of, prompts).draw(of, self.g)
        if not again:
            self.start = self.begin(max(len(fresh), self.config.preserve_batch))
        _, steps, scale, _ = self.sampling
        at, t, begin = self.start
        done = min(steps - at, steps - 1) if self.late else steps - 1 - at
        given = begin[: len(fresh)], fresh.detach(), self.sampling[0], steps, scale
        by = self.student if self.config.schedule == "published" else {}
        with in_place(denoiser(self.pipe), by):
            _, z = next(islice(trajectory(self.pipe, *given, skip=int(self.late)), done, None))
        self.spend(family(self.pipe).guided * done * len(z))
        return z, t.expand(len(z)), None

    def begin(self, n: int) -> Start:
        """Draw a bin, a timestep in it and the noise of n latents."""
        _, steps, _, g = self.sampling
        at, most = int(torch.randint(steps, (1,), generator=g)), self.most
        t = self.grid[at]
        if self.late:
            low, high = at * most // steps, (at + 1) * most // steps
            t = torch.randint(low, high, (1,), generator=g).to(t)
        return Start(at, t, noise(self.pipe, n, g))

    def predict(self, z: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """ẑ₀ by the weights in place."""
        return predict_clean(self.pipe, z, t, embeddings, self.share(t))

    def share(self, t: Tensor) -> Tensor:
        """ᾱ `(n, 1, 1, 1)` that ẑ₀ is taken with: of t, or as published of its bin."""
        if self.late:
            t = self.grid[((t + 1) * len(self.grid) - 1) // self.most]
        return alpha_bar(self.pipe, t)

    def bank(
        self, name: str, of: Tensor, prompts: Numbered, goal: Callable[..., Tensor] | None = None
    ) -> Bank:
        """The teacher's trajectories of (at least) the prompts `of`, each drawn once; with `goal`
        (of z, t, prompt and ẑ₀ of it) along them."""
        bank = self.banks.get(name)
        new = of.unique() if bank is None else of[~torch.isin(of, bank.of)].unique()
        if len(new):
            self.spend(2 * len(new) * self.config.sampling_steps)
            found = fill_bank(self.pipe, prompts(new), new, *self.sampling)
            if goal is not None:
                found.goal = found.along(goal)
            found.predicted = None  # it was for the goal
            self.banks[name] = bank.add(found) if bank else found
        return self.banks[name]
