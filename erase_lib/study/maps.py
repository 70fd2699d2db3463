"""Maps of concepts: where they lie in the space of text, and in the space of what is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from erase_lib.errors import EraseError, check_range
from erase_lib.files import check_keys
from erase_lib.measure import SmallCLIP
from erase_lib.models import Pipeline
from erase_lib.text import encode_prompts

PROJECTIONS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def text_space(pipe: Pipeline, concepts: Sequence[str]) -> np.ndarray:
    """Text embeddings of the bare words, flattened `(n, tokens · dim)`; distance in this space is
    what the published search calls near."""
    return encode_prompts(pipe, list(concepts)).flatten(1).cpu().numpy()


def image_space(
    clip: SmallCLIP, pictures: Sequence[Image.Image], drawn: Sequence[str], concepts: Sequence[str]
) -> np.ndarray:
    """Mean CLIP image features `(n, dim)` of each concept's pictures; `drawn` says which concept a
    picture is of. Raises `EraseError` for one without a picture."""
    if len(drawn) != len(pictures):
        raise EraseError(f"{len(drawn)} concepts of {len(pictures)} pictures: give one for each")
    features = pd.DataFrame(clip.image_features(pictures).numpy())
    mean = features.groupby(pd.Series(list(drawn))).mean()
    if lacking := [c for c in concepts if c not in mean.index]:
        raise EraseError(f"no picture of {lacking[0]!r}: draw every concept at least once")
    return mean.loc[list(concepts)].to_numpy()


def project(points: np.ndarray, method: str = "umap", seed: int = 0) -> np.ndarray:
    """Points `(n, dim)` on a plane `(n, 2)`, by one of `PROJECTIONS`. t-SNE and UMAP keep only
    neighbourhoods, not gaps or the sizes of clusters; UMAP differs between machines, even with a
    seed. Raises `EraseError` for an unknown method, fewer than 3 different points, and numbers that
    are not finite or too large or small to be told apart (t-SNE would end Python)."""
    check_keys([method], "projection", PROJECTIONS)
    check_range("seed", seed, 0, 2**32 - 1)
    points, n = np.asarray(points, dtype=float), len(points)
    if n < 3 or points.ndim != 2 or points.shape[1] < 2:
        raise EraseError(f"{n} concepts, shape {points.shape}, are no map: give 3 × 2 or more")
    if not 1e-12 < np.ptp(points, axis=0).max() < 1e12 or len(np.unique(points, axis=0)) < 3:
        raise EraseError("points are NaN, infinite or all but the same: expected 3 that differ")
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(points)
    if method == "tsne":
        near = min(30, (n - 1) / 3)
        return TSNE(2, perplexity=near, init="pca", random_state=seed).fit_transform(points)
    from umap import UMAP  # slow to import

    start = "spectral" if n > 4 else "random"  # its own start needs more
    map_ = UMAP(n_jobs=1, n_neighbors=min(15, n - 1), init=start, random_state=seed)
    return np.asarray(map_.fit_transform(points))


def nearness_rho(
    points: np.ndarray, concepts: Sequence[str], target: str, delta: pd.Series
) -> float:
    """Does nearness to the target in this space predict δ? Spearman's ρ between δ (by concept) and
    the negative distance of `points` `(n, dim)`; the target itself is left out."""
    names = list(concepts)
    check_keys([target], "concept of the map", names)
    near = pd.Series(-np.linalg.norm(points - points[names.index(target)], axis=1), names)
    others = [c for c in names if c != target and c in delta.index]
    if len(others) < 3:
        raise EraseError(f"δ of {len(others)} concepts on the map: a correlation needs 3 or more")
    return float(stats.spearmanr(near[others], delta[others]).statistic)
