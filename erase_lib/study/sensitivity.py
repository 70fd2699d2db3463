"""Sensitivity: δ, what an erasure does to every other concept, measured on pairs of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import stats

from erase_lib.concepts import concept_table
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError, unknown
from erase_lib.measure import (
    Judge,
    SmallCLIP,
    clip_score,
    draw,
    feature_distance,
    load_clip,
    picture_tensor,
    row_intervals,
    sensitivity_prompts,
)
from erase_lib.models import Pipeline
from erase_lib.text import distances, encode_prompts

SCORES = {
    "judge": "judge's probability of what was asked for, lost",
    "clip": "CLIP score, lost",
    "features": "CLIP image features, cosine distance",
    "pixels": "pixels, root mean square change",
}
"""What δ may be taken of. The first two are a loss, below 0 where the erasure helped; the others a
distance, that of the erased picture to the original one."""
STEPS = 8  # DDIM steps of a picture: enough for the judge; many pictures say more than fine ones


def pair_deltas(
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    prompts: pd.DataFrame,
    judge: Judge,
    clip: SmallCLIP,
) -> pd.DataFrame:
    """`prompts`, one row a pair of pictures, with δ by each of `SCORES` as a column.

    The judge's is NaN where it does not know the concept, as for a neutral one. δ(c) = score
    (original, c) − score(erased, c): Bui et al. 2024, §3.
    """
    known = prompts["concept"].isin(judge.concepts).to_numpy()
    column = np.full(len(prompts), 0)
    column[known] = judge.index(prompts["concept"][known])
    at = np.arange(len(prompts)), column
    seen = [judge.concept_probabilities(pictures).numpy()[at] for pictures in (before, after)]
    old, new = (clip.image_features(pictures) for pictures in (before, after))
    text = clip.text_features(list(prompts["prompt"]))
    change = (picture_tensor(after) - picture_tensor(before)) / 2  # 1: from black to white
    return prompts.assign(
        judge=np.where(known, seen[0] - seen[1], np.nan),
        clip=clip_score(old, text) - clip_score(new, text),
        features=feature_distance(old, new),
        pixels=change.pow(2).mean((1, 2, 3)).sqrt().numpy(),
    )


def measure_pairs(
    pipe: Pipeline,
    erasure: Erasure,
    prompts: pd.DataFrame,
    judge: Judge | None = None,
    clip: SmallCLIP | None = None,
    steps: int = STEPS,
    progress: bool = True,
) -> pd.DataFrame:
    """Draw the prompts with and without the erasure, from the same noise: `pair_deltas` of them.

    The original model's pictures are cached. 2 · steps evaluations of the UNet a picture. Raises
    `EraseError` when the erasure was made for another base model.
    """
    erasure.check(pipe)
    given = list(prompts["prompt"]), list(prompts["seed"]), steps
    before = draw(pipe, *given, progress=progress)
    after = draw(pipe, *given, progress=progress, erasure=erasure, keep=False)
    return pair_deltas(before, after, prompts, judge or Judge.load(), clip or load_clip())


def deltas(pairs: pd.DataFrame, score: str = "judge") -> pd.DataFrame:
    """δ of each concept: concept, delta, low, high (95 %), n (pictures); in the order of `pairs`.

    `pairs` as `pair_deltas` makes it. A concept that the score says nothing of is left out. The
    interval is a bootstrap over its pictures, NaN for a single one.
    """
    check_score(score)
    pairs = pairs.dropna(subset=[score, "concept"])
    if pairs.empty:
        raise EraseError(
            f"no pair of pictures has a score {score!r}: choose another, {', '.join(SCORES)}"
        )
    tables = []
    for n, part in pairs.groupby(pairs.groupby("concept")[score].transform("size")):
        names = part["concept"].unique()  # all with n pictures: one bootstrap for them together
        values = part.set_index("concept").loc[names, score].to_numpy(float).reshape(-1, n)
        low, high = row_intervals(values)
        found = {"concept": names, "delta": values.mean(1), "low": low, "high": high, "n": n}
        tables.append(pd.DataFrame(found))
    return pd.concat(tables).set_index("concept").loc[pairs["concept"].unique()].reset_index()


def sensitivity(
    pipe: Pipeline,
    erasure: Erasure,
    concepts: Sequence[str],
    score: str = "judge",
    pictures: int = 4,
    **given: Any,
) -> pd.DataFrame:
    """δ of each concept under an erasure: one row a concept.

    Columns: concept, category, distance (of the bare words' embeddings, to the nearest target),
    delta, low, high (95 %, bootstrap over pictures), n, score, measured_by. `given` goes to
    `measure_pairs`. Raises `EraseError` for an unknown score, one that says nothing of these
    concepts, and as `sensitivity_prompts` and `measure_pairs`.
    """
    check_score(score)
    judge = given["judge"] = given.get("judge") or Judge.load()
    clip = given["clip"] = given.get("clip") or load_clip()
    pairs = measure_pairs(pipe, erasure, sensitivity_prompts(concepts, pictures), **given)
    by = {"judge": judge.name, "clip": clip.name, "features": clip.name}
    table = deltas(pairs, score).assign(score=score, measured_by=by.get(score, score))
    every = encode_prompts(pipe, list(table["concept"]))
    targets = encode_prompts(pipe, list(erasure.config.targets))
    nearest = np.min([distances(every, target[None]).cpu().numpy() for target in targets], axis=0)
    category = table["concept"].map(concept_table().set_index("concept")["category"])
    table.insert(1, "category", category)
    table.insert(2, "distance", nearest)
    return table


def reliability(pairs: pd.DataFrame, score: str, splits: int = 50, seed: int = 0) -> float:
    """How well δ agrees with itself: Spearman's ρ between the concepts' δ from two halves of their
    pictures, the mean of random splits, stepped up to all pictures (Spearman–Brown).

    No prediction can be expected to correlate better than its root. The concepts need the same
    number of pictures, at least two; others raise `EraseError`.
    """
    check_score(score)
    values = pairs.dropna(subset=[score])
    sizes = values.groupby("concept").size()
    if len(sizes) < 3 or sizes.nunique() != 1 or sizes.iloc[0] < 2:
        raise EraseError(
            "reliability needs 3 concepts or more, with equally many pictures, 2 at least"
        )
    wide = values.sort_values("concept")[score].to_numpy().reshape(len(sizes), -1)
    rng, found = np.random.default_rng(seed), []
    half = wide.shape[1] // 2
    for _ in range(splits):
        mixed = rng.permuted(wide, axis=1)
        found.append(stats.spearmanr(mixed[:, :half].mean(1), mixed[:, half:].mean(1)).statistic)
    rho = float(np.mean(found))
    return 2 * rho / (1 + rho)


def check_score(score: str) -> None:
    """Raise `EraseError` unless it is one of `SCORES`."""
    if score not in SCORES:
        raise unknown("score", score, SCORES)
