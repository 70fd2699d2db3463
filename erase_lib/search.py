"""The other answers to "which concepts does an update preserve?": controls, and the truth."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from erase_lib.adversarial import GumbelSearch, Search
from erase_lib.closed_form import kv_weights
from erase_lib.config import EraseConfig
from erase_lib.models import Pipeline
from erase_lib.movement import gram, norms
from erase_lib.probe import Probe


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
