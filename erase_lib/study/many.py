"""Many erasures by closed forms: one after another, and one of them undone. Each is W = W₀T with
one T for all layers, so that what follows is products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import pandas as pd
import torch
from torch import Tensor

from erase_lib.concepts import without
from erase_lib.config import CLOSED_FORMS, ELSEWHERE, EraseConfig
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError
from erase_lib.export import matrices
from erase_lib.families import Pipeline, denoiser, entries
from erase_lib.kv import times
from erase_lib.measure import World
from erase_lib.measure.prompts import prompt_table
from erase_lib.models import fingerprint, using
from erase_lib.text import near_each


def spread(world: World, targets: Sequence[str], kept: Sequence[str], most: int) -> pd.DataFrame:
    """What is asked where many are erased: prompt, concept, style, seed and group, `most` pictures
    of targets, as many of concepts near them, which are neither, and of the kept, which are far;
    spread over each list, in the styles in turn; of a short list several of a concept."""
    rest, each = without(world.words, [*targets, *kept]), -(-most // len(targets))
    groups = {"target": targets, "near": near_each(world.pipe, targets, rest, each), "far": kept}
    parts = []
    for number, (group, words) in enumerate(groups.items()):
        n = max(len(words), most)
        some = [words[i * n // most % len(words)] for i in range(most)]
        pairs = [(word, world.styles[i % len(world.styles)]) for i, word in enumerate(some)]
        seeds = range(40_000 + 1000 * number, 40_000 + 1000 * number + most)
        parts.append(prompt_table(pairs, group=[group] * most, seed=seeds))
    return pd.concat(parts, ignore_index=True)


def change(pipe: Pipeline, erasure: Erasure) -> Tensor:
    """T `(dim, dim)` in float64 of a closed form: what the edited model hears is T c. Raises
    `EraseError` for an edit that is not one matrix, and for a model that hears by more than one."""
    if len(found := matrices(erasure, pipe)) != 1:
        method = erasure.config.method
        text = f"an erasure by {method!r} is not one matrix: erase by {', '.join(CLOSED_FORMS)}"
        raise EraseError(f"{text}, and a Stable Diffusion 1 or 2")
    return found[0] + torch.eye(len(found[0])).to(found[0])


def changed(pipe: Pipeline, t: Tensor, targets: Sequence[str]) -> Erasure:
    """The erasure W₀T of a matrix `(dim, dim)`, of what it erases."""
    with using(pipe, "reading its weights", draws=False):
        (entry,) = entries(denoiser(pipe))
        tensors = times(entry.weights, t)
        config = EraseConfig(tuple(targets), ELSEWHERE, styles=())
        return Erasure(tensors, config, fingerprint(denoiser(pipe)))


def chained(pipe: Pipeline, erasures: Sequence[Erasure]) -> Erasure:
    """One after another, the first first: W₀T₁T₂…, for what edits W₀T₁ is the same T₂ as what edits
    W₀. Raises `EraseError` for a target of two, and as `change`."""
    t = torch.linalg.multi_dot([change(pipe, e) for e in erasures])
    return changed(pipe, t, [target for e in erasures for target in e.config.targets])


def undone(t: Tensor, one: Tensor, later: Sequence[Tensor] = ()) -> Tensor:
    """T₁…Tₙ `(dim, dim)` without `one` of them, given those that came `later`, in their order: with
    L their product, T L⁻¹ `one`⁻¹ L. Exact but for rounding; without them it is for the last."""
    after = reduce(torch.matmul, later, torch.eye(len(t)).to(t))
    back = torch.linalg.solve(after, t, left=False)
    return torch.linalg.solve(one, back, left=False) @ after
