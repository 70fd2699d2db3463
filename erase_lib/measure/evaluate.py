"""What an erasure does: from verdicts to rates and rows, on any table of prompts or on a suite."""

from __future__ import annotations

import time
import warnings
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from erase_lib.concepts import is_style, normal
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError
from erase_lib.files import as_path, sought, whole, writing
from erase_lib.measure.distances import clip_score, perceptual, set_distances
from erase_lib.measure.eye import BOTH, Eye
from erase_lib.measure.instruments import Instruments, load_instruments
from erase_lib.measure.judges import Classifier, by_style, check_columns, verdicts
from erase_lib.measure.pictures import Images, Told, draw, portion, real_pictures
from erase_lib.measure.prompts import suite_prompts, target_prompts
from erase_lib.measure.statistics import bootstrap, worst
from erase_lib.measure.suite import Suite
from erase_lib.measure.world import World
from erase_lib.models import Pipeline

Row = dict[str, Any]
VALUES = ["metric", "model", "value", "low", "high", "n", "prompts", "seeds", "measured_by"]
COLUMNS = ["suite", "group", *VALUES, "note", "seconds"]
MODELS = ("original", "erased", "difference")
STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
FEWEST = 3  # prompts, of which one can be left out and still a set remain


def successes(metric: str, table: pd.DataFrame) -> np.ndarray:
    """Whether each picture of verdicts counts for a rate, 1 or 0 `(n,)`; NaN where its rank is.
    ESR-k: what was asked for is *not* among the k likeliest; PSR-k: it is. "… style" is of the
    ranks of styles; "… judge+eye": and to the eye too it is gone, by the column eye."""
    column = "style_rank" if " style" in metric else "rank"
    rank, (kind, _, k) = table[column], metric.split()[0].partition("-")
    seen = (rank < int(k)).where(rank.notna()).to_numpy(float)
    found = 1 - seen if kind == "ESR" else seen
    return found * table["eye"].to_numpy(float) if metric.endswith(BOTH) else found


def compared(
    about: Row, old: np.ndarray, new: np.ndarray, table: pd.DataFrame, seconds: Sequence[float]
) -> list[Row]:
    """The rows original, erased and difference (erased − original) of a metric's values `(n,)`
    before and after, picture by picture: value, low, high (95 %, bootstrap over prompts), n,
    prompts, seeds, seconds. `table` says prompt and seed, `about` what the rows share."""
    about = _counted(table) | about
    rows = []
    for model, values, spent in zip(MODELS, (old, new, new - old), seconds, strict=True):
        low, high = bootstrap(values, table["prompt"].to_numpy())
        row = {"model": model, "value": values.mean(), "low": low, "high": high, "seconds": spent}
        rows.append(about | row)
    return rows


def _counted(table: pd.DataFrame) -> Row:
    """n, prompts and seeds of a table with a row a picture."""
    seeds = ", ".join(map(str, sorted(table["seed"].unique())[:8]))
    return {"n": len(table), "prompts": table["prompt"].nunique(), "seeds": seeds}


def summary(
    verdicts_before: pd.DataFrame,
    verdicts_after: pd.DataFrame,
    targets: Iterable[str],
    near: Iterable[str] = (),
    k: int = 1,
) -> pd.DataFrame:
    """ESR-k of the targets (and by judge+eye, if the later verdicts have a column `eye`), PSR-k of
    all other concepts: near the targets, far from them, together. For each that has pictures the
    rows of `compared`, where seeds is their number. Raises `EraseError` unless both tables hold the
    same prompts and seeds, each once."""
    key = ["prompt", "concept", "seed"]
    both = [t.sort_values(key).reset_index(drop=True) for t in (verdicts_before, verdicts_after)]
    if not both[0][key].equals(both[1][key]) or both[0].duplicated(key).any():
        raise EraseError("verdicts before and after must hold the same prompts and seeds, once")
    for table in both:
        check_columns(table, words=["concept"], numbers=["rank", "seconds"])
    concept, name = both[0]["concept"].map(normal), both[1]["measured_by"].iloc[0]
    gone = concept.isin(list(map(normal, targets)))
    close = concept.isin(list(map(normal, near))) & ~gone
    parts = {f"ESR-{k}": gone}
    if "eye" in both[1]:
        both[0]["eye"], parts = 0.0, parts | {f"ESR-{k}{BOTH}": gone}
    parts |= {f"PSR-{k} near": close, f"PSR-{k} far": ~gone & ~close}
    rows = []
    for metric, part in (parts | {f"PSR-{k}": ~gone}).items():
        if part.any():
            some = [t[part] for t in both]
            old, new = (successes(metric, t) for t in some)
            spent = [float(t["seconds"].sum()) for t in some]
            about = {"metric": metric, "measured_by": name, "seeds": some[0]["seed"].nunique()}
            rows += compared(about, old, new, some[0], (*spent, sum(spent)))
    return pd.DataFrame(rows, columns=[*VALUES, "seconds"])


def delta_summary(prompts: pd.DataFrame, delta: pd.Series) -> dict[str, float]:
    """What δ, a picture a row of `prompts`, comes to: "delta GROUP", the mean of each group; and of
    the concepts that are no targets "delta mean", and "delta worst", of the `worst` 5 %."""
    found = {f"delta {group}": some.mean() for group, some in delta.groupby(prompts["group"])}
    kept = delta.groupby(prompts["concept"][prompts["group"] != "target"]).mean()
    found |= {"delta mean": kept.mean(), "delta worst": worst(kept.tolist())}
    return {name: round(float(value), 4) for name, value in found.items()}


def suite_rows(
    suite: Suite, prompts: pd.DataFrame, before: Images, after: Images, instruments: Instruments
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The verdicts, a row a picture, and the rows of `COLUMNS`, of a picture a row of `prompts`
    before and after. Verdicts also have clip (score), score (of the detector; "score NAME" of a
    further one, whose rows are "NER-τ NAME"), distance (of the erased picture to the original) and,
    where the suite asks, eye (`Eye.gone`).
    Intervals as in `compared`; of FID and KID `jackknife`. ESR and PSR are of prompts that name a
    concept, or a style; `EraseError` if none does."""
    spent: dict[str, float] = defaultdict(float)
    old, features = _told(suite, prompts, before, instruments, spent)
    new, edited = _told(suite, prompts, after, instruments, spent)
    begin = time.perf_counter()
    apart, name = perceptual(before, after, instruments.clip, instruments.net)
    spent["distance"] = time.perf_counter() - begin
    old = old.assign(model="original", distance=0.0)
    new = new.assign(model="erased", distance=apart)
    by = dict.fromkeys(("rank", "style_rank"), instruments.classifier.name)
    if instruments.eye:
        named = [n for n, g in suite.groups.items() if any(f" style{BOTH}" in m for m in g.metrics)]
        styled = prompts["group"].isin(named).to_numpy()
        old["eye"] = 0.0
        new["eye"] = instruments.eye.gone(before, after, styled, (features, edited))
        by["eye"] = f"{instruments.classifier.name}; {instruments.eye.name}"
    by |= {"clip": instruments.clip.name, "distance": name}
    by |= {column: detector.name for column, detector in instruments.detectors.items()}
    rows: list[Row] = []
    for group, of in suite.groups.items():
        part = (prompts["group"] == group).to_numpy(copy=True)
        if not part.any():  # no word for these targets
            continue
        common = {"suite": suite.name, "group": group, "note": ""}
        for metric in of.metrics:
            later = _values(metric, suite, new[part])
            for label, (column, first) in _values(metric, suite, old[part]).items():
                told = ~np.isnan(first)
                about = common | {"metric": label, "measured_by": by[column]}
                pair = first[told], later[label][1][told]
                share = (spent[column] * part.mean(),) * 3
                found = compared(about, *pair, old[part][told], share)
                rows += found[1:2] if metric == "distance" else found  # of the original it is 0
        if {"FID", "KID"} & set(of.metrics):
            sets = _sets(prompts[part], features[part], edited[part], instruments)
            about = _counted(old[part]) | common
            rows += [about | row for row in sets if row["metric"] in of.metrics]
    names = "; ".join(filter(None, dict.fromkeys(by.values())))
    pictures = pd.concat([old, new], ignore_index=True).assign(measured_by=names)
    return pictures, pd.DataFrame(rows, columns=COLUMNS)


def _told(
    suite: Suite, prompts: pd.DataFrame, shown: Images, given: Instruments, spent: dict[str, float]
) -> tuple[pd.DataFrame, Tensor]:
    """Every instrument's word on each picture, CLIP features `(n, dim)`; `spent` gets seconds."""
    ranking = [name for name, of in suite.groups.items() if of.ranks]
    ranked = (prompts["group"].isin(ranking) & prompts["concept"].notna()).to_numpy(copy=True)
    table = verdicts(given.classifier, shown, prompts, ranked=ranked)
    for column in ("rank", "style_rank"):
        spent[column] += table["seconds"].sum()
    table = table.drop(columns=["model", "measured_by", "seconds"]).astype({"probability": float})
    begin = time.perf_counter()
    features = given.clip.image_features(shown)
    table["clip"] = clip_score(features, given.clip.text_features(list(table["prompt"])))
    spent["clip"] += time.perf_counter() - begin
    for column, detector in given.detectors.items():
        begin = time.perf_counter()
        table[column] = detector.scores(shown)
        spent[column] += time.perf_counter() - begin
    return table, features


def _values(metric: str, suite: Suite, table: pd.DataFrame) -> dict[str, tuple[str, np.ndarray]]:
    """By label, the metric's column of the verdicts and its values `(n,)`; NaN: not counted."""
    if metric in ("FID", "KID"):  # of sets
        return {}
    if metric == "NER":
        pairs = product([c for c in table if c.startswith("score")], suite.thresholds)
        return {f"NER-{τ:g}{c[5:]}": (c, (table[c] > τ).to_numpy(float)) for c, τ in pairs}
    if metric in ("CLIP score", "distance"):
        column = metric.split()[0].lower()
        return {metric: (column, table[column].to_numpy(float))}
    name, column = ("style", "style_rank") if " style" in metric else ("concept", "rank")
    if column not in table or table[column].isna().all():
        where = f"suite {suite.name!r}, group {table['group'].iloc[0]!r}"
        raise EraseError(f"{where} counts {metric}, but no prompt names a {name}: leave it out")
    return {metric: ("eye" if metric.endswith(BOTH) else column, successes(metric, table))}


def _sets(prompts: pd.DataFrame, before: Tensor, after: Tensor, given: Instruments) -> list[Row]:
    """FID and KID before and after, from features `(n, dim)`."""
    if (count := prompts["prompt"].nunique()) < FEWEST:
        text = f"FID and KID of group {prompts['group'].iloc[0]!r} left out: {len(prompts)}"
        text += f" pictures of {count} prompts, expected of {FEWEST} or more"
        warnings.warn(text, stacklevel=3)
        return []
    begin = time.perf_counter()
    # a picture given twice, for another seed, would bias KID
    named = prompts.drop_duplicates(["concept", "style"])
    pictures = given.reference or (real_pictures(named) if len(named) > 1 else None)
    drawn, against = {"original": before, "erased": after}, "real pictures"
    if pictures is None:
        real, against = drawn.pop("original"), "pictures of the unedited model"
    else:
        real = given.clip.image_features(pictures)
    rows: list[Row] = []
    for model, of in drawn.items():
        found = set_distances(real, of, list(prompts["prompt"]), given.clip.name)
        found["measured_by"] += f", against {len(real)} {against}"
        rows += found.drop(columns="n").assign(model=model).to_dict("records")
    seconds = (time.perf_counter() - begin) / len(rows)
    return [row | {"seconds": seconds} for row in rows]


@dataclass
class Evaluation:
    """What one erasure does on one suite."""

    suite: Suite
    rows: pd.DataFrame  # tidy, see `COLUMNS`
    pictures: pd.DataFrame  # the verdicts of `suite_rows`, a row a picture; model tells the two
    before: Images
    after: Images
    targets: tuple[str, ...]

    def save(self, folder: str | Path) -> Path:
        """NAME_rows.csv and NAME_pictures.parquet. `EraseError` if they cannot be written."""
        folder, name = as_path(folder), self.suite.name
        files = folder / f"{name}_rows.csv", folder / f"{name}_pictures.parquet"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with whole(*files) as (rows, pictures):
                self.rows.to_csv(rows, index=False)
                self.pictures.to_parquet(pictures, index=False)
        return folder


def evaluate(
    pipe: Pipeline,
    erasure: Erasure,
    suite: Suite,
    instruments: Instruments,
    folder: str | Path | None = None,
    most: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Draw the suite with and without the erasure, from the same noise, and count. The unedited
    model's pictures are cached for all, the erased ones in `folder`, with the results; cut off, the
    same call goes on. `most` prompts of a group at most (0: all). 2 · steps UNet evaluations a
    picture. `EraseError` for another base model or targets, and as `Evaluation.save`."""
    erasure.check(pipe)
    prompts = suite_prompts(pipe, suite, erasure.config.targets, most, instruments.words)
    instruments.check(suite, prompts)
    ask = list(prompts["prompt"]), list(prompts["noise"]), suite.steps, suite.guidance_scale
    own = as_path(folder) / "pictures" if folder else None
    before = draw(pipe, *ask, progress=progress)
    after = draw(pipe, *ask, folder=own, progress=progress, erasure=erasure)
    found, rows = suite_rows(suite, prompts, before, after, instruments)
    evaluation = Evaluation(suite, rows, found, before, after, erasure.config.targets)
    if folder:
        evaluation.save(folder)
    return evaluation


def evaluate_runs(
    world: World,
    runs: Sequence[str | Path],
    suite: Suite,
    most: int = 0,
    progress: bool = True,
    **given: Any,
) -> tuple[dict[str, Evaluation], dict[str, str]]:
    """Each run folder on the suite, and what was wrong with those that could not be: not whole, of
    another model or other targets. `given` goes to `load_instruments`. Raises `EraseError` for no
    folder, and what would stop all, such as a classifier that does not know the concepts."""
    if not runs:
        raise EraseError(f"runs is {runs!r}: expected a list of at least one run's folder")
    found, wrong = dict[str, Evaluation](), dict[str, str]()
    for run in runs:
        try:
            erasure = Erasure.load(run := sought(run))
            erasure.check(world.pipe)
            suite.split(erasure.config.targets)
        except EraseError as error:
            wrong[str(run)] = str(error)
            continue
        instruments = load_instruments(world, suite, erasure.config.targets, **given)
        found[str(run)] = evaluate(world.pipe, erasure, suite, instruments, run, most, progress)
    return found, wrong


def first_strength(
    pipe: Pipeline,
    erasure: Erasure,
    judge: Classifier,
    level: float = 0.95,
    strengths: Sequence[float] = STRENGTHS,
    pictures: int = 5,
    steps: int = 12,
    seed: int = 5000,
    eye: Eye | None = None,
    progress: Told = False,
) -> tuple[float, bool]:
    """The smallest of the strengths at which ESR-1 of the targets reaches `level`, and True; or the
    largest and False, with a warning. θ + s (θ' − θ) is drawn for `target_prompts`, with seeds that
    no evaluation uses, or the number would flatter. A style is gone where the judge sees another.
    Bisection, as if ESR only grew with s, from few pictures: one of the strengths around it. With
    an `eye` both must say so, and all strengths are tried from the least on: too strong an edit is
    no picture. `progress` as of `generate`. Raises `EraseError` as `check_level`, for no picture,
    and strengths that do not rise from above 0."""
    check_level(level)
    strengths = [float(s) for s in strengths]
    if not strengths or strengths[0] <= 0 or strengths != sorted(set(strengths)):
        raise EraseError(f"strengths is {strengths}: expected numbers above 0 that rise")
    prompts = target_prompts(pipe, erasure.config.targets, pictures, seed)
    asked = list(prompts["prompt"]), list(prompts["seed"]), steps
    styles = prompts["target"].map(is_style).to_numpy()
    before = draw(pipe, *asked, progress=False) if eye else ()
    tries, most = count(), len(strengths) if eye else len(strengths).bit_length()

    def gone(strength: float) -> bool:
        scaled = erasure.scaled(pipe, strength)
        part = portion(progress, next(tries), most)  # a bisection looks at bit_length at most
        drawn = draw(pipe, *asked, progress=part, erasure=scaled, keep=False)
        seen = verdicts(judge, drawn, prompts)
        if styles.any() and "style_rank" not in seen:
            raise EraseError(f"{judge.name} tells no styles: leave match out, or erase an object")
        seen["rank"] = by_style(seen)["rank"].fillna(np.inf)
        if eye:
            seen["eye"] = eye.gone(before, drawn, styles)
        return bool(successes(told, seen).mean() >= level)

    told = f"ESR-1{BOTH}" if eye else "ESR-1"
    if eye:
        found = next((i for i, s in enumerate(strengths) if gone(s)), len(strengths))
    else:
        found = bisect_left(strengths, True, key=gone)
    if found < len(strengths):
        return strengths[found], True
    last = strengths[-1]
    warnings.warn(f"{told} stays below {level} up to strength {last}: it is taken", stacklevel=2)
    return last, False


def check_level(level: float) -> None:
    """Raise `EraseError` unless the level is an ESR that can be asked for, in (0, 1]."""
    if not 0 < level <= 1:
        raise EraseError(f"level is {level}: expected an ESR above 0 and at most 1, such as 0.95")
