"""Which concepts an update preserves: the candidates, and the published search among them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erase_lib.checkpoint import adam_tensors, load_adam
from erase_lib.concepts import forms_of, search_words
from erase_lib.config import EraseConfig
from erase_lib.models import Pipeline, encode_prompts
from erase_lib.neighbours import spread_candidates


def candidates(pipe: Pipeline, config: EraseConfig) -> list[list[str]]:
    """For each target the words to search around it, the nearest first.

    Raises `EraseError` for a vocabulary that holds fewer than two words besides the targets; warns
    when it holds fewer than are asked for.
    """
    c = config
    known = search_words(c.vocabulary, c.targets)
    if len(known) < c.candidates:
        warnings.warn(
            f"candidates is {c.candidates}, but vocabulary {c.vocabulary!r} has {len(known)} words"
            " besides the targets: all are searched",
            stacklevel=2,
        )
    every, found = encode_prompts(pipe, known), []
    for target in c.targets:
        at = encode_prompts(pipe, [target])
        chosen = spread_candidates(every, at, c.nearest, c.candidates, c.thinning, c.seed)
        found.append([known[i] for i in chosen])
    return found


def encode_forms(pipe: Pipeline, words: Sequence[str], styles: tuple[str, ...]) -> Tensor:
    """Embeddings `(templates, n, tokens, dim)` of the words in all their training prompts."""
    forms = [forms_of(word, styles) for word in words]
    return torch.stack([encode_prompts(pipe, list(form)) for form in zip(*forms, strict=True)])


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
