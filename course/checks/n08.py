"""Checks of 08_diffusion_primer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from course.exercise import check
from erase_lib import study
from erase_lib.measure import Judge
from erase_lib.models import Pipeline


def exercise1(answer: float | None, latent: Tensor, picture: Image.Image) -> None:
    """How many numbers has a picture for each of its `latent (c, h, w)`?"""
    numbers = picture.width * picture.height * 3
    check(
        answer,
        (
            lambda a: a != picture.width * picture.height / latent[0].numel(),
            f"the picture has three colours, and the latent {len(latent)} channels",
        ),
        (lambda a: a != latent.numel() / numbers, "upside down: the picture is the larger one"),
        (lambda a: abs(a - numbers / latent.numel()) < 0.01, "count: width × height × colours"),
        right=f"{numbers / latent.numel():.0f} times fewer numbers, so each step of drawing is that"
        " much cheaper.",
    )


def exercise2(answer: Callable, pipe: Pipeline, z: Tensor) -> None:
    """A clean latent with noise mixed in, a function of both and of ᾱ_t; tried on latents `z`."""
    epsilon = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    at = torch.full((len(z),), 300)
    theirs = pipe.scheduler.add_noise(z, epsilon, at)  # diffusers does the same
    a = float(pipe.scheduler.alphas_cumprod[300])
    check(
        answer,
        (
            lambda x: x.shape == z.shape,
            lambda x: f"the shape is {tuple(x.shape)}, not {(*z.shape,)}",
        ),
        (
            lambda x: not torch.allclose(x, a * z + (1 - a) * epsilon, atol=1e-4),
            "the factors are roots: without them the sum of both is smaller than either",
        ),
        (
            lambda x: not torch.allclose(x, (1 - a) ** 0.5 * z + a**0.5 * epsilon, atol=1e-4),
            "the two factors are exchanged: ᾱ is the part that is still picture",
        ),
        (lambda x: torch.allclose(x, theirs, atol=1e-4), "not what diffusers makes of the same"),
        given=(z, epsilon, a),
        right="this one line is all that “adding noise” means.",
    )


def exercise3(answer: str, shown: Image.Image, empty: Image.Image) -> None:
    """What is drawn at guidance scale 0?

    The picture `shown` at that scale, and the `empty` prompt's from the same noise.
    """
    options = ("noise", "a faint concept", "what the empty prompt draws")
    check(
        answer,
        (lambda a: a in options, f"choose one of {', '.join(options)}"),
        (lambda a: a != options[0], "the steps still take the noise out, whatever they are told"),
        (
            lambda a: a != options[1],
            "that is s = 1: with 0 what the prompt adds is multiplied by 0",
        ),
        (lambda a: empty.tobytes() == shown.tobytes(), "not what was drawn here"),
        right="it is the very picture of the empty prompt, byte for byte: the prompt was never"
        " heard.",
    )


def exercise4(answer: str, concept: str, names: Sequence[str], weights: Tensor) -> None:
    """Which token gets the most attention?

    `names` of a prompt's tokens, the `concept` among them, and the share `weights (tokens,)` of all
    attention that each gets.
    """
    heard, most = weights.tolist(), names[weights.argmax()]
    check(
        answer,
        (lambda a: a in names, f"choose one of {', '.join(dict.fromkeys(names))}"),
        (
            lambda a: a != concept or a == most,
            f"so one would think, but the word itself gets {heard[names.index(concept)]:.1%}",
        ),
        (lambda a: a == most, lambda a: f"{a!r} gets {heard[names.index(a)]:.1%}"),
        right="here it is the word itself."
        if most == concept
        else "a place that needs nothing has to listen somewhere, for its weights sum to 1.",
    )


def exercise5(
    answer: tuple[int, int] | None,
    pipe: Pipeline,
    judge: Judge,
    plan: Sequence[Tensor],
    seed: int,
    concept: str,
    seen: Sequence[str],
) -> None:
    """Another seed than `seed`, and in how many pictures the judge sees the `concept`.

    The pictures are drawn by `plan`, which each of its steps hears `(pictures, tokens, dim)`;
    `seen` is what the judge sees in those of `seed`.
    """
    n = len(seen)

    def count(s: int) -> int:
        return judge.sees(study.draw_embeddings(pipe, plan, [s] * n)).count(concept)

    check(
        answer,
        (lambda a: len(a) == 2, "two numbers are wanted: the seed and how many pictures"),
        (lambda a: a[0] != seed, f"seed {seed} was drawn already: take another"),
        (
            lambda a: a[1] == count(a[0]),
            lambda a: f"with seed {a[0]} it is not {a[1]}: draw [{a[0]}] * (steps + 1), then count",
        ),
        right=lambda a: f"{a[1]} of {n}, and {list(seen).count(concept)} with seed {seed}.",
    )
