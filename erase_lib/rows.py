"""From pictures to rows: what each shows, and what that says of an erasure, with n, an interval and
what measured it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from erase_lib.instruments import Instruments, real_pictures
from erase_lib.intervals import bootstrap, paired
from erase_lib.judge import Judge, ranks
from erase_lib.metrics import likelihoods
from erase_lib.quality import perceptual, set_distances
from erase_lib.suites import Suite

COLUMNS = ["suite", "group", "metric", "model", "value", "low", "high"]
COLUMNS += ["n", "prompts", "seeds", "measured_by", "note", "seconds"]

FEWEST = 3  # prompts, of which one can be left out and still a set remain


def summarise(
    suite: Suite,
    prompts: pd.DataFrame,
    before: list[Image.Image],
    after: list[Image.Image],
    instruments: Instruments,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a picture, and the tidy rows of `COLUMNS`.

    Both lists have a picture a row of `prompts` (`suites.suite_prompts`), drawn from the same
    noise. Models: original, erased, and difference (erased − original, picture by picture).
    Intervals are 95 %: bootstrap over prompts, for FID and KID `intervals.jackknife` over them.
    `distance` is that of the erased picture to the original one.
    """
    spent: dict[str, float] = {}
    found = [
        _found(suite, prompts, pictures, instruments, spent).assign(model=model)
        for model, pictures in (("original", before), ("erased", after))
    ]
    begin = time.perf_counter()
    apart, name = perceptual(before, after, instruments.clip, instruments.net)
    spent["distance"] = time.perf_counter() - begin
    found[0]["distance"], found[1]["distance"] = 0.0, apart
    by = {"rank": instruments.classifier.name, "style_rank": instruments.classifier.name}
    by |= {"clip": instruments.clip.name, "distance": name}
    by |= {"score": instruments.detector.name if instruments.detector else ""}
    rows: list[dict[str, Any]] = []
    for group, of in suite.groups.items():
        part = (prompts["group"] == group).to_numpy()
        if not part.any():  # no word for these targets
            continue
        old, new = (table[part] for table in found)
        common = {"suite": suite.name, "group": group} | counted(old)
        for metric in of.metrics:
            if metric in ("FID", "KID"):
                continue
            for label, column, values in _values(metric, suite, old, new):
                share = spent.get(column, 0) * part.mean()
                about = common | {"metric": label, "measured_by": by[column], "note": ""}
                rows += _models(about, values, old["prompt"], share)
        if {"FID", "KID"} & set(of.metrics):
            at = np.flatnonzero(part)
            if old["prompt"].nunique() < FEWEST:
                warnings.warn(
                    f"FID and KID of group {group!r} left out: {len(at)} pictures of"
                    f" {old['prompt'].nunique()} prompts, expected of {FEWEST} or more",
                    stacklevel=2,
                )
                continue
            pictures = ([before[i] for i in at], [after[i] for i in at])
            some = _sets(prompts[part], pictures, instruments)
            rows += [common | row for row in some if row["metric"] in of.metrics]
    names = "; ".join(filter(None, dict.fromkeys(by.values())))
    pictures = pd.concat(found, ignore_index=True).assign(measured_by=names)
    return pictures, pd.DataFrame(rows, columns=COLUMNS)


def counted(table: pd.DataFrame) -> dict[str, Any]:
    """n, prompts and seeds of a table with a row a picture."""
    seeds = ", ".join(map(str, sorted(table["seed"].unique())[:8]))
    return {"n": len(table), "prompts": table["prompt"].nunique(), "seeds": seeds}


def _found(
    suite: Suite,
    prompts: pd.DataFrame,
    pictures: Sequence[Image.Image],
    instruments: Instruments,
    spent: dict[str, float],
) -> pd.DataFrame:
    """The prompts with rank, probability, seen (of the concept), style_rank, style_seen, clip and
    score, each where it can be told."""
    table = prompts.copy()
    begin = time.perf_counter()
    judge = instruments.classifier
    likely, of_style = likelihoods(judge, pictures)
    table["seen"] = [judge.concepts[i] for i in likely.argmax(1)]
    counts = {
        g for g, of in suite.groups.items() if any(m[:3] in ("ESR", "PSR") for m in of.metrics)
    }
    known = (table["group"].isin(counts) & table["concept"].notna()).to_numpy(copy=True)
    columns = judge.index(table["concept"][known])
    table["rank"], table["probability"] = np.nan, np.nan
    table.loc[known, "rank"] = ranks(likely[known], columns)
    table.loc[known, "probability"] = likely[np.flatnonzero(known), columns]
    if of_style is not None and isinstance(judge, Judge) and table["style"].notna().any():
        table["style_seen"] = [judge.styles[i] for i in of_style.argmax(1)]
        named = table["style"].isin(judge.styles).to_numpy()
        wanted = np.array([judge.styles.index(s) for s in table["style"][named]])
        table["style_rank"] = np.nan
        table.loc[named, "style_rank"] = ranks(of_style[named], wanted)
    spent["rank"] = spent.get("rank", 0) + time.perf_counter() - begin
    begin = time.perf_counter()
    text = instruments.clip.text_features(list(table["prompt"]))
    fit = (instruments.clip.image_features(pictures) * text).sum(1)
    table["clip"] = 100 * fit.clamp(min=0).numpy()
    spent["clip"] = spent.get("clip", 0) + time.perf_counter() - begin
    if instruments.detector is not None:
        begin = time.perf_counter()
        table["score"] = instruments.detector.scores(pictures)
        spent["score"] = spent.get("score", 0) + time.perf_counter() - begin
    return table


def _values(
    metric: str, suite: Suite, old: pd.DataFrame, new: pd.DataFrame
) -> list[tuple[str, str, list[np.ndarray]]]:
    """Label, the column it comes from, and its value for each picture before and after."""
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
    column = "style_rank" if metric.endswith(" style") else "rank"
    right = [(t[column] < int(k)).to_numpy(float) for t in tables]
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
    prompts: pd.DataFrame, pictures: tuple[list[Image.Image], list[Image.Image]], given: Instruments
) -> list[dict[str, Any]]:
    """FID and KID of the pictures before and after."""
    begin = time.perf_counter()
    real, against = given.reference or real_pictures(prompts), "real pictures"
    drawn = dict(zip(("original", "erased"), pictures, strict=True))
    if real is None:
        real, against = drawn.pop("original"), "the unedited model's pictures"
    features: torch.Tensor = given.clip.image_features(real)
    rows: list[dict[str, Any]] = []
    for model, some in drawn.items():
        of = given.clip.image_features(some)
        found = set_distances(features, of, list(prompts["prompt"]), given.clip.name)
        found["measured_by"] = found["measured_by"] + f", against {len(real)} {against}"
        rows += found.drop(columns="n").assign(model=model).to_dict("records")
    seconds = (time.perf_counter() - begin) / len(rows)
    return [row | {"seconds": seconds} for row in rows]
