"""The other answers to "which concepts does an update preserve?": controls, and the truth."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from erase_lib.adversarial import GumbelSearch, Search
from erase_lib.config import EraseConfig
from erase_lib.movement import movement
from erase_lib.probe import Probe


def new_search(
    config: EraseConfig, words: list[str], embeddings: Tensor, original: Mapping[str, Tensor]
) -> Search:
    """The search that the settings name, over these candidates `(templates, n, tokens, dim)`.

    `original`: the teacher's K and V weights, by name.
    """
    if len(words) == 1:  # nothing to search
        return Search(words, embeddings)
    c = config
    if c.search in ("gumbel", "gumbel_full"):
        return GumbelSearch(words, embeddings, c.search_lr, c.temperature, c.hard)
    if c.search == "movement":
        return MovementSearch(words, embeddings, original)
    known = {"random": Search, "nearest": NearestSearch, "exhaustive": ExhaustiveSearch}
    return known[c.search](words, embeddings)


class NearestSearch(Search):
    """Always the k candidates nearest to the target, which stand first: a person's choice."""

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        return torch.arange(k) % len(self.words)


class MovementSearch(Search):
    """The candidates whose K and V in cross-attention have moved most, at no UNet evaluation.

    A concept enters the UNet through K and V alone, and W c is known for every candidate at every
    update: ‖(W − W₀) c‖ / ‖W₀ c‖ over all layers. Drawn from the `most` · k highest, so that an
    update sees other concepts than the last.
    """

    most = 2

    def __init__(
        self, words: list[str], embeddings: Tensor, original: Mapping[str, Tensor]
    ) -> None:
        super().__init__(words, embeddings)
        self.original = original
        self.scores = torch.zeros(len(words))

    def look(self, student: Mapping[str, Tensor], step: int) -> int:
        edited = {name: student[name].detach() for name in self.original}
        self.scores = movement(self.original, edited, self.embeddings[0]).cpu()
        return 0

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        if not self.scores.any():  # nothing has moved yet
            return super().pick(k, g)
        worst = self.scores.argsort(descending=True)[: self.most * k]
        return worst[torch.randperm(len(worst), generator=g).repeat(k)[:k]]


class ExhaustiveSearch(Search):
    """The k candidates that the student has moved most, all of them measured every `every` updates.

    What the published search approximates, at any price: the yardstick, not a method.
    """

    every = 10

    def __init__(self, words: list[str], embeddings: Tensor) -> None:
        super().__init__(words, embeddings)
        self.scores = torch.zeros(len(words))
        self.probe: Probe | None = None

    def look(self, student: Mapping[str, Tensor], step: int) -> int:
        if self.probe is None or step % self.every:
            return 0
        self.scores = self.probe(student).cpu()
        return self.probe.evaluations

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        if not self.scores.any():  # nothing has moved yet
            return super().pick(k, g)
        return self.scores.argsort(descending=True)[torch.arange(k) % len(self.words)]

    def tensors(self) -> dict[str, Tensor]:
        return {"scores": self.scores}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.scores = tensors["scores"]
