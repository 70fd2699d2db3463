"""From pictures to tidy rows: what they say of an erasure, with n, an interval and what measured
it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from erase_lib.errors import EraseError
from erase_lib.measure.distances import perceptual, set_distances
from erase_lib.measure.instruments import Instruments, real_pictures
from erase_lib.measure.look import look
from erase_lib.measure.statistics import bootstrap, paired
from erase_lib.measure.suite import Suite

COLUMNS = ["suite", "group", "metric", "model", "value", "low", "high"]
COLUMNS += ["n", "prompts", "seeds", "measured_by", "note", "seconds"]

FEWEST = 3  # prompts, of which one can be left out and still a set remain


def summarise(
    suite: Suite,
    prompts: pd.DataFrame,
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    instruments: Instruments,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a picture, and the tidy rows of `COLUMNS`.

    Both lists have a picture a row of `prompts` (`suites.suite_prompts`), drawn from the same
    noise. Models: original, erased, and difference (erased − original, picture by picture).
    Intervals are 95 %: bootstrap over prompts, for FID and KID `intervals.jackknife` over them.
    `distance` is that of the erased picture to the original one. ESR and PSR are of the pictures
    whose prompt names a concept, or a style. Raises `EraseError` where none does.
    """
    spent: dict[str, float] = {}
    (first, features), (second, edited) = (
        look(suite, prompts, pictures, instruments, spent) for pictures in (before, after)
    )
    found = [first.assign(model="original"), second.assign(model="erased")]
    begin = time.perf_counter()
    apart, name = perceptual(before, after, instruments.clip, instruments.net)
    spent["distance"] = time.perf_counter() - begin
    found[0]["distance"], found[1]["distance"] = 0.0, apart
    by = {"rank": instruments.classifier.name, "style_rank": instruments.classifier.name}
    by |= {"clip": instruments.clip.name, "distance": name}
    by |= {"score": instruments.detector.name if instruments.detector else ""}
    rows: list[dict[str, Any]] = []
    for group, of in suite.groups.items():
        part = (prompts["group"] == group).to_numpy(copy=True)
        if not part.any():  # no word for these targets
            continue
        old, new = (table[part] for table in found)
        common = {"suite": suite.name, "group": group}
        for metric in of.metrics:
            if metric in ("FID", "KID"):
                continue
            for label, column, values in _values(metric, suite, old, new):
                share = spent.get(column, 0) * part.mean()
                told = ~np.isnan(values[0])
                about = common | counted(old[told])
                about |= {"metric": label, "measured_by": by[column], "note": ""}
                rows += _models(about, [v[told] for v in values], old["prompt"][told], share)
        if {"FID", "KID"} & set(of.metrics):
            some = _sets(prompts[part], features[part], edited[part], instruments)
            of_all = common | counted(old)
            rows += [of_all | row for row in some if row["metric"] in of.metrics]
    names = "; ".join(filter(None, dict.fromkeys(by.values())))
    pictures = pd.concat(found, ignore_index=True).assign(measured_by=names)
    return pictures, pd.DataFrame(rows, columns=COLUMNS)


def counted(table: pd.DataFrame) -> dict[str, Any]:
    """n, prompts and seeds of a table with a row a picture."""
    seeds = ", ".join(map(str, sorted(table["seed"].unique())[:8]))
    return {"n": len(table), "prompts": table["prompt"].nunique(), "seeds": seeds}


def _values(
    metric: str, suite: Suite, old: pd.DataFrame, new: pd.DataFrame
) -> list[tuple[str, str, list[np.ndarray]]]:
    """Label, the column it comes from, and its value for each picture before and after; NaN where
    ESR and PSR have nothing to count."""
    tables = (old, new)
    if metric == "NER":
        return [
            (f"NER-{τ:g}", "score", [(t["score"] > τ).to_numpy(float) for t in tables])
            for τ in suite.thresholds
        ]
    if metric in ("CLIP score", "distance"):
        column = "clip" if metric == "CLIP score" else "distance"
        return [(metric, column, [t[column].to_numpy(float) for t in tables])]
    kind, _, k = metric.removesuffix(" style").partition("-")
    name = "style" if metric.endswith(" style") else "concept"
    column = "style_rank" if name == "style" else "rank"
    if column not in old or old[column].isna().all():
        raise EraseError(
            f"suite {suite.name!r}, group {old['group'].iloc[0]!r} counts {metric}, but no prompt"
            f" names a {name} that is known: leave the metric out"
        )
    right = [(t[column] < int(k)).where(t[column].notna()).to_numpy(float) for t in tables]
    return [(metric, column, right if kind == "PSR" else [1 - r for r in right])]


def _models(
    about: dict[str, Any], values: Sequence[np.ndarray], prompts: pd.Series, seconds: float
) -> list[dict[str, Any]]:
    """The rows original, erased and difference of one metric."""
    old, new = values
    groups = prompts.to_numpy()
    spans = {"original": (old.mean(), *bootstrap(old, groups))}
    spans["erased"] = (new.mean(), *bootstrap(new, groups))
    spans["difference"] = ((new - old).mean(), *paired(old, new, groups))
    if about["metric"] == "distance":  # of the erased picture to the original one
        spans = {"erased": spans["erased"]}
    return [
        about | {"model": model, "value": value, "low": low, "high": high, "seconds": seconds}
        for model, (value, low, high) in spans.items()
    ]


def _sets(
    prompts: pd.DataFrame, before: Tensor, after: Tensor, given: Instruments
) -> list[dict[str, Any]]:
    """FID and KID before and after, from features `(n, dim)`."""
    if prompts["prompt"].nunique() < FEWEST:
        warnings.warn(
            f"FID and KID of group {prompts['group'].iloc[0]!r} left out: {len(prompts)} pictures"
            f" of {prompts['prompt'].nunique()} prompts, expected of {FEWEST} or more",
            stacklevel=3,
        )
        return []
    begin = time.perf_counter()
    # a picture given twice, for another seed, would bias KID
    named = prompts.drop_duplicates(["concept", "style"])
    own = real_pictures(named) if len(named) > 1 else None
    pictures, against = given.reference or own, "real pictures"
    drawn = {"original": before, "erased": after}
    if pictures is None:
        real, against = drawn.pop("original"), "pictures of the unedited model"
    else:
        real = given.clip.image_features(pictures)
    rows: list[dict[str, Any]] = []
    for model, of in drawn.items():
        found = set_distances(real, of, list(prompts["prompt"]), given.clip.name)
        found["measured_by"] = found["measured_by"] + f", against {len(real)} {against}"
        rows += found.drop(columns="n").assign(model=model).to_dict("records")
    seconds = (time.perf_counter() - begin) / len(rows)
    return [row | {"seconds": seconds} for row in rows]
