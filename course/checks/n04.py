"""Checks of 04_the_method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course.exercise import check, mistakes, unfilled
from erase_lib import EraseConfig, erase
from erase_lib.models import Pipeline
from erase_lib.search import Search


def exercise1(answer: str, weights: Sequence[Tensor]) -> None:
    """At which temperatures is another candidate chosen than at the first?

    `weights`: the choices' weights `(choices, n)` at each temperature, from the same noise.
    """
    options = ("all others", "the hottest only", "none")
    differ = [not torch.equal(w.argmax(-1), weights[0].argmax(-1)) for w in weights[1:]]
    true = options[0] if all(differ) else options[2] if not any(differ) else options[1]
    check(
        answer,
        (lambda a: a in options, f"choose one of {', '.join(options)}"),
        (
            lambda a: a == true,
            "the circles are at the same places: τ divides every score alike, so their order stays",
        ),
        right="τ says how the weight is shared, never who gets most of it.",
    )


def exercise2(answer: float | None, pi: Tensor, gumbel: Tensor, published: float) -> None:
    """A temperature at which the chosen candidate has about half of the weight.

    The scores `pi (n,)`, their noise `gumbel (choices, n)`, and the `published` temperature.
    """

    def largest(tau: float) -> float:
        """The weight of the chosen candidate at a temperature, the mean of the choices."""
        return ((pi + gumbel) / tau).softmax(-1).max(-1).values.mean().item()

    check(
        answer,
        (lambda a: a > 0, "a temperature is above 0"),
        (
            lambda a: largest(a) < 0.55,
            lambda a: f"at τ = {a:g} it has {largest(a):.2f}, too decided: go up",
        ),
        (
            lambda a: largest(a) > 0.45,
            lambda a: f"at τ = {a:g} it has {largest(a):.2f}, not decided enough: go down",
        ),
        right=lambda a: (
            f"at τ = {a:.2f}. At the published {published:g} it has"
            f" {largest(published):.2f}, and an equal share would be {1 / len(pi):.2f}."
        ),
    )


def exercise3(answer: Callable, alphas_cumprod: Tensor, timesteps: Tensor) -> None:
    """The factor between the squared differences of ẑ₀ and of the noise, a function of ᾱ_t.

    All ᾱ `(t,)` of the schedule, and the `timesteps` to ask at, from noisy to clean.
    """
    a = alphas_cumprod[timesteps]
    noise = torch.randn(2, len(a), 256, generator=torch.Generator().manual_seed(0))
    clean = -(1 - a).sqrt()[:, None] * noise / a.sqrt()[:, None]  # at the same z_t, here 0
    true = (clean[0] - clean[1]).pow(2).mean(1) / (noise[0] - noise[1]).pow(2).mean(1)
    close = {
        "upside down: noisy timesteps (small ᾱ) weigh more on ẑ₀, not less": 1 / true,
        "that is the factor of the differences; the losses are squared": true.sqrt(),
        "that is the squared part of the noise in ẑ₀: divide by ᾱ too": 1 - a,
    }
    check(
        answer,
        (lambda w: w.shape == a.shape, "the result should have the shape of ᾱ"),
        *mistakes(true, close, lambda w, other: torch.allclose(w, other, 1e-3)),
        (
            lambda w: torch.allclose(w, true, 1e-3),
            "not the factor measured: solve z_t for ẑ₀ first",
        ),
        given=(a,),
        right=lambda w: (
            f"from t = {timesteps[-1]} to {timesteps[0]} it grows from {w[-1]:.4f} to"
            f" {w[0]:.1f}: ẑ₀ lets the noisy timesteps speak loudest."
        ),
    )


def exercise4(answer: Callable) -> None:
    """The lead of one score at which Gumbel noise chooses it half of the time, a function of n."""
    published = EraseConfig.from_profile("paper", targets=["church"])
    g = torch.Generator().manual_seed(0)
    uniform = torch.rand(20000, published.candidates, generator=g).clamp(1e-9, 1 - 1e-7)

    def leads() -> object:
        """What the function gives for three candidates and for as many as published."""
        few, many = answer(3), answer(published.candidates)
        return many if unfilled(many) else (few, many)

    def share(d: float, n: int = published.candidates) -> float:
        """How often the leader of n is the largest, in 20000 trials."""
        scores = -(-uniform[:, :n].log()).log()
        scores[:, 0] += d
        return (scores.argmax(-1) == 0).float().mean().item()

    check(
        leads if callable(answer) else answer,
        (lambda d: min(d) >= 0, "a lead is not below 0"),
        (
            lambda d: abs(share(d[1]) - 0.5) < 0.02,
            lambda d: (
                f"with a lead of {d[1]:.2f} it is chosen in {share(d[1]):.0%} of 20000 trials, not"
                f" in half, so {'less' if share(d[1]) > 0.5 else 'more'} is needed (temperature"
                " plays no part)"
            ),
        ),
        (
            lambda d: abs(share(d[0], 3) - 0.5) < 0.02,
            lambda d: (
                f"near enough among many, but among 3 candidates it is chosen in"
                f" {share(d[0], 3):.0%} of 20000 trials: how many others are there?"
            ),
        ),
        given=(),
        right=lambda d: (
            f"among the published {published.candidates} candidates d is {d[1]:.2f}. Adam moves a"
            f" score by about {published.search_lr:g} an update. Rising while all others fall,"
            f" never astray, that takes {d[1] / published.search_lr / 2:.0f} updates."
        ),
    )


def exercise5(
    answer: type[Search],
    pipe: Pipeline,
    config: EraseConfig,
    words: list[str],
    embeddings: Tensor,
    worst: Sequence[str],
) -> None:
    """A search that preserves one of the three words `worst`, at random.

    The candidates are `words` with their `embeddings (prompts, n, tokens, dim)`; of an erasure by
    `config` two updates are made with it.
    """

    def picks() -> Tensor:
        """Fifty choices of a new search, always from the same seed."""
        return answer(words, embeddings).pick(50, torch.Generator().manual_seed(1))

    def preserved() -> list[str]:
        """What two updates with this search preserve."""
        few = dataclasses.replace(config, steps=2)
        own = erase(pipe, few, [], search=lambda _, some, e, pipe: answer(some, e))
        return [row["chosen"] for row in own.history]

    known = {words.index(word) for word in worst}
    check(
        picks,
        (lambda a: isinstance(a, Tensor), lambda a: f"a {type(a).__name__}, and no tensor"),
        (
            lambda a: a.shape == (50,),
            lambda a: f"pick(50, g) has shape {tuple(a.shape)}, not (50,)",
        ),
        (lambda a: {*a.tolist()} <= known, f"it picks others than {', '.join(worst)} too"),
        (lambda a: torch.equal(a, picks()), "the same g gives other picks: draw with generator=g"),
        (lambda a: {*a.tolist()} == known, "one of the three is never picked"),
        given=(),
        right=lambda a: f"in two updates it preserved {preserved()}",
    )
