"""Erasure without training, from words: what is erased, towards what, and what is preserved."""

from __future__ import annotations

import torch
from torch import Tensor

from erase_lib.closed_form import adversarial, kv_weights, rece, speed, uce
from erase_lib.concepts import forms_of, prompts_of, search_words
from erase_lib.config import CLOSED_FORMS, EraseConfig
from erase_lib.erasure import Erasure
from erase_lib.errors import unknown
from erase_lib.models import Pipeline, encode_prompts, fingerprint
from erase_lib.movement import movement
from erase_lib.neighbours import distances

SHORTLIST = 4  # candidates for each that is to be preserved


def erase_closed_form(pipe: Pipeline, config: EraseConfig) -> Erasure:
    """Erase `config.targets` by one of `CLOSED_FORMS`; the pipeline is left untouched.

    Every target is erased in all its training prompts, each towards the same prompt of its anchor,
    or else of the neutral concept. Preserved are the latter and `preserved`, or else the `nearest`
    words, one training prompt each, in turn.
    `eap_closed` adds, in all their prompts, those of the `candidates` nearest words that move most;
    it looks closely at a `SHORTLIST`, by what plain UCE does to their bare words.
    Raises `EraseError` for another method, a vocabulary of fewer than two words besides the
    targets, and as `closed_form.uce`.
    """
    c = config
    if c.method not in CLOSED_FORMS:
        raise unknown("closed form", c.method, CLOSED_FORMS)
    weights = kv_weights(pipe.unet)
    near, nearest, bare = near_words(pipe, c)
    in_turn = []
    for i, word in enumerate(c.preserved or near):
        prompts = prompts_of(word, c.styles)
        in_turn.append(prompts[i % len(prompts)])
    erased = encode_prompts(pipe, [p for t in c.targets for p in prompts_of(t, c.styles)])
    neutral = encode_prompts(pipe, forms_of(c.neutral, c.styles))
    pairs = zip(c.become, c.targets, strict=True)
    anchors = encode_prompts(pipe, [p for a, t in pairs for p in forms_of(a, c.styles, t)])
    preserved = torch.cat([neutral, encode_prompts(pipe, in_turn)])
    if c.method == "uce":
        found = uce(weights, erased, anchors, preserved, c.ridge, c.lam)
    elif c.method == "rece":
        found = rece(weights, erased, anchors, preserved, c.ridge, c.lam, c.rounds)
    elif c.method == "speed":
        found = speed(weights, erased, anchors, preserved, c.ridge)
    else:
        plain = uce(weights, erased, anchors, preserved, c.ridge, c.lam)[0]
        most = min(len(nearest), SHORTLIST * c.rounds * c.per_round)
        nearest = [nearest[i] for i in movement(weights, plain, bare).topk(most).indices.tolist()]
        every = encode_prompts(pipe, [p for w in nearest for p in prompts_of(w, c.styles)])
        every = every.unflatten(0, (len(nearest), -1))
        found = adversarial(
            weights, erased, anchors, preserved, every, c.ridge, c.lam, c.rounds, c.per_round
        )
        for row in found[1]:
            row["chosen"] = "|".join(nearest[i] for i in row["chosen"])
    return Erasure(found[0], c, fingerprint(pipe.unet), found[1])


def near_words(pipe: Pipeline, config: EraseConfig) -> tuple[list[str], list[str], Tensor]:
    """The vocabulary's `nearest` words to each target, and of these the `candidates` nearest, with
    their embeddings `(n, tokens, dim)`.

    Nothing is thinned: a closed form takes all words at once. Targets are left out.
    """
    known = search_words(config.vocabulary, config.targets)
    every = encode_prompts(pipe, known)
    targets = encode_prompts(pipe, list(config.targets))
    orders = torch.stack([distances(every, t[None]).argsort(stable=True) for t in targets]).cpu()
    near, nearest = (orders[:, :n].unique() for n in (config.nearest, config.candidates))
    return [known[i] for i in near], [known[i] for i in nearest], every[nearest.to(every.device)]
