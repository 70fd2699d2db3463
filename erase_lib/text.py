"""From words to embeddings, in one place: prompts encoded, what is near a target, candidates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin
from torch import Tensor

from erase_lib.concepts import forms_of, normal, search_words, tidy, without
from erase_lib.config import EraseConfig
from erase_lib.errors import EraseError, check_range
from erase_lib.families import Pipeline, denoiser, encoders, family, is_embedded
from erase_lib.hold import held, own_device, placed

AT_ONCE = 256  # prompts that are encoded together


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
    parts = [list(prompts[i : i + AT_ONCE]) for i in range(0, len(prompts), AT_ONCE)]
    # a token has a letter or more, but where one is taken apart, and T5 begins with a token more
    long = [p for p in prompts if len(p) > limit - 3 or not p.isascii()]
    # a tokenizer too is one thread's at a time
    with held(denoiser(pipe), "encoding"), own_device():
        every = tokenizer(long, add_special_tokens=False, verbose=False).input_ids if long else []
        for prompt, ids in zip(long, every, strict=True):
            if cut := ids[limit - 2 :]:
                lost = tokenizer.decode(cut)
                warnings.warn(f"prompt {prompt!r} is too long: {lost!r} is cut off", stacklevel=2)
        with placed([encoder for encoder, _ in encoders(pipe)], denoiser(pipe).device):
            return torch.cat([kind.encode(pipe, part) for part in parts])


def embed(pipe: Pipeline, word: str, styles: Sequence[str] = (), target: str = "") -> Tensor:
    """All training prompts of a word `(templates, tokens, dim)`, in the form that the `target`,
    whose place it takes, has (`concepts.forms_of`)."""
    return encode_prompts(pipe, forms_of(word, tuple(styles), target))


def last_tokens(pipe: Pipeline, words: Sequence[str]) -> Tensor:
    """Of the bare words the embedding `(n, 1, dim)` of the last token, of "" the start's, as UCE's
    code takes them (Gandikota et al. 2024); below it the pooled one, where there is one."""
    ((_, tokenizer), *_), kind = encoders(pipe), family(pipe)
    if kind.flow:
        what = f"schedule 'published' edits a word's last token, not known of {kind.name}"
        raise EraseError(f"{what}: choose schedule 'replay'")
    c = encode_prompts(pipe, list(words))
    ids = tokenizer(list(words), truncation=True).input_ids
    last = c[torch.arange(len(c)), [len(of) - 2 for of in ids]][:, None]
    return torch.cat([last, c[:, -1:]], 1) if kind.pooled(denoiser(pipe)) else last


class Prompts:
    """The training prompts of several words, indexed as a tensor `(templates, n, tokens, dim)` is:
    each is encoded when it is first asked for, since most candidates are never chosen. They are
    kept on the CPU, which has room for those of T5."""

    def __init__(
        self, pipe: Pipeline, words: Sequence[str], styles: Sequence[str] = (), target: str = ""
    ) -> None:
        every = list(zip(*(forms_of(word, tuple(styles), target) for word in words), strict=True))
        self.pipe, self.shape = pipe, (len(every), len(words))
        self.device = denoiser(pipe).device  # asking takes a while
        self.texts = [text for form in every for text in form]
        self.encoded: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: Any) -> Tensor:
        places = torch.arange(len(self.texts), device=self.device).view(self.shape)[at]
        wanted = places.flatten().tolist()
        if new := [i for i in dict.fromkeys(wanted) if i not in self.encoded]:
            if self.pipe.text_encoder.device != self.device:
                # the encoders are brought back for it, so all of its part come along
                parts = {i // AT_ONCE for i in new}
                new = [i for i in range(len(self.texts)) if i // AT_ONCE in parts]
            found = encode_prompts(self.pipe, [self.texts[i] for i in new]).cpu()
            self.encoded = dict(zip(new, found, strict=True)) | self.encoded
        found = torch.stack([self.encoded[i] for i in wanted]).to(self.device)
        return found.unflatten(0, places.shape)


def distances(embeddings: Tensor, target: Tensor) -> Tensor:
    """L2 distance `(n,)` of embeddings `(n, tokens, dim)` to the target's `(1, tokens, dim)`."""
    return (embeddings - target).flatten(1).norm(dim=1)


def distances_each(pipe: Pipeline, words: Sequence[str], targets: Sequence[str]) -> list[Tensor]:
    """Of each target the `distances` `(n,)` of the bare words, whose embeddings are not kept: T5's
    of 3,000 words are 8 GB."""
    at = [encode_prompts(pipe, [target]) for target in targets]
    starts = range(0, max(1, len(words)), AT_ONCE)
    parts = (encode_prompts(pipe, list(words[i : i + AT_ONCE])) for i in starts)
    rows = [[distances(part, one) for one in at] for part in parts]
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def near_each(pipe: Pipeline, targets: Sequence[str], words: Sequence[str], most: int) -> list[str]:
    """The `most` words nearest to each of the targets, by `distances` of the bare words; one
    that is near to two stands there once."""
    every = (d.argsort(stable=True)[:most].tolist() for d in distances_each(pipe, words, targets))
    return list(dict.fromkeys(words[i] for near in every for i in near))


def near_words(pipe: Pipeline, targets: Sequence[str], words: list[str], most: int) -> list[str]:
    """The `most` nearest of the words to each target, in the order of `words`: nothing is thinned,
    for a closed form takes all at once."""
    near = set(near_each(pipe, targets, words, most))
    return [word for word in words if word in near]


def candidates(pipe: Pipeline, config: EraseConfig) -> list[list[str]]:
    """For each target the words to search around it, the nearest first. Raises as `search_words`;
    warns when the vocabulary holds fewer than are asked for."""
    c = config.settled(is_embedded(pipe))
    one = c.search == "pgd"  # the nearest, and none that is a target
    distance = c.thinning == "distance" and not one
    known = searchable(pipe, c.vocabulary, () if distance else c.targets)
    if len(known) < c.candidates:
        there = f"vocabulary {c.vocabulary!r} has {len(known)} words besides the targets"
        warnings.warn(f"candidates is {c.candidates}, {there}: all are searched", stacklevel=2)
    found = []
    for d in distances_each(pipe, known, c.targets):
        order = d.argsort()[: 1 if one else c.nearest]
        if len(order) > c.candidates:
            near = [known[i] for i in order.tolist()]
            by = d[order, None] if distance else encode_prompts(pipe, near)
            order = order[thinned(by.flatten(1), c.candidates, c.seed, any_member=distance)]
            order = order[d[order].argsort(stable=True)]
        found.append([known[i] for i in order.tolist()])
    return found


def searchable(pipe: Pipeline, vocabulary: str, targets: Sequence[str]) -> list[str]:
    """`search_words`, or for `tokens` every word and part of one that the tokenizer knows."""
    if vocabulary != "tokens":
        return search_words(vocabulary, targets)
    ((_, tokenizer), *_) = encoders(pipe)
    numbers = [[i] for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    read = (tidy(word) for word in tokenizer.batch_decode(numbers))
    words = {normal(word): word for word in read if word and word.isprintable() and "�" not in word}
    return without(words.values(), targets)


def thinned(points: Tensor, keep: int, seed: int, any_member: bool = False) -> list[int]:
    """About `keep` of the points `(n, dim)`, which k-means clusters: the member nearest to each
    cluster's centre stands for it. As published the points are the 1-D distances to the target
    (thinning `distance`), and of all of them the nearest to each centre; `meaning` takes the
    embeddings. k-means is run once (scikit-learn's default since 1.4, before 10 times)."""
    x = points.cpu().numpy().astype(np.float64)
    means = KMeans(n_clusters=keep, n_init=1, random_state=seed).fit(x)
    if any_member:
        return np.unique(pairwise_distances_argmin(means.cluster_centers_, x)).tolist()
    gap = np.linalg.norm(x - means.cluster_centers_[means.labels_], axis=1)
    clusters = [np.flatnonzero(means.labels_ == k) for k in np.unique(means.labels_)]
    return [int(members[gap[members].argmin()]) for members in clusters]
