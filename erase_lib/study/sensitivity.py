"""Sensitivity: δ, what an erasure does to every other concept, measured on pairs of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from erase_lib import measure
from erase_lib.concepts import concept_table, normal
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError, unknown
from erase_lib.measure.judges import ranks
from erase_lib.measure.pictures import Told, portion
from erase_lib.measure.statistics import chance
from erase_lib.models import Pipeline
from erase_lib.text import distances_each

SCORES = {
    "judge": "judge's probability of what was asked for, lost",
    "clip": "CLIP score, lost",
    "features": "CLIP image features, cosine distance",
    "pixels": "pixels, root mean square change",
}
"""What δ may be taken of: a loss, below 0 where the erasure helped, or a distance."""
STEPS = 8  # DDIM steps of a picture: enough for the judge; many pictures say more than fine ones


def measure_pairs(
    pipe: Pipeline,
    erasure: Erasure,
    prompts: pd.DataFrame,
    judge: measure.Classifier | None = None,
    clip: measure.SmallCLIP | None = None,
    steps: int = STEPS,
    progress: Told = True,
) -> pd.DataFrame:
    """Draw the prompts with and without the erasure, from the same noise: `prompts` with δ by each
    of `SCORES` as a column, the judge's NaN where it does not know the concept.
    δ(c) = score(original, c) − score(erased, c): Bui et al. 2024, §3. The original model's pictures
    are cached. 2 · steps evaluations of the UNet a picture. Raises `EraseError` when the erasure
    was made for another base model."""
    erasure.check(pipe)
    judge, clip = judge or measure.World(pipe).judge, clip or measure.World(pipe).clip
    given = list(prompts["prompt"]), list(prompts["seed"]), steps
    how: dict[str, Any] = {"erasure": erasure, "keep": False}
    before = measure.draw(pipe, *given, progress=portion(progress, 0, 2))
    after = measure.draw(pipe, *given, progress=portion(progress, 1, 2), **how)
    columns = np.array([judge.place.get(normal(c), -1) for c in prompts["concept"]], dtype=int)
    told = (judge.concept_probabilities(pictures).numpy() for pictures in (before, after))
    first, second = (ranks(likely, columns)[1] for likely in told)
    old, new = (clip.image_features(pictures) for pictures in (before, after))
    text = clip.text_features(list(prompts["prompt"]))
    # 1: from black to white
    change = (measure.picture_tensor(after) - measure.picture_tensor(before)) / 2
    return prompts.assign(
        judge=first - second,
        clip=measure.clip_score(old, text) - measure.clip_score(new, text),
        features=measure.feature_distance(old, new),
        pixels=change.pow(2).mean((1, 2, 3)).sqrt().numpy(),
    )


def deltas(pairs: pd.DataFrame, score: str = "judge") -> pd.DataFrame:
    """δ of each concept of `measure_pairs` that has this score: concept, delta, low, high (95 %,
    bootstrap over its pictures, NaN for a single one), n (pictures); in the order of `pairs`."""
    check_score(score)
    pairs, tables = pairs.dropna(subset=[score, "concept"]), []
    if pairs.empty:
        raise EraseError(f"no pair has a score {score!r}: choose another, {', '.join(SCORES)}")
    for n, part in pairs.groupby(pairs.groupby("concept")[score].transform("size")):
        names = part["concept"].unique()  # all with n pictures: one bootstrap for them together
        values = part.set_index("concept").loc[names, score].to_numpy(float).reshape(-1, n)
        low, high = measure.row_intervals(values)
        columns = {"concept": names, "delta": values.mean(1), "low": low, "high": high, "n": n}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables).set_index("concept").loc[pairs["concept"].unique()].reset_index()


def sensitivity(
    pipe: Pipeline,
    erasure: Erasure,
    concepts: Sequence[str],
    score: str = "judge",
    pictures: int = 4,
    **given: Any,
) -> pd.DataFrame:
    """`deltas` of an erasure with category, distance (of bare words' embeddings, to the nearest
    target), score and measured_by. `given` goes to `measure_pairs`. Raises `EraseError` as these
    and `sensitivity_prompts`."""
    check_score(score)
    world = measure.World(pipe, erasure.config.targets)
    judge = given["judge"] = given.get("judge") or world.judge
    clip = given["clip"] = given.get("clip") or world.clip
    prompts = measure.sensitivity_prompts(concepts, pictures, styles=world.styles)
    pairs = measure_pairs(pipe, erasure, prompts, **given)
    by = {"judge": judge.name, "clip": clip.name, "features": clip.name}
    table = deltas(pairs, score).assign(score=score, measured_by=by.get(score, score))
    apart = distances_each(pipe, list(table["concept"]), erasure.config.targets)
    known = concept_table().set_index("concept")["category"]
    table.insert(1, "category", table["concept"].map(known))
    table.insert(2, "distance", np.min([d.cpu().numpy() for d in apart], axis=0))
    return table


def reliability(pairs: pd.DataFrame, score: str, seed: int = 0) -> float:
    """How well δ agrees with itself: Spearman's ρ between the concepts' δ from two halves of their
    pictures, the mean of 50 random splits, stepped up to all of them (Spearman–Brown). No
    prediction can be expected to correlate better than its root. Raises `EraseError` for less than
    3 concepts, with equally many pictures, at least 2."""
    check_score(score)
    values = pairs.dropna(subset=[score])
    sizes = values.groupby("concept").size()
    if len(sizes) < 3 or sizes.nunique() != 1 or sizes.iloc[0] < 2:
        raise EraseError("reliability needs 3 concepts, with equally many pictures, 2 or more each")
    wide = values.sort_values("concept")[score].to_numpy().reshape(len(sizes), -1)
    rng, half = chance(seed), wide.shape[1] // 2
    mixed = (rng.permuted(wide, axis=1) for _ in range(50))
    found = [stats.spearmanr(m[:, :half].mean(1), m[:, half:].mean(1)).statistic for m in mixed]
    rho = float(np.mean(found))
    return 2 * rho / (1 + rho)


def check_score(score: str) -> None:
    """Raise `EraseError` unless it is one of `SCORES`."""
    if score not in SCORES:
        raise unknown("score", score, SCORES)
