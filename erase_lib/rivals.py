"""Newer closed forms, each from its equation, and the dial between the mean harm and the worst.

As in closed_form.py an edit is W = W₀T, and what is made here is T `(dim, dim)` in float64, of
concepts `(n, tokens, dim)`. OCE erases by all training prompts; CURE and NLCE by the bare words.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from erase_lib.config import EraseConfig
from erase_lib.families import Pipeline, denoiser
from erase_lib.kv import kv_names, norms, solve
from erase_lib.text import last_tokens, near_each, searchable

NEIGHBOURS = 10  # concepts that CURE and NLCE retain for each target, as NLCE's code has it
EXPANSION, MOST = 100.0, 16  # α, and how many directions of the neighbours, there
# of weights `(m,)`: the edit, and the terms of its loss, what is fixed and each concept's `(m,)`
Solved = Callable[[Tensor], tuple[Tensor, float, Tensor]]


def projected(
    erased: Tensor, anchors: Tensor, preserved: Tensor, ridge: float, lam: float
) -> Tensor:
    """T `(dim, dim)` without an inverse, for T² = T: no embedding is mapped to what it takes away.
    What it leaves may be enough: of 8 churches the nearest embedding drew 8 (λ 5, ridge .1 or 10),
    and by λ .1, ridge 10, which harms what is near, no more than the name, 2.

    Of the steps c − a from anchors to erased these are, whole, the directions that weigh more in
    their mean square than in M = `lam` · mean_p ccᵀ + `ridge`, one at least: UCE shrinks each by
    its share of both, here that is 0 or 1. T = 1 − L u uᵀ L⁻¹, with M = L Lᵀ and u left singular
    vectors of L⁻¹ (c − a)ᵀ, moves the preserved the least of all that take these away. At another
    strength than 1 there is an inverse again."""
    steps, p = (erased - anchors).flatten(0, 1), preserved.flatten(0, 1)
    one = torch.eye(p.shape[1]).to(p)
    root = torch.linalg.cholesky(lam / max(1, len(p)) * p.T @ p + ridge * one)
    u, sizes, _ = torch.linalg.svd(torch.linalg.solve_triangular(root, steps.T, upper=False))
    u = u[:, : max(1, int((sizes > len(steps) ** 0.5).sum()))]
    whole = torch.linalg.solve_triangular(root.T, u, upper=True)
    return one - root @ u @ whole.T


def oce(erased: Tensor, anchors: Tensor, preserved: Tensor, lam: float) -> Tensor:
    """The orthogonal T that minimises mean_e ‖Tc − a‖² + `lam` · mean_p ‖Tc − c‖² over all columns:
    UVᵀ of the SVD of mean_e acᵀ + `lam` · K₀, where K₀ = mean_p ccᵀ (orthogonal concept erasure,
    ICML 2026; Schönemann 1966). It turns concepts, and makes none longer or shorter."""
    c, a, p = (e.flatten(0, 1) for e in (erased, anchors, preserved))
    u, _, v = torch.linalg.svd(a.T @ c / len(c) + lam * p.T @ p / max(1, len(p)))
    return u @ v


def cure(erased: Tensor, anchors: Tensor, preserved: Tensor, lam: float) -> Tensor:
    """I − P_f (I − P_r): what the targets span goes, but for what others span too (Biswas et al.,
    NeurIPS 2025). Both projectors are `expanded`; α is NLCE's, for CURE's code is not published."""
    forget, retain = (expanded(e.flatten(0, 1)) for e in (erased, preserved))
    return torch.eye(len(forget)).to(forget) - forget + forget @ retain


def nlce(erased: Tensor, anchors: Tensor, preserved: Tensor, lam: float) -> Tensor:
    """I − P_t + P_n P_t: what the targets span becomes what it is to their neighbours (Shi et al.,
    CVPR 2026, the first of three stages; β and γ are 1). P_t is a plain projector, P_n of the
    neighbours' first `MOST` directions is `expanded`."""
    target = expanded(erased.flatten(0, 1), torch.inf)
    near = expanded(preserved.flatten(0, 1), EXPANSION, MOST)
    return torch.eye(len(target)).to(target) - target + near @ target


def expanded(columns: Tensor, alpha: float = EXPANSION, most: int | None = None) -> Tensor:
    """UΛUᵀ `(dim, dim)` of the first directions of columns `(n, dim)`, λ = αr / ((α − 1)r + 1) by a
    direction's share r of their energy: α = 1 weighs them by it, at ∞ it is a projector."""
    _, s, v = torch.linalg.svd(columns, full_matrices=False)
    r = (s.square() / s.square().sum())[:most]
    weight = (r > 1e-12).to(r) if alpha == torch.inf else alpha * r / ((alpha - 1) * r + 1)
    return (v[:most].T * weight) @ v[:most]


def dialled(at: Solved, m: int, share: float, steps: int = 60, gap: float = 1e-3) -> Tensor:
    """T that minimises its loss, in which `share` (0 to 1) of the weight of m concepts stands on
    whichever moves most, the rest on all alike: a saddle, for the loss is convex in T.

    Exponentiated gradient on the weights (Kivinen & Warmuth 1997), one solve `at` them a step: a
    step that does not raise the dual is undone and halved. Ends when the best T is within `gap` of
    the dual, which no T is below, or after `steps`."""
    q, rate, best, least = torch.full((m,), 1 / m).double(), 1.0, -torch.inf, torch.inf
    for _ in range(steps):
        weights = (1 - share) / m + share * q
        t, fixed, moved = at(weights)
        if (dual := fixed + float(weights @ moved)) > best:
            best, kept, rate = dual, q, 1.5 * rate
            force = moved / moved.max().clamp(min=1e-300)
        else:
            rate /= 2
        loss = fixed + float((1 - share) * moved.mean() + share * moved.max())
        if loss < least:
            least, found = loss, t
        if least - best <= gap * least:
            break
        q = (kept.log() + rate * force).softmax(0)
    return found


def minimax(
    s: Tensor,
    erased: Tensor,
    anchors: Tensor,
    preserved: Tensor,
    ridge: float,
    lam: float,
    share: float,
) -> Tensor:
    """UCE's loss as in `closed_form.uce`, but of `lam` a `share` weighs only the preserved prompt
    that moves most, `dialled` exactly over all of them: 1 is the min-max of Bui et al. 2024 (eq. 5)
    in closed form, near 0 it is UCE. `s` is ΣW₀ᵀW₀; arguments else and errors as there."""
    c, a, one = erased.flatten(0, 1), anchors.flatten(0, 1), torch.eye(len(s)).to(s)
    tokens = preserved.shape[1]

    def at(weights: Tensor) -> tuple[Tensor, float, Tensor]:
        scaled = preserved * (weights / tokens).sqrt().to(s)[:, None, None]
        t = solve(one, c, a, scaled.flatten(0, 1), ridge, 1 / len(c), lam)
        left = norms(s, (c @ t.T - a)[None]).square() / len(c)
        fixed = left + ridge * norms(s, (t - one).T[None]).square()
        moved = norms(s, preserved @ t.T - preserved).square() / tokens
        return t, float(fixed), lam * moved.cpu()

    return dialled(at, len(preserved), share)


def orthogonal(pipe: Pipeline, config: EraseConfig) -> dict[str, Tensor]:
    """For each K and V the projector `(dim, dim)` that leaves of a gradient what is orthogonal to
    the `project` words nearest to each target, of each the last token (GradProj, ICLR 2026)."""
    names = kv_names(denoiser(pipe))
    known = searchable(pipe, config.vocabulary, config.targets)
    near = near_each(pipe, config.targets, known, config.project)
    c = last_tokens(pipe, near)[:, 0].double()
    apart = torch.eye(c.shape[1]).to(c) - torch.linalg.pinv(c) @ c
    return dict.fromkeys(names, apart.float())


RIVALS = {"oce": oce, "cure": cure, "nlce": nlce}
