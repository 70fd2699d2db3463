"""Concept lists, vocabularies, prompt templates, and the candidates of the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from erase_lib.errors import EraseError
from erase_lib.paths import DATA

EMOJI = DATA / "emoji"


def concept_table() -> pd.DataFrame:
    """The concepts of the embedded model: concept, category, subgroup, keywords, codepoint."""
    return pd.read_csv(EMOJI / "concepts.csv", keep_default_na=False)


def vocabulary(name: str) -> list[str]:
    """Words to search: `concepts`, `english` (3,000 common words), or a file with a word a line.

    Raises `EraseError` for a file that does not exist or holds no words.
    """
    if name == "concepts":
        return concept_table()["concept"].tolist()
    if name == "english":
        return pd.read_csv(EMOJI / "vocabulary.csv", keep_default_na=False)["word"].tolist()
    path = Path(name)
    if not path.is_file():
        raise EraseError(f"vocabulary {name!r}: expected concepts, english or a text file's path")
    words = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not words:
        raise EraseError(f"vocabulary {name!r} is empty: expected one word a line")
    return words


def prompts_of(concept: str, styles: tuple[str, ...] = ()) -> list[str]:
    """Training prompts of a concept: the bare word, and with `styles` the forms people use."""
    if not styles or not concept:
        return [concept]
    plain = [concept, f"a {concept}", f"a picture of a {concept}"]
    return plain + [f"a {concept} in {style} style" for style in styles]


def distances(embeddings: Tensor, target: Tensor) -> Tensor:
    """L2 distance `(n,)` of embeddings `(n, tokens, dim)` to the target's `(1, tokens, dim)`."""
    return (embeddings - target).flatten(1).norm(dim=1)


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
