"""Which concepts an update preserves: the published search, controls, and the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erase_lib.config import METHODS, EraseConfig
from erase_lib.diffusion import alpha_bar, noised, predict_clean, prediction_type
from erase_lib.errors import EraseError, NotFinite
from erase_lib.families import Pipeline, denoiser, tokens
from erase_lib.hold import in_place
from erase_lib.kv import Weights, gram, kv_weights, norms
from erase_lib.text import Prompts, candidates

# the candidates' embeddings `(templates, n, tokens, dim)`
Every: TypeAlias = Tensor | Prompts


class Choice(NamedTuple):
    """What one update preserves."""

    embeddings: Tensor  # `(k, tokens, dim)`, with a gradient to π where one is learnt
    chosen: Tensor  # which candidate, `(k,)`
    prompt: Tensor  # which of the search's `prompts` it is drawn with, `(k,)`


class Search:
    """The candidates of one target, `embeddings (templates, n, tokens, dim)`, and which of them an
    update preserves. Here all alike: the control that every other search has to beat."""

    learns: nn.Parameter | None = None  # what is to climb L2, by `ascend`

    def __init__(self, words: list[str], embeddings: Every) -> None:
        self.words, self.embeddings = list(words), embeddings

    @property
    def blind(self) -> bool:
        """Whether it chooses without the student, so that its choices may be drawn ahead."""
        return self.learns is None and type(self).look is Search.look

    def choose(self, k: int, g: torch.Generator, template: Tensor | None = None) -> Choice:
        """k candidates, each under `template (k,)`, or under a random training prompt."""
        chosen = self.pick(k, g).to(self.embeddings.device)
        template = self.templates(k, g) if template is None else template
        prompt = chosen if len(self.words) > 1 else template
        return Choice(self.embeddings[template, chosen], chosen, prompt)

    def templates(self, k: int, g: torch.Generator) -> Tensor:
        """Random training prompts `(k,)`."""
        return torch.randint(len(self.embeddings), (k,), generator=g).to(self.embeddings.device)

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        """Which candidates `(k,)`."""
        return torch.randint(len(self.words), (k,), generator=g)

    def prompts(self, of: Tensor) -> Tensor:
        """The prompts `(k, tokens, dim)` that trajectories are drawn with: of several candidates
        each under a template of its own, of a single one all templates."""
        templates, n = self.embeddings.shape[:2]
        return self.embeddings[of % templates, of % n]

    def look(self, student: Weights, latents: Callable[[], Tensor]) -> int:
        """See the student before an update; `latents` draws one of each candidate. Evaluations."""
        return 0

    def ascend(self, gradient: Tensor) -> None:
        """Move `learns` up L2, given its gradient."""

    def row(self) -> dict[str, Any]:
        """What the history is told of it after an update."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt; `load_state_dict` is the way back."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class GumbelSearch(Search):
    """c_a = G(π) · E: a relaxed choice among candidates (Bui et al. 2024, §4.3). π starts uniform;
    `ascend` moves it towards what the student changed most. A mixture (not `hard`) may be of the
    `top` weights alone, as AGE has it."""

    def __init__(
        self,
        words: list[str],
        embeddings: Every,
        lr: float,
        temperature: float,
        hard: bool,
        top: int = 0,
    ) -> None:
        super().__init__(words, embeddings[:])  # a mixture is of all
        self.temperature, self.hard = temperature, hard
        self.top = min(top or len(words), len(words))
        even = torch.full((len(words),), 1 / len(words), dtype=torch.float32)
        self.learns = self.pi = nn.Parameter(even.to(embeddings.device))
        self.optimiser = torch.optim.Adam([self.pi], lr=lr)

    def choose(self, k: int, g: torch.Generator, template: Tensor | None = None) -> Choice:
        """k independent choices by G(π) = softmax((π + Gumbel noise) / temperature)."""
        n = len(self.words)
        uniform = torch.rand(k, n, generator=g).clamp(1e-9, 1 - 1e-7).to(self.pi.device)
        gumbel = -(-uniform.log()).log()
        soft = F.softmax((self.pi + gumbel) / self.temperature, dim=-1)
        chosen = soft.argmax(-1)
        if self.hard:  # straight-through
            weight = F.one_hot(chosen, n).to(soft.dtype) - soft.detach() + soft
        else:
            most = soft.topk(self.top, dim=-1)
            weight = torch.zeros_like(soft).scatter(-1, most.indices, most.values)
            weight = weight / weight.sum(-1, keepdim=True)
        template = self.templates(k, g) if template is None else template
        mixed = torch.einsum("kn,kntd->ktd", weight, self.embeddings[template])
        return Choice(mixed, chosen, chosen)

    def ascend(self, gradient: Tensor) -> None:
        """One step of π up L2, given ∂L2/∂π. `NotFinite`, and no step, when it is NaN."""
        if not gradient.isfinite().all():
            raise NotFinite("π")
        self.pi.grad = -gradient
        self.optimiser.step()

    def row(self) -> dict[str, Any]:
        """softmax(π) `(n,)`."""
        return {"pi": self.pi.detach().softmax(0).cpu().tolist()}

    def state_dict(self) -> dict[str, Any]:
        return {"pi": self.pi, "adam": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pi.data.copy_(state["pi"])
        self.optimiser.load_state_dict(state["adam"])


class PGDSearch(Search):
    """c_a = E + δ, which no word need say: projected gradient ascent (the ablation of Bui et al.
    2024). E is the nearest word's embedding; δ `(tokens, dim)` starts at 0, `ascend` moves it by
    `lr` of E's length along the gradient of L2, and it stays no longer than E."""

    def __init__(self, words: list[str], embeddings: Every, lr: float) -> None:
        super().__init__(words, embeddings)
        first = embeddings[0][0].float()
        self.lr, self.length = lr, first.norm()
        self.learns = self.delta = nn.Parameter(torch.zeros_like(first))

    def choose(self, k: int, g: torch.Generator, template: Tensor | None = None) -> Choice:
        found = super().choose(k, g, template)
        return found._replace(embeddings=found.embeddings + self.delta)

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        return torch.zeros(k, dtype=torch.long)

    def ascend(self, gradient: Tensor) -> None:
        """One step up L2, given ∂L2/∂δ. `NotFinite`, and no step, when it is NaN."""
        if not gradient.isfinite().all():
            raise NotFinite("δ")
        step = self.lr * self.length * gradient / gradient.norm().clamp(min=1e-30)
        moved = self.delta.detach() + step
        self.delta.data.copy_(moved * (self.length / moved.norm().clamp(min=1e-30)).clamp(max=1))

    def row(self) -> dict[str, Any]:
        """The length of δ in that of E."""
        return {"delta": (self.delta.detach().norm() / self.length).item()}

    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.delta.data.copy_(state["delta"])


class NearestSearch(Search):
    """Always the k candidates nearest to the target, which stand first: a person's choice."""

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        return torch.arange(k) % len(self.words)


class MovementSearch(Search):
    """Half the candidates whose K and V have moved most, at no UNet evaluation, half any at all.

    A concept enters the UNet through K and V alone, and W c is known for every candidate at every
    update: ‖(W − W₀) c‖ / ‖W₀ c‖ over all layers. Drawn from the `most` · k highest, so that an
    update sees other concepts than the last. The most moved are neighbours of the target, and they
    alone would leave everything else to drift: hence the other half, drawn from all alike."""

    most = 2

    def __init__(self, words: list[str], embeddings: Every, model: nn.Module) -> None:
        super().__init__(words, embeddings)
        self.original, self.bare = kv_weights(model), tokens(model, embeddings[0]).double()
        self.lengths = norms(gram(self.original), self.bare)
        self.scores = torch.zeros(len(words))

    def look(self, student: Weights, latents: Callable[[], Tensor]) -> int:
        change = {name: student[name].detach() - w for name, w in self.original.items()}
        self.scores = (norms(gram(change), self.bare) / self.lengths).cpu()
        return 0

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        anyone = super().pick(k, g)
        if not self.scores.any():  # nothing has moved yet
            return anyone
        worst = self.scores.argsort(descending=True)[: self.most * k]
        worst = worst[torch.randperm(len(worst), generator=g).repeat(k)[:k]]
        half = (k + int(torch.randint(2, (1,), generator=g))) // 2  # of an odd k now more, now less
        return torch.cat([anyone[:half], worst[half:]])


class SoftSearch(MovementSearch):
    """All candidates, each update anew, p ∝ exp(movement / (temperature · sd)): those that have
    moved most are likely, none is left out. By the movements' own standard deviation a temperature
    has no unit: near 0 always the most moved, at infinity all alike."""

    def __init__(
        self, words: list[str], embeddings: Every, model: nn.Module, temperature: float
    ) -> None:
        super().__init__(words, embeddings, model)
        self.temperature = temperature

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        return self.weights().multinomial(k, replacement=True, generator=g)

    def weights(self) -> Tensor:
        """p of each candidate `(n,)`; while none has moved more than another, 1/n."""
        above = (self.scores - self.scores.max()) / self.scores.std()
        return (above / self.temperature).nan_to_num().softmax(0)


class ExhaustiveSearch(Search):
    """The k candidates that the student has moved most, all of them measured every `every` looks:
    what the published search approximates, at any price. The yardstick, not a method."""

    every = 10

    def __init__(self, words: list[str], embeddings: Every, pipe: Pipeline) -> None:
        super().__init__(words, embeddings)
        self.pipe, self.scores, self.looks = pipe, torch.zeros(len(words)), 0
        self.probe: Probe | None = None

    def look(self, student: Weights, latents: Callable[[], Tensor]) -> int:
        self.probe = self.probe or Probe(self.pipe, latents(), self.embeddings[0])
        self.looks += 1
        if (self.looks - 2) % self.every:  # the first sees the teacher, where nothing has moved
            return 0
        self.scores = self.probe(student).cpu()
        return self.probe.evaluations

    def pick(self, k: int, g: torch.Generator) -> Tensor:
        if not self.scores.any():  # nothing has moved yet
            return super().pick(k, g)
        return self.scores.argsort(descending=True)[torch.arange(k) % len(self.words)]

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self.scores, "looks": self.looks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scores, self.looks = state["scores"], state["looks"]


# a search of one's own, from the config, the words to search and their prompts
NewSearch: TypeAlias = Callable[[EraseConfig, list[str], Prompts, Pipeline], Search]


def new_search(config: EraseConfig, words: list[str], embeddings: Every, pipe: Pipeline) -> Search:
    """The search that the settings name, over these candidates `(templates, n, tokens, dim)`."""
    c = config
    if c.search in ("gumbel", "gumbel_full"):
        # age mixes the five of the largest weights (Bui et al. 2025, code)
        hard, top = (False, 5) if c.method == "age" else (c.hard, 0)
        return GumbelSearch(words, embeddings, c.search_lr, c.temperature, hard, top)
    if c.search == "pgd":
        return PGDSearch(words, embeddings, c.search_lr)
    if c.search == "movement":
        return MovementSearch(words, embeddings, denoiser(pipe))
    if c.search == "soft":
        return SoftSearch(words, embeddings, denoiser(pipe), c.temperature)
    if c.search == "exhaustive":
        return ExhaustiveSearch(words, embeddings, pipe)
    return (NearestSearch if c.search == "nearest" else Search)(words, embeddings)


def new_searches(pipe: Pipeline, config: EraseConfig, new: NewSearch) -> list[Search | None]:
    """What is preserved for each target: nothing, one concept, or those that `new` searches."""
    c, (becomes, keeps), found = config, METHODS[config.method], list[Search | None]()
    if keeps == "searched" and c.search != "fixed":
        every = candidates(pipe, c)
    else:
        words = {"nothing": [], "neutral": [c.neutral], "searched": list(c.preserved)}
        every = [[word] if keeps == "anchor" else words[keeps] for word in c.become]
    # neutral concept, anchor and age's mixture take the target's place; others stand on their own
    alone = keeps == "searched" != becomes
    for some, target in zip(every, c.targets, strict=True):
        prompts = Prompts(pipe, some, c.styles, "" if alone else target)
        if len(some) > 1 or (some and keeps == "searched" and c.search == "pgd"):
            found.append(made := new(c, some, prompts, pipe))
            if not isinstance(made, Search):
                raise EraseError(f"search made {made!r:.60}: expected a search.Search")
        else:  # where there is one, there is nothing to search
            found.append(Search(some, prompts) if some else None)
    return found


class Probe:
    """The truth that a search is measured by: the mean movement of ẑ₀ over `timesteps` × `noises`,
    the same for every concept and strategy.

    `clean (n, c, h, w)`: a latent that the teacher drew of each concept; `embeddings`
    `(n, tokens, dim)`. z_t = √ᾱ z₀ + √(1−ᾱ) ε at timesteps spread over the whole range. A call
    costs n · timesteps · noises evaluations; as many of the teacher's, when it is made, are not
    counted: it is a yardstick. What Bui et al. 2024 (eq. 5) maximise over, without their single
    random t and ε.
    """

    def __init__(
        self, pipe: Pipeline, clean: Tensor, embeddings: Tensor, timesteps: int = 8, noises: int = 4
    ) -> None:
        self.pipe, self.n = pipe, len(clean)
        most = pipe.scheduler.config.num_train_timesteps
        # the middle of each of `timesteps` equal parts
        t = ((torch.arange(timesteps) + 0.5) * most / timesteps).long().repeat_interleave(noises)
        g = torch.Generator().manual_seed(0)
        epsilon = torch.randn(len(t), *clean.shape[1:], generator=g).to(clean)
        self.t = t.to(clean.device).repeat(self.n)
        self.embeddings, self.each = embeddings, len(t)
        every = clean.repeat_interleave(self.each, 0), epsilon.repeat(self.n, 1, 1, 1)
        self.z = noised(*every, alpha_bar(pipe, self.t), prediction_type(pipe))
        self.teacher = self.clean()
        self.evaluations = len(self.t)

    @torch.no_grad()
    def clean(self, batch: int = 64) -> Tensor:
        """ẑ₀ `(n · timesteps · noises, c, h, w)` by the weights in place."""
        every = torch.arange(len(self.t), device=self.t.device).split(batch)
        of = ((self.z[i], self.t[i], self.embeddings[i // self.each]) for i in every)
        return torch.cat([predict_clean(self.pipe, *some) for some in of])

    def __call__(self, student: Weights) -> Tensor:
        """‖ẑ₀' − ẑ₀‖², the mean over latents, timesteps and noises, of each concept `(n,)`."""
        with in_place(denoiser(self.pipe), student):
            moved = self.clean()
        return (moved - self.teacher).pow(2).mean((1, 2, 3)).view(self.n, self.each).mean(1)
