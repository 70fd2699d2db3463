"""How far an edit moves a concept's K and V in all cross-attention layers, exact and without a
picture; and the edit that moves them as little as may be.

Concepts are `(n, …, dim)`: each a set of text-embedding columns c. Weights are K and V `(out, dim)`
by name. With gram = ΣWᵀW over the layers, √(cᵀ gram c) is the norm of all K and V of c.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from erase_lib.errors import EraseError
from erase_lib.families import family
from erase_lib.hold import held, plain

Weights: TypeAlias = Mapping[str, Tensor]


def movement(original: Weights, edited: Weights, concepts: Tensor) -> Tensor:
    """‖(W − W₀)c‖ / ‖W₀c‖ of each concept, `(n,)` in float64; all its columns and layers as one.
    `edited` may come from any erasure that holds K and V, a trained one too."""
    change = {name: edited[name].double() - w.double() for name, w in original.items()}
    concepts = concepts.double()
    return norms(gram(change), concepts) / norms(gram(original), concepts)


def movement_by(s: Tensor, t: Tensor, concepts: Tensor) -> Tensor:
    """`movement` `(n,)` of the edit W = W₀T, from s = ΣW₀ᵀW₀ and T, both `(dim, dim)`."""
    return norms(s, concepts @ t.T - concepts) / norms(s, concepts)


def times(weights: Weights, t: Tensor) -> dict[str, Tensor]:
    """W₀T of every layer in float32; T `(dim, dim)` in float64."""
    return {name: (w.double() @ t.to(w.device)).float() for name, w in weights.items()}


def one_change(original: Weights, edited: Weights) -> Tensor | None:
    """T − 1 `(dim, dim)`, in float64, of an edit W' = W T of one T for all layers, such as a closed
    form, by least squares; None for any other."""
    w = torch.cat([w.double() for w in original.values()])
    moved = torch.cat([edited[name].to(w) for name in original]) - w
    # singular where there are fewer rows than the text has dimensions
    r = torch.linalg.pinv(w.T @ w, hermitian=True) @ (w.T @ moved)
    # a base in half precision is rounded by some percent of what moved; of others most is left
    return r if torch.dist(w @ r, moved) <= 0.03 * moved.norm() else None


def reversal(s: Tensor, t: Tensor, concepts: Tensor, anchors: Tensor) -> dict[str, float]:
    """What undoing T `(dim, dim)` takes: `cond`, its condition number, and `key`, the mean length
    of T⁻¹c, which undoes it exactly, by that of c. A singular T has no key; cond is then the most
    that float64 tells, 4.5e15, and `left` says how near the best of all embeddings comes: what it
    leaves of the values of c, by the way from c to its anchor. s = ΣW₀ᵀW₀."""
    cond, columns = min(float(torch.linalg.cond(t)), 2.0**52), concepts.flatten(0, -2).to(t)
    if cond < 1e12:
        longer = torch.linalg.solve(t, columns.T).norm(dim=0) / columns.norm(dim=1)
        return {"cond": cond, "key": longer.mean().item()}
    sizes, axes = torch.linalg.eigh(s)
    root = (axes * sizes.clamp(min=0).sqrt()).T  # s = rootᵀ root
    u, sizes, _ = torch.linalg.svd(root @ t)
    c, u = root @ columns.T, u[:, sizes > 1e-9 * sizes[0]]
    gap = root @ (concepts - anchors).flatten(0, -2).to(t).T
    return {"cond": cond, "left": ((c - u @ (u.T @ c)).norm() / gap.norm()).item()}


class KVPenalty:
    """All concepts held still in the weights: L2 on K and V instead of ẑ₀, at no evaluation.

    mean_c ‖(W' − W)c‖² / ‖Wc‖², the mean square of `movement`, is Σ_W tr(ΔW G ΔWᵀ) with one G
    `(dim, dim)` for any number of concepts `(n, columns, dim)`; so an update holds them all.
    """

    def __init__(self, original: Weights, concepts: Tensor) -> None:
        self.original, concepts = original, concepts.double()
        columns = (concepts / norms(gram(original), concepts)[:, None, None]).flatten(0, 1)
        self.g = (columns.T @ columns / len(concepts)).float()

    def __call__(self, student: Weights) -> Tensor:
        """The mean, a number with a gradient to the student's K and V."""
        changes = [student[name] - w for name, w in self.original.items()]
        return torch.stack([((d @ self.g) * d).sum() for d in changes]).sum()


def gram(weights: Weights) -> Tensor:
    """ΣWᵀW `(dim, dim)` over the layers, in float64."""
    return torch.stack([w.double().T @ w.double() for w in weights.values()]).sum(0)


def norms(s: Tensor, concepts: Tensor) -> Tensor:
    """√Σcᵀ s c over the columns of each concept, `(n,)`."""
    return ((concepts @ s) * concepts).flatten(1).sum(1).clamp(min=0).sqrt()


def kv_names(unet: nn.Module) -> list[str]:
    """Names of the weights of every cross-attention's K and V. Raises `EraseError` for none."""
    kind = family(unet)
    names = [name for name, _ in plain(unet).named_parameters() if name.endswith(kind.kv)]
    if names and not kind.flow:
        return names
    what = f"a {type(plain(unet)).__name__} has no K and V that hear the text alone"
    raise EraseError(f"{what}: choose another search than movement, and lam_kv 0")


def kv_weights(unet: nn.Module) -> dict[str, Tensor]:
    """The weights of every cross-attention's K and V, by name. Raises as `kv_names`."""
    with held(unet, "reading its weights"):
        return {name: plain(unet).get_parameter(name).detach() for name in kv_names(unet)}


def solve(
    weight: Tensor,
    erased: Tensor,
    values: Tensor,
    preserved: Tensor,
    ridge: float,
    erase_scale: float = 1.0,
    preserve_scale: float = 1.0,
) -> Tensor:
    """The weight `(out, dim)` that gives erased columns their values and leaves the preserved.

    W = (λW₀ + Σ_e v* cᵀ + Σ_p W₀ c cᵀ) (λI + Σ_e c cᵀ + Σ_p c cᵀ)⁻¹, the minimum of
    Σ_e ‖Wc − v*‖² + Σ_p ‖Wc − W₀c‖² + λ ‖W − W₀‖² (UCE: Gandikota et al. 2024, eq. 7). λ is
    `ridge`, the scales multiply the sums. `weight` `(out, dim)`, `erased` `(n_e, dim)`, `values`
    `(n_e, out)`, `preserved` `(n_p, dim)`. Raises `EraseError` for a singular matrix.
    """
    kept = preserve_scale * preserved.T @ preserved
    matrix = ridge * torch.eye(len(kept)).to(kept) + erase_scale * erased.T @ erased + kept
    right = ridge * weight + erase_scale * values.T @ erased + weight @ kept
    factor, failed = torch.linalg.cholesky_ex(matrix)
    largest = float(matrix.diagonal().max())
    # by rounding, a singular matrix may have a factor, with a pivot that ought to be 0
    rounding = 100 * len(matrix) * torch.finfo(matrix.dtype).eps * largest
    if failed or not factor.diagonal().square().min() > rounding:
        least = 1e-6 * largest + 4 * rounding
        raise EraseError(f"ridge is {ridge}: a singular matrix; expected at least {least:.1g}")
    return torch.cholesky_solve(right.T, factor).T
