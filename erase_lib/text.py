"""From words to embeddings, in one place: prompts encoded, what is near a target, candidates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from erase_lib.concepts import forms_of, search_words
from erase_lib.config import EraseConfig
from erase_lib.errors import EraseError, check_range
from erase_lib.families import Pipeline, denoiser, family, is_embedded
from erase_lib.hold import held


@torch.no_grad()
def encode_prompts(pipe: Pipeline, prompts: list[str]) -> Tensor:
    """Text embeddings `(n, tokens, dim)` in float32, by the pipeline's own `encode_prompt`. Warns
    of what is cut off a prompt that is too long. Raises `EraseError` for an empty list, a prompt of
    more than 10,000 characters, and more prompts than a machine has memory for."""
    if not prompts:
        raise EraseError("no prompts to encode: give a list of at least one")
    check_range("characters of a prompt", max(map(len, prompts)), 0, 10_000)
    for prompt in prompts:
        if prompt.encode("utf-8", "ignore").decode() != prompt:
            raise EraseError(f"prompt {prompt!r:.80} has half a character, which is no text")
    kind = family(pipe)
    tokenizer = getattr(pipe, kind.longest, None) or pipe.tokenizer
    limit = tokenizer.model_max_length
    size = 4e-9 * len(prompts) * limit * kind.width(denoiser(pipe))
    check_range(f"gigabytes of {len(prompts):,} prompts' embeddings", round(size), 0, 16)
    parts = [list(prompts[i : i + 256]) for i in range(0, len(prompts), 256)]
    with held(denoiser(pipe), "encoding"):  # a tokenizer too is one thread's at a time
        every = tokenizer(prompts, add_special_tokens=False, verbose=False).input_ids
        for prompt, ids in zip(prompts, every, strict=True):
            if cut := ids[limit - 2 :]:
                lost = tokenizer.decode(cut)
                warnings.warn(f"prompt {prompt!r} is too long: {lost!r} is cut off", stacklevel=2)
        return torch.cat([kind.encode(pipe, part) for part in parts])


def embed(pipe: Pipeline, word: str, styles: Sequence[str] = (), target: str = "") -> Tensor:
    """All training prompts of a word `(templates, tokens, dim)`, in the form that the `target`,
    whose place it takes, has (`concepts.forms_of`)."""
    return encode_prompts(pipe, forms_of(word, tuple(styles), target))


class Prompts:
    """The training prompts of several words, indexed as a tensor `(templates, n, tokens, dim)` is:
    each is encoded when it is first asked for, since most candidates are never chosen."""

    def __init__(
        self, pipe: Pipeline, words: Sequence[str], styles: Sequence[str] = (), target: str = ""
    ) -> None:
        forms = zip(*(forms_of(word, tuple(styles), target) for word in words), strict=True)
        every = [list(form) for form in forms]
        self.pipe, self.shape = pipe, (len(every), len(words))
        self.device = pipe.device  # asking the pipeline takes a millisecond
        self.texts = [text for form in every for text in form]
        self.encoded: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: Any) -> Tensor:
        places = torch.arange(len(self.texts), device=self.device).view(self.shape)[at]
        wanted = places.flatten().tolist()
        if new := [i for i in dict.fromkeys(wanted) if i not in self.encoded]:
            found = encode_prompts(self.pipe, [self.texts[i] for i in new])
            self.encoded |= dict(zip(new, found, strict=True))
        return torch.stack([self.encoded[i] for i in wanted]).unflatten(0, places.shape)


def distances(embeddings: Tensor, target: Tensor) -> Tensor:
    """L2 distance `(n,)` of embeddings `(n, tokens, dim)` to the target's `(1, tokens, dim)`."""
    return (embeddings - target).flatten(1).norm(dim=1)


def near_each(pipe: Pipeline, targets: Sequence[str], words: Sequence[str], most: int) -> list[str]:
    """The `most` words nearest to each of the targets, by `distances` of the bare words; one
    that is near to two stands there once."""
    every = encode_prompts(pipe, list(words))
    found: dict[str, None] = {}
    for target in targets:
        order = distances(every, encode_prompts(pipe, [target])).argsort(stable=True)
        found |= dict.fromkeys(words[i] for i in order[:most].tolist())
    return list(found)


def candidates(pipe: Pipeline, config: EraseConfig) -> list[list[str]]:
    """For each target the words to search around it, the nearest first. Raises as `search_words`;
    warns when the vocabulary holds fewer than are asked for."""
    c = config.settled(is_embedded(pipe))
    known = search_words(c.vocabulary, c.targets)
    if len(known) < c.candidates:
        there = f"vocabulary {c.vocabulary!r} has {len(known)} words besides the targets"
        warnings.warn(f"candidates is {c.candidates}, {there}: all are searched", stacklevel=2)
    every, found = encode_prompts(pipe, known), []
    for target in c.targets:
        at = encode_prompts(pipe, [target])
        chosen = spread_candidates(every, at, c.nearest, c.candidates, c.thinning, c.seed)
        found.append([known[i] for i in chosen])
    return found


def spread_candidates(
    embeddings: Tensor, target: Tensor, nearest: int, keep: int, thinning: str, seed: int
) -> list[int]:
    """Indices of the `nearest` embeddings to the target, thinned to about `keep`. `distance`
    clusters the 1-D distances, as the published code does; `meaning` clusters the embeddings. The
    member nearest to each cluster's centre stands for it."""
    d = distances(embeddings, target)
    order = d.argsort()[:nearest]
    if len(order) <= keep:
        return [int(i) for i in order]
    points = d[order, None] if thinning == "distance" else embeddings[order].flatten(1)
    x = points.cpu().numpy().astype(np.float64)
    means = KMeans(n_clusters=keep, n_init=1, random_state=seed).fit(x)
    gap = torch.from_numpy(np.linalg.norm(x - means.cluster_centers_[means.labels_], axis=1))
    labels = torch.from_numpy(means.labels_)
    clusters = [(labels == k).nonzero()[:, 0] for k in labels.unique()]
    chosen = [int(order[members[gap[members].argmin()]]) for members in clusters]
    return sorted(chosen, key=lambda i: float(d[i]))
