"""16_build_the_embedded_model: whitening, the noise in a velocity, unseen words, intervals."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from course.exercise import check
from erase_lib.concepts import vocabulary
from erase_lib.measure import bootstrap
from tools.embedded.export import fold_whitening


def exercise1(logvar: Any, vae: Any) -> None:
    """By how much does folding a deviation of 2 change a channel's log-variance?"""
    twice = deepcopy(vae)
    n = len(vae.quant_conv.bias) // 2
    fold_whitening(twice, torch.zeros(n), torch.full((n,), 2.0))
    change = (twice.quant_conv.bias - vae.quant_conv.bias)[n:].mean().item()
    check(
        logvar,
        (lambda a: a == a + 0, "a number is asked for"),
        (lambda a: abs(a - change / 2) > 1e-3, "by s the deviation is divided, the variance by s²"),
        (lambda a: abs(a + change) > 1e-3, "upside down: z / s varies less than z"),
        (lambda a: a not in (0.25, 0.5, -0.25), "that is a factor: of a logarithm, it is added"),
        (lambda a: abs(a + 2) > 1e-3, "the logarithm is the natural one here, not that to base 2"),
        (lambda a: abs(a - change) < 1e-3, "σ becomes σ / s: take the logarithm of its square"),
        right=f"{change:.4f}, in all {n} channels. A bias of a layer that is there anyway takes"
        " it in, which is why nobody who uses the model has to know m and s.",
    )


def exercise2(noise: Any, z_t: Tensor, v: Tensor, alpha_bar: Tensor, truth: Tensor) -> None:
    """Write the noise ε that was mixed into z_t, from the velocity v; `truth` is what it was."""
    cosine, sine = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def is_not(b: Tensor) -> Any:
        return lambda a: not torch.allclose(a, b, rtol=1e-3, atol=1e-3)

    check(
        noise,
        (lambda a: a.shape == truth.shape, "one value for each value of z_t is asked for"),
        (is_not(cosine * z_t - sine * v), "that is the clean latent ẑ₀"),
        (
            is_not(sine * v + cosine * z_t),
            "sine and cosine are exchanged: at pure noise z_t itself is ε",
        ),
        (
            is_not(cosine * v - sine * z_t),
            "a sign: at pure noise, where ᾱ is 0, this is −z_t and not z_t",
        ),
        (is_not(alpha_bar * v + (1 - alpha_bar) * z_t), "you forgot the roots"),
        (lambda a: not is_not(truth)(a), "not the noise that was mixed in"),
        given=(z_t, v, alpha_bar),
        right="so a model that says v, one that says ε and one that says ẑ₀ know the same; they"
        " differ in what an error costs, which is what the picture above is about.",
    )


def exercise3(words: Any, table: pd.DataFrame) -> None:
    """Choose three words that no caption had; `table` has each picture's concept and keywords."""
    named, captioned = _words(table["concept"]), _words(table["keywords"])
    read, english = {str(w).lower() for w in words or []}, set(vocabulary("english"))
    check(
        words,
        (lambda a: not isinstance(a, str), "a list of words is asked for, such as ['one', 'two']"),
        (
            lambda a: len(set(a)) >= 3,
            lambda a: f"{len(set(a))} different words: three are asked for",
        ),
        (
            lambda a: not named & read,
            f"an emoji is named {', '.join(sorted(named & read))}: choose others",
        ),
        (
            lambda a: not captioned & read,
            f"a keyword, so that captions had it: {', '.join(sorted(captioned & read))}",
        ),
        (
            lambda a: read <= english,
            f"{', '.join(sorted(read - english))}: not one of the 3,000 words, so perhaps nobody"
            " taught it, and what you see are its pieces",
        ),
        right="no picture taught the encoder these. Look at the table below: are the neighbours"
        " those of a meaning, or of a spelling?",
    )


def exercise4(pictures: Any, n: int) -> None:
    """How many pictures make an interval of half the width, where there are n of them?"""
    half = np.array([0.0, 1.0])
    times = max(1, round(pictures / n)) if isinstance(pictures, int) else 1
    once, more = (np.ptp(bootstrap(np.tile(half, n * k // 2))) for k in (1, min(times, 100)))
    check(
        pictures,
        (lambda a: isinstance(a, int), "a whole number is asked for"),
        (lambda a: a > n, f"there are {n} already, and the interval is to be narrower"),
        (
            lambda a: a != 2 * n,
            f"twice as many divide the width by {once / more:.1f}, the root of 2",
        ),
        (lambda a: a != 3 * n, "four times as many in all: the three are those to be added"),
        (
            lambda a: abs(once / more - 2) < 0.2,
            lambda a: (
                f"{a} divide the width by about {once / more:.1f}: it falls with the root of n"
            ),
        ),
        right=f"{pictures}. More seeds of the same ten concepts would not do: the interval draws"
        " whole concepts, for a model that cannot draw dogs fails at all pictures of dogs.",
    )


def _words(texts: Iterable[object]) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", str(text).lower())}
