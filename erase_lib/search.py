"""The other answers to "which concepts does an update preserve?": controls, and the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erase_lib.checkpoint import adam_tensors, load_adam
from erase_lib.config import EraseConfig
from erase_lib.diffusion import alpha_bar, predict_clean
from erase_lib.kv import gram, kv_weights, norms
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


class Choice(NamedTuple):
    """What one update preserves."""

    embeddings: Tensor
    """`(k, tokens, dim)`; in the published search with a gradient to π."""
    chosen: Tensor
    """Which candidate, `(k,)`."""
    template: Tensor
    """Under which training prompt, `(k,)`."""


class Search:
    """The candidates of one target, `embeddings (templates, n, tokens, dim)`, and which of them an
    update preserves. Here all alike: the control that every other search has to beat."""

    def __init__(self, words: list[str], embeddings: Tensor) -> None:
        self.words, self.embeddings = words, embeddings

    def choose(self, k: int, g: torch.Generator) -> Choice:
        """k candidates, each under a random training prompt."""
        chosen, device = self.pick(k, g), self.embeddings.device
        template = torch.randint(len(self.embeddings), (k,), generator=g)
        chosen, template = chosen.to(device), template.to(device)
        return Choice(self.embeddings[template, chosen], chosen, template)

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        """Which candidates `(k,)`."""
        return torch.randint(len(self.words), (k,), generator=g)

    def look(self, student: Mapping[str, Tensor], step: int) -> int:
        """See the student before update `step`; UNet evaluations spent."""
        return 0

    def tensors(self) -> dict[str, Tensor]:
        """What it has learnt, for a checkpoint; `load` is the way back."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave."""


class GumbelSearch(Search):
    """c_a = G(π) · E: a relaxed choice among candidates (Bui et al. 2024, §4.3).

    π starts uniform; `ascend` moves it towards what the student changed most. A mixture (not
    `hard`) may be of the `top` weights alone, as AGE has it.
    """

    def __init__(
        self,
        words: list[str],
        embeddings: Tensor,
        lr: float,
        temperature: float,
        hard: bool,
        top: int | None = None,
    ) -> None:
        super().__init__(words, embeddings)
        self.temperature, self.hard = temperature, hard
        self.top = min(top or len(words), len(words))
        self.pi = nn.Parameter(torch.full((len(words),), 1 / len(words), device=embeddings.device))
        self.optimiser = torch.optim.Adam([self.pi], lr=lr)

    def choose(self, k: int, g: torch.Generator, template: Tensor | None = None) -> Choice:
        """k independent choices by G(π) = softmax((π + Gumbel noise) / temperature), each under
        `template (k,)`, or a random training prompt."""
        n, device = len(self.words), self.pi.device
        uniform = torch.rand(k, n, generator=g).clamp(1e-9, 1 - 1e-7).to(device)
        gumbel = -(-uniform.log()).log()
        soft = F.softmax((self.pi + gumbel) / self.temperature, dim=-1)
        chosen = soft.argmax(-1)
        if self.hard:  # straight-through
            weight = F.one_hot(chosen, n).to(soft.dtype) - soft.detach() + soft
        else:
            most = soft.topk(self.top, dim=-1)
            weight = torch.zeros_like(soft).scatter(-1, most.indices, most.values)
            weight = weight / weight.sum(-1, keepdim=True)
        if template is None:
            template = torch.randint(len(self.embeddings), (k,), generator=g).to(device)
        mixed = torch.einsum("kn,kntd->ktd", weight, self.embeddings[template])
        return Choice(mixed, chosen, template)

    def ascend(self, gradient: Tensor) -> None:
        """One step of π up L2, given ∂L2/∂π. `FloatingPointError`, and no step, when it is NaN."""
        if not gradient.isfinite().all():
            raise FloatingPointError("π")
        self.pi.grad = -gradient
        self.optimiser.step()

    def probabilities(self) -> Tensor:
        """softmax(π) `(n,)`, for the history."""
        return self.pi.detach().softmax(0).cpu()

    def tensors(self) -> dict[str, Tensor]:
        return {"pi": self.pi} | {f"adam/{k}": t for k, t in adam_tensors(self.optimiser).items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.pi.copy_(tensors["pi"])
        start = "adam/"
        found = {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
        load_adam(self.optimiser, found)


def new_search(config: EraseConfig, words: list[str], embeddings: Tensor, pipe: Pipeline) -> Search:
    """The search that the settings name, over these candidates `(templates, n, tokens, dim)`."""
    c = config
    if c.search in ("gumbel", "gumbel_full"):
        # age mixes the five of the largest weights (Bui et al. 2025, code)
        hard, top = (False, 5) if c.method == "age" else (c.hard, None)
        return GumbelSearch(words, embeddings, c.search_lr, c.temperature, hard, top)
    if c.search == "movement":
        return MovementSearch(words, embeddings, kv_weights(pipe.unet))
    known = {"random": Search, "fixed": Search, "nearest": NearestSearch}
    known |= {"exhaustive": ExhaustiveSearch}
    return known[c.search](words, embeddings)


class NearestSearch(Search):
    """Always the k candidates nearest to the target, which stand first: a person's choice."""

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        return torch.arange(k) % len(self.words)


class MovementSearch(Search):
    """Half the candidates whose K and V have moved most, at no UNet evaluation, half any at all.

    A concept enters the UNet through K and V alone, and W c is known for every candidate at every
    update: ‖(W − W₀) c‖ / ‖W₀ c‖ over all layers. Drawn from the `most` · k highest, so that an
    update sees other concepts than the last. The most moved are neighbours of the target, and they
    alone would leave everything else to drift: hence the other half, drawn from all alike.
    """

    most = 2

    def __init__(
        self, words: list[str], embeddings: Tensor, original: Mapping[str, Tensor]
    ) -> None:
        super().__init__(words, embeddings)
        self.original, self.bare = original, embeddings[0].double()
        self.still = norms(gram(original), self.bare)
        self.scores = torch.zeros(len(words))

    def look(self, student: Mapping[str, Tensor], step: int) -> int:
        change = {name: student[name].detach() - w for name, w in self.original.items()}
        self.scores = (norms(gram(change), self.bare) / self.still).cpu()
        return 0

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        anyone = super().pick(k, g)
        if not self.scores.any():  # nothing has moved yet
            return anyone
        worst = self.scores.argsort(descending=True)[: self.most * k]
        worst = worst[torch.randperm(len(worst), generator=g).repeat(k)[:k]]
        half = (k + int(torch.randint(2, (1,), generator=g))) // 2  # of an odd k now more, now less
        return torch.cat([anyone[:half], worst[half:]])


class ExhaustiveSearch(Search):
    """The k candidates that the student has moved most, all of them measured every `every` looks.

    What the published search approximates, at any price: the yardstick, not a method.
    """

    every = 10

    def __init__(self, words: list[str], embeddings: Tensor) -> None:
        super().__init__(words, embeddings)
        self.scores, self.looks = torch.zeros(len(words)), 0
        self.probe: Probe | None = None

    def look(self, student: Mapping[str, Tensor], step: int) -> int:
        self.looks += 1
        # the first sees the teacher still, where nothing has moved
        if self.probe is None or (self.looks - 2) % self.every:
            return 0
        self.scores = self.probe(student).cpu()
        return self.probe.evaluations

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        if not self.scores.any():  # nothing has moved yet
            return super().pick(k, g)
        return self.scores.argsort(descending=True)[torch.arange(k) % len(self.words)]

    def tensors(self) -> dict[str, Tensor]:
        return {"scores": self.scores, "looks": torch.tensor(self.looks)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.scores, self.looks = tensors["scores"], int(tensors["looks"])
