"""Edits of every cross-attention K and V without training: UCE, RECE, SPEED, adversarial UCE;
newer ones are in rivals.py.

Every token of a prompt's embedding is one column c, padding included, for the UNet attends to it
too. All methods ask for the anchor's value, v* = W₀a, so one least squares serves all layers:
W = W₀T, where T `(dim, dim)` changes the text embedding. It is solved in float64, tensors in and
out are float32: `weights` are K and V `(out, dim)` by name, concepts are `(n, tokens, dim)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, TypeAlias

import torch
from torch import Tensor

from erase_lib.concepts import prompts_of, without
from erase_lib.config import CLOSED_FORMS, EraseConfig
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError, unknown
from erase_lib.families import Entry, Pipeline, denoiser, entries, is_embedded
from erase_lib.hold import held
from erase_lib.kv import Weights, gram, movement, movement_by, norms, reversal, solve, times
from erase_lib.models import fingerprint
from erase_lib.rivals import NEIGHBOURS, RIVALS, minimax, projected
from erase_lib.text import embed, encode_prompts, last_tokens, near_words, searchable

ROW = ("step", "evaluations")  # of the history, the same for all entries
SHORTLIST = 4  # candidates for each that is to be preserved
COPIES = 10  # noisy ones of what SPEED preserves
BARE = ("cure", "nlce")  # that see the bare words alone
# the edited weights by name, and the history: one row a round
Edit: TypeAlias = tuple[dict[str, Tensor], list[dict[str, Any]]]


def uce(
    weights: Weights,
    erased: Tensor,
    anchors: Tensor,
    preserved: Tensor,
    ridge: float,
    lam: float,
    by: Callable[..., Tensor] | None = None,
) -> Edit:
    """Unified Concept Editing: K and V of the erased become their anchors', token by token.

    Gandikota et al. 2024, eq. 7, with means for its sums: mean_e ‖Wc − W₀a‖² + `lam` · mean_p
    ‖Wc − W₀c‖² + `ridge` · ‖W − W₀‖², so that neither weight depends on the number of concepts.
    `erased` and `anchors` `(n, tokens, dim)`, `preserved` `(m, tokens, dim)`. Raises `EraseError`
    for shapes that do not fit, an erased prompt among the preserved, and a singular matrix. In the
    history: l1, the share left of the erased's squared distance to their anchors, and l2, the
    squared movement of the preserved, both relative. `by` gives T in UCE's place.
    """
    erased, anchors, preserved = _checked(weights, erased, anchors, preserved)
    s, t = gram(weights), (by or _uce)(erased, anchors, preserved, ridge, lam)
    return times(weights, t), [_row(0, s, t, erased, anchors, preserved)]


def rece(
    weights: Weights,
    erased: Tensor,
    anchors: Tensor,
    preserved: Tensor,
    ridge: float,
    lam: float,
    rounds: int = 3,
    reg: float = 0.1,
) -> Edit:
    """UCE, and in each round the embeddings that would bring the erased back are erased too.

    RECE (Gong et al., ECCV 2024), but every round solves from W₀ for all that was found, so that
    the rounds' errors do not add up. `before` and `after` in the history: how far the embeddings
    found are from the original, before and after they are erased (0: the concept is back).
    Arguments and errors as `uce`; `reg` as `recovered`.
    """
    erased, anchors, preserved = _checked(weights, erased, anchors, preserved)
    s, found, history = gram(weights), erased, []
    t = _uce(erased, anchors, preserved, ridge, lam)
    for step in range(rounds):
        back = recovered(times(weights, t), weights, erased, reg)
        found = torch.cat([found, back])
        before = norms(s, back @ t.T - erased) / norms(s, erased)
        # the found come on top: those of before keep their weight
        t = _uce(found, anchors.repeat(step + 2, 1, 1), preserved, ridge, lam, len(erased))
        after = norms(s, back @ t.T - erased) / norms(s, erased)
        row = _row(step, s, t, erased, anchors, preserved)
        history.append(row | {"before": before.mean().item(), "after": after.mean().item()})
    return times(weights, t), history


def recovered(edited: Weights, original: Weights, concepts: Tensor, reg: float) -> Tensor:
    """Embeddings `(n, tokens, dim)` that bring `concepts` back, nearest by edited K and V: over all
    layers c′ = (Σ WᵀW + λI)⁻¹ (Σ WᵀW₀) c minimises Σ ‖Wc′ − W₀c‖² + λ ‖c′‖², where λ is `reg` (Gong
    et al., ECCV 2024)."""
    matrix = gram(edited)
    matrix.diagonal().add_(reg)
    cross = torch.stack([edited[k].double().T @ w.double() for k, w in original.items()]).sum(0)
    return concepts.double() @ torch.linalg.solve(matrix, cross).T


def speed(
    weights: Weights,
    erased: Tensor,
    anchors: Tensor,
    preserved: Tensor,
    ridge: float,
    tolerance: float = 3e-3,
    exact: Tensor | None = None,
    copies: int = 0,
    seed: int = 0,
) -> Edit:
    """An edit ΔW = RP that lies in the null space of what is kept.

    SPEED (Li et al., ICLR 2026). Kept are the anchors, and those preserved columns that an edit
    without preservation moves more than the mean (influence-based filtering). P projects on the
    directions where their Gram matrix has singular values of at most `tolerance` times the
    largest. Of each kept column `copies` more, moved by noise along the direction that W hears
    least, are filtered alike (directed prior augmentation; here one direction for all layers), and
    the columns of `exact` `(n, tokens, dim)` do not move at all (invariant equality constraints).
    Arguments and errors as `uce`, and `EraseError` when no direction is free.
    """
    erased, anchors, preserved = _checked(weights, erased, anchors, preserved)
    s, columns = gram(weights), preserved.flatten(0, 1)
    free = _uce(erased, anchors, preserved[:0], ridge, 0.0)

    def moved(columns: Tensor) -> Tensor:
        influence = norms(s, columns @ free.T - columns)
        return columns[influence > influence.mean()]

    some = moved(columns)
    if copies and len(some):
        g, least = torch.Generator().manual_seed(seed), torch.linalg.eigh(s)[1][:, :1]
        much = torch.randn(copies * len(some), 1, generator=g, dtype=s.dtype).to(s.device)
        some = torch.cat([some, moved(some.repeat(copies, 1) + much * least.T)])
    kept = torch.cat([some, anchors.flatten(0, 1)])
    sizes, directions = torch.linalg.eigh(kept.T @ kept)
    null = directions[:, sizes <= tolerance * sizes[-1]]
    if exact is not None and null.shape[1]:
        within = null.T @ exact.to(s).flatten(0, 1).T
        u, lengths, _ = torch.linalg.svd(within)
        null = null @ u[:, int((lengths > 1e-9 * exact.norm()).sum()) :]
    if not null.shape[1]:
        what = f"{len(kept)} kept columns leave none of {len(s)} directions at {tolerance=}"
        raise EraseError(f"{what}: preserve fewer, by a lower nearest or a shorter preserved")
    # in the null space's own coordinates: ΔT = R Nᵀ, with R by `solve` from 0
    c, gap = (erased @ null).flatten(0, 1), (anchors - erased).flatten(0, 1)
    r = solve(torch.zeros_like(null), c, gap, c[:0], ridge, 1 / len(c))
    t = torch.eye(len(s)).to(s) + r @ null.T
    row = _row(0, s, t, erased, anchors, preserved)
    return times(weights, t), [row | {"kept": len(kept), "free": null.shape[1]}]


def adversarial(
    weights: Weights,
    erased: Tensor,
    anchors: Tensor,
    preserved: Tensor,
    candidates: Tensor,
    ridge: float,
    lam: float,
    rounds: int = 3,
    most: int = 8,
    by: Callable[..., Tensor] | None = None,
) -> Edit:
    """UCE that in each round also preserves the `most` candidates it has just moved most.

    The min-max of Bui et al. 2024, eq. 5, with UCE's terms for L1 and L2: no search is needed, for
    the movement of every candidate is known. `candidates` `(n, templates, tokens, dim)`. History:
    the numbers of the `chosen`, and their mean movement `before` and `after` they are preserved.
    Ends early when all are. `by` gives T in UCE's place. Other arguments and errors as `uce`.
    """
    every = _checked(weights, erased, anchors, candidates.flatten(0, 1))[2]
    every = every.view(candidates.shape).flatten(1, 2)
    erased, anchors, preserved = _checked(weights, erased, anchors, preserved)
    s, history, chosen, by = gram(weights), [], list[int](), by or _uce
    t = by(erased, anchors, preserved, ridge, lam)
    for step in range(min(rounds, -(-len(every) // most))):
        far = movement_by(s, t, every)
        far[chosen] = -1
        worst = far.topk(min(most, len(every) - len(chosen))).indices.tolist()
        chosen = chosen + worst
        kept = torch.cat([preserved, every[chosen].view(-1, *preserved.shape[1:])])
        t = by(erased, anchors, kept, ridge, lam)
        before, after = far[worst], movement_by(s, t, every[worst])
        row = _row(step, s, t, erased, anchors, kept) | {"chosen": worst}
        history.append(row | {"before": before.mean().item(), "after": after.mean().item()})
    return times(weights, t), history


def _checked(
    weights: Weights, erased: Tensor, anchors: Tensor, preserved: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The three in float64, or an error that says which of them does not fit."""
    widths = {w.shape[1] for w in weights.values()}
    for name, e in (("erased", erased), ("anchors", anchors), ("preserved", preserved)):
        if e.ndim != 3 or e.shape[1:] != erased.shape[1:] or widths != {e.shape[2]}:
            form = f"(n, tokens, dim), with the tokens of erased and the weights' dim {[*widths]}"
            raise EraseError(f"{name} has shape {tuple(e.shape)}: expected {form}")
    if not 0 < len(erased) == len(anchors):
        raise EraseError(f"{len(anchors)} anchors for {len(erased)} erased prompts: give one each")
    erased, anchors, preserved = (e.double() for e in (erased, anchors, preserved))
    means = erased.mean(1), preserved.mean(1)  # tell prompts apart, and are soon compared
    if (same := (torch.cdist(*means) <= 1e-5 * means[0].norm(dim=1)[:, None]).nonzero()).numel():
        e, p = same[0].tolist()
        raise EraseError(f"preserved prompt {p} is also erased (prompt {e}): leave one of them out")
    return erased, anchors, preserved


def _uce(
    erased: Tensor, anchors: Tensor, preserved: Tensor, ridge: float, lam: float, n: int = 0
) -> Tensor:
    """T `(dim, dim)`: `solve` from the identity, with means (of the first sum over n) for sums."""
    c, a, p = (e.flatten(0, 1) for e in (erased, anchors, preserved))
    scale = 1 / ((n or len(erased)) * erased.shape[1])
    return solve(torch.eye(c.shape[1]).to(c), c, a, p, ridge, scale, lam / max(1, len(p)))


def _row(
    step: int, s: Tensor, t: Tensor, erased: Tensor, anchors: Tensor, preserved: Tensor
) -> dict[str, Any]:
    l1 = norms(s, erased @ t.T - anchors).norm() / norms(s, erased - anchors).norm()
    l2 = movement_by(s, t, preserved[None]) if len(preserved) else torch.zeros(1)
    row = {"step": step, "evaluations": 0, "l1": l1.item() ** 2, "l2": l2.item() ** 2}
    return row | reversal(s, t, erased, anchors)


def erase_closed_form(pipe: Pipeline, config: EraseConfig) -> Erasure:
    """Erase `config.targets` by one of `CLOSED_FORMS`; the pipeline is left untouched.

    Every target is erased in all its training prompts, each towards the same prompt of its anchor,
    or else of the neutral concept. Preserved are the latter and what is `preserved` by hand, in all
    their prompts, and the `nearest` words, one training prompt each, in turn. `eap_closed`, and
    `eap_projected` by `projected`, add, in all their prompts, those of the `candidates` nearest
    words that move most; they look closely at a `SHORTLIST`, by what plain UCE does to their bare
    words; the former may weigh what is preserved, by `minimax`, instead. CURE and NLCE take the
    bare words, and `NEIGHBOURS` of each target. As published: `EraseConfig.schedule`. Raises
    `EraseError` for another method, and as `searchable` and `uce`.
    """
    if config.method not in CLOSED_FORMS:
        raise unknown("closed form", config.method, CLOSED_FORMS)
    c = config = config.settled(is_embedded(pipe))
    if c.schedule == "published" and c.method == "uce":
        # means of n and of m with these weights are the sums, but for a factor
        n, m = len(c.targets), len(c.preserved)
        c = replace(c, ridge=c.ridge / n, lam=c.lam * m / n)
        of = [last_tokens(pipe, words) for words in (c.targets, c.become, c.preserved or [""])]
        return _edited(pipe, c, config, [*of[:2], of[2][:m]], [])
    known = searchable(pipe, c.vocabulary, c.targets)
    near = near_words(pipe, c.targets, known, NEIGHBOURS if c.method in BARE else c.nearest)
    near = without(near, c.preserved)
    if c.method in BARE:
        every = c.targets, c.become, [*c.preserved, *near]
        return _edited(pipe, c, config, [encode_prompts(pipe, list(some)) for some in every], [])
    pairs = list(zip(c.targets, c.become, strict=True))
    erased = torch.cat([embed(pipe, target, c.styles, target) for target in c.targets])
    anchors = torch.cat([embed(pipe, word, c.styles, target) for target, word in pairs])
    prompts = [form for word in c.preserved for form in prompts_of(word, c.styles)]
    forms = [prompts_of(word, c.styles) for word in near]
    prompts += [of[i % len(of)] for i, of in enumerate(forms)]
    preserved = embed(pipe, c.neutral, c.styles)
    if prompts:
        preserved = torch.cat([preserved, encode_prompts(pipe, prompts)])
    return _edited(pipe, c, config, [erased, anchors, preserved], near)


def _edited(
    pipe: Pipeline, c: EraseConfig, config: EraseConfig, of: list[Tensor], near: list[str]
) -> Erasure:
    """The erasure, said to be of `config`, by the edit of every entry with the settings `c`; `of`
    the prompts erased, those that they become, and the preserved."""
    tensors, history = dict[str, Tensor](), list[dict[str, Any]]()
    model = denoiser(pipe)
    with held(model, "reading its weights"):
        for entry in entries(model):
            edited, rows = _edit(pipe, c, entry, of, near)
            tensors |= edited
            # where the pooled embedding enters too, its rows stand beside the tokens'
            beside = [{f"{k}_pooled": v for k, v in row.items() if k not in ROW} for row in rows]
            both = zip_longest(history, beside, fillvalue=dict[str, Any]())
            history = [row | more for row, more in both] if history else rows
    return Erasure(tensors, config, fingerprint(model), history)


def _edit(pipe: Pipeline, c: EraseConfig, entry: Entry, of: list[Tensor], near: list[str]) -> Edit:
    """The method's edit of the weights of one entry, and of what it sees of the prompts."""
    weights, (erased, anchors, preserved) = entry.weights, map(entry.see, of)
    given = weights, erased, anchors, preserved
    if c.method in RIVALS:
        return uce(*given, c.ridge, c.lam, lambda e, a, p, _, lam: RIVALS[c.method](e, a, p, lam))
    if c.minimax:
        return uce(*given, c.ridge, c.lam, partial(minimax, gram(weights), share=c.minimax))
    if c.method == "rece":
        return rece(*given, c.ridge, c.lam, c.rounds)
    if c.method == "speed":
        more: dict[str, Any] = {}
        if c.schedule == "published":  # the start token is the empty prompt's first
            more = {"exact": entry.see(embed(pipe, "")), "copies": COPIES, "seed": c.seed}
        return speed(*given, c.ridge, **more)
    by = projected if c.method == "eap_projected" else _uce
    if c.method == "uce" or not near:
        return uce(*given, c.ridge, c.lam, by)
    words = near_words(pipe, c.targets, near, c.candidates)
    most = min(len(words), SHORTLIST * c.rounds * c.per_round)
    plain = uce(*given, c.ridge, c.lam)[0]
    moved = movement(weights, plain, entry.see(encode_prompts(pipe, words)))
    words = [words[i] for i in moved.topk(most).indices.tolist()]
    every = entry.see(torch.stack([embed(pipe, word, c.styles) for word in words]))
    found = adversarial(*given, every, c.ridge, c.lam, c.rounds, c.per_round, by)
    for row in found[1]:
        row["chosen"] = "|".join(words[i] for i in row["chosen"])
    return found
