"""What is near a target, far from it, or a candidate of the search, by the text encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from erase_lib.concepts import check_concepts, concept_table, is_style, style_names
from erase_lib.errors import EraseError
from erase_lib.models import Pipeline, encode_prompts


def distances(embeddings: Tensor, target: Tensor) -> Tensor:
    """L2 distance `(n,)` of embeddings `(n, tokens, dim)` to the target's `(1, tokens, dim)`."""
    return (embeddings - target).flatten(1).norm(dim=1)


def near_and_far(
    pipe: Pipeline,
    targets: Sequence[str],
    near: int = 10,
    far: int = 50,
    seed: int = 0,
    words: Sequence[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Kept concepts for PSR near and far: the nearest to the targets, and others drawn with a seed.

    Nearness is the mean of `distances` to the targets' bare words. `words` (default: the concepts
    of the embedded model) are what both lists are taken from, targets excepted; the near come
    nearest first, the far in the order of `words`. Give the near to `metrics.summary`, which calls
    the other concepts far. Raises `EraseError` for no target, or too few words.
    """
    if not targets or isinstance(targets, str):
        raise EraseError(f"targets is {targets!r}: expected a list of concepts, such as ['church']")
    pool = concept_table()["concept"].tolist() if words is None else list(dict.fromkeys(words))
    kept = [word for word in pool if word not in targets]
    if min(near, far) < 0 or near + far > len(kept):
        raise EraseError(
            f"{near} near and {far} far concepts: expected 0 or more, and together at most the"
            f" {len(kept)} that are no targets"
        )
    if not kept:
        return [], []
    every = encode_prompts(pipe, kept)
    apart = torch.stack([distances(every, encode_prompts(pipe, [t])) for t in targets]).mean(0)
    order = apart.argsort(stable=True).tolist()
    drawn = np.random.default_rng(seed).choice(sorted(order[near:]), far, replace=False)
    return [kept[i] for i in order[:near]], [kept[i] for i in sorted(drawn)]


def near_each(pipe: Pipeline, targets: Sequence[str], words: Sequence[str], most: int) -> list[str]:
    """The `most` words nearest to each of the targets, by `distances` of the bare words; one
    that is near to two stands there once."""
    every = encode_prompts(pipe, list(words))
    found: dict[str, None] = {}
    for target in targets:
        order = distances(every, encode_prompts(pipe, [target])).argsort(stable=True)
        found |= dict.fromkeys(words[i] for i in order[:most].tolist())
    return list(found)


def evaluation_prompts(
    pipe: Pipeline, targets: Sequence[str], near: int = 10, far: int = 50, seed: int = 0
) -> pd.DataFrame:
    """What ESR and PSR are measured on: prompt, concept, style, group (target, near, far), seed.

    Each target twice in every style, the `near` in two styles, the `far` in one. The pictures'
    seeds are 1000, 1001, …: every model draws the same prompts from the same noise. Raises
    `EraseError` for a target that is no concept of the embedded model, and as `near_and_far`.
    """
    check_concepts(targets)
    if styled := [target for target in targets if is_style(target)]:
        raise EraseError(f"target {styled[0]!r} is a style: expected objects, such as ['church']")
    styles = style_names()
    close, others = near_and_far(pipe, targets, near, far, seed)
    asked = [(c, s, "target") for c in targets for s in 2 * styles]
    asked += [(c, styles[(i + k) % 4], "near") for i, c in enumerate(close) for k in (0, 2)]
    asked += [(c, styles[i % 4], "far") for i, c in enumerate(others)]
    table = pd.DataFrame(asked, columns=["concept", "style", "group"])
    table.insert(0, "prompt", "a " + table["concept"] + " in " + table["style"] + " style")
    return table.assign(seed=range(1000, 1000 + len(table)))


def spread_candidates(
    embeddings: Tensor, target: Tensor, nearest: int, keep: int, thinning: str, seed: int
) -> list[int]:
    """Indices of the `nearest` embeddings to the target, thinned to about `keep`.

    `distance` clusters the 1-D distances, as the published code does; `meaning` clusters the
    embeddings. The member nearest to each cluster's centre stands for it.
    """
    d = distances(embeddings, target)
    order = d.argsort()[:nearest]
    if len(order) <= keep:
        return [int(i) for i in order]
    points = d[order, None] if thinning == "distance" else embeddings[order].flatten(1)
    x = points.cpu().numpy().astype(np.float64)
    means = KMeans(n_clusters=keep, n_init=1, random_state=seed).fit(x)
    gap = torch.from_numpy(np.linalg.norm(x - means.cluster_centers_[means.labels_], axis=1))
    chosen = [
        int(order[members[gap[members].argmin()]])
        for k in range(keep)
        if len(members := torch.from_numpy(np.flatnonzero(means.labels_ == k)))
    ]
    return sorted(chosen, key=lambda i: float(d[i]))
