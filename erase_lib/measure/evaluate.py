"""What an erasure does: from verdicts to rates, and to rows that each say n, interval and what
measured them; on any table of prompts, or on a suite."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError, unwritable
from erase_lib.files import whole
from erase_lib.measure.clip import clip_score
from erase_lib.measure.distances import perceptual, set_distances
from erase_lib.measure.instruments import Instruments, load_instruments
from erase_lib.measure.judges import verdicts
from erase_lib.measure.pictures import draw, real_pictures
from erase_lib.measure.prompts import suite_prompts
from erase_lib.measure.statistics import bootstrap
from erase_lib.measure.suite import Suite
from erase_lib.models import Pipeline

VALUES = ["metric", "model", "value", "low", "high", "n", "prompts", "seeds", "measured_by"]
COLUMNS = ["suite", "group", *VALUES, "note", "seconds"]
FEWEST = 3  # prompts, of which one can be left out and still a set remain


def successes(metric: str, rank: pd.Series) -> np.ndarray:
    """Whether each picture counts for a rate, 1 or 0 `(n,)`; its mean is the rate.

    ESR-k: what was asked for is *not* among the k likeliest; PSR-k: it is. Of "ESR-k style" the
    ranks are those of the styles. NaN where the rank is.
    """
    kind, _, k = metric.removesuffix(" style").partition("-")
    seen = (rank < int(k)).where(rank.notna()).to_numpy(float)
    return 1 - seen if kind == "ESR" else seen


def compared(
    about: dict[str, Any],
    old: np.ndarray,
    new: np.ndarray,
    table: pd.DataFrame,
    seconds: Sequence[float],
) -> list[dict[str, Any]]:
    """The rows original, erased and difference (erased − original) of a metric, matched picture by
    picture: value, low, high (95 %, bootstrap over prompts), n, prompts, seeds, seconds.

    `old` and `new` `(n,)` are its values of the pictures before and after, `table` says their
    prompt and seed, `about` what the rows share.
    """
    prompts = table["prompt"].to_numpy()
    models = {"original": old, "erased": new, "difference": new - old}
    rows = []
    for (model, values), spent in zip(models.items(), seconds, strict=True):
        low, high = bootstrap(values, prompts)
        row = {"model": model, "value": values.mean(), "low": low, "high": high, "seconds": spent}
        rows.append(_counted(table) | about | row)
    return rows


def _counted(table: pd.DataFrame) -> dict[str, Any]:
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
    """ESR-k of the targets, PSR-k of all other concepts: near the targets, far from them, together.

    Both tables hold the same prompts and seeds. The rows of `compared` for each metric; seeds is
    their number, seconds those spent judging. A metric without pictures is left out.
    Raises EraseError when the tables do not match picture by picture.
    """
    key = ["prompt", "concept", "seed"]
    before, after = (
        t.sort_values(key).reset_index(drop=True) for t in (verdicts_before, verdicts_after)
    )
    if not before[key].equals(after[key]) or before.duplicated(key).any():
        raise EraseError(
            "verdicts before and after must hold the same prompts and seeds, each pair once"
        )
    gone, concept = before["concept"].isin(list(targets)), before["concept"]
    close = concept.isin(list(near)) & ~gone
    parts = {f"ESR-{k}": gone, f"PSR-{k} near": close, f"PSR-{k} far": ~gone & ~close}
    rows = []
    for metric, part in (parts | {f"PSR-{k}": ~gone}).items():
        if not part.any():
            continue
        some = [t[part] for t in (before, after)]
        old, new = (successes(metric.split()[0], t["rank"]) for t in some)
        spent = [float(t["seconds"].sum()) for t in some]
        about = {"metric": metric, "seeds": some[0]["seed"].nunique()}
        about |= {"measured_by": after["measured_by"].iloc[0]}
        rows += compared(about, old, new, some[0], (*spent, sum(spent)))
    return pd.DataFrame(rows, columns=[*VALUES, "seconds"])


def suite_rows(
    suite: Suite,
    prompts: pd.DataFrame,
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    instruments: Instruments,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The verdicts, a row a picture, and the rows of `COLUMNS`.

    Both lists have a picture a row of `prompts` (`suite_prompts`), drawn from the same noise. A
    verdict has besides clip (score), score (of the detector, if there is one) and distance, that of
    the erased picture to the original one. Intervals as in `compared`, for FID and KID `jackknife`
    over prompts. ESR and PSR are of the pictures whose prompt names a concept, or a style. Raises
    `EraseError` where none does.
    """
    spent: Counter[str] = Counter()
    (old, features), (new, edited) = (
        _told(suite, prompts, pictures, instruments, model, spent)
        for model, pictures in (("original", before), ("erased", after))
    )
    with _timed(spent, "distance"):
        apart, name = perceptual(before, after, instruments.clip, instruments.net)
    old["distance"], new["distance"] = 0.0, apart
    by = {"rank": instruments.classifier.name, "style_rank": instruments.classifier.name}
    by |= {"clip": instruments.clip.name, "distance": name}
    by |= {"score": instruments.detector.name if instruments.detector else ""}
    rows: list[dict[str, Any]] = []
    for group, of in suite.groups.items():
        part = (prompts["group"] == group).to_numpy(copy=True)
        if not part.any():  # no word for these targets
            continue
        some, common = (old[part], new[part]), {"suite": suite.name, "group": group, "note": ""}
        for metric in of.metrics:
            for label, column, values in _values(metric, suite, *some):
                told = ~np.isnan(values[0])
                about = common | {"metric": label, "measured_by": by[column]}
                share = (spent[column] * part.mean(),) * 3
                first, second = (v[told] for v in values)
                found = compared(about, first, second, some[0][told], share)
                # a distance is that of the erased picture to the original one
                rows += found[1:2] if metric == "distance" else found
        if {"FID", "KID"} & set(of.metrics):
            sets = _sets(prompts[part], features[part], edited[part], instruments)
            about = _counted(some[0]) | common
            rows += [about | row for row in sets if row["metric"] in of.metrics]
    names = "; ".join(filter(None, dict.fromkeys(by.values())))
    pictures = pd.concat([old, new], ignore_index=True).assign(measured_by=names)
    return pictures, pd.DataFrame(rows, columns=COLUMNS)


@contextmanager
def _timed(spent: Counter[str], *columns: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    for column in columns:
        spent[column] += time.perf_counter() - begin  # type: ignore[assignment]


def _told(
    suite: Suite,
    prompts: pd.DataFrame,
    pictures: Sequence[Image.Image],
    instruments: Instruments,
    model: str,
    spent: Counter[str],
) -> tuple[pd.DataFrame, Tensor]:
    """Every instrument's word on each picture, and CLIP features `(n, dim)`. `spent` gets the
    seconds by column."""
    ranking = [name for name, of in suite.groups.items() if of.ranks]
    ranked = (prompts["group"].isin(ranking) & prompts["concept"].notna()).to_numpy(copy=True)
    with _timed(spent, "rank", "style_rank"):
        table = verdicts(instruments.classifier, pictures, prompts, model, ranked)
    table = table.drop(columns=["model", "measured_by", "seconds"]).astype({"probability": float})
    with _timed(spent, "clip"):
        features = instruments.clip.image_features(pictures)
        texts = instruments.clip.text_features(list(table["prompt"]))
        table["clip"] = clip_score(features, texts)
    if instruments.detector is not None:
        with _timed(spent, "score"):
            table["score"] = instruments.detector.scores(pictures)
    return table.assign(model=model), features


def _values(
    metric: str, suite: Suite, old: pd.DataFrame, new: pd.DataFrame
) -> list[tuple[str, str, tuple[np.ndarray, np.ndarray]]]:
    """Label, the column it comes from, and its values before and after; NaN where ESR and PSR have
    nothing to count. Nothing for FID and KID, which are of sets."""
    if metric in ("FID", "KID"):
        return []
    if metric in ("CLIP score", "distance"):
        column = "clip" if metric == "CLIP score" else "distance"
        return [(metric, column, (old[column].to_numpy(float), new[column].to_numpy(float)))]
    if metric == "NER":
        return [
            (f"NER-{τ:g}", "score", tuple((t["score"] > τ).to_numpy(float) for t in (old, new)))
            for τ in suite.thresholds
        ]
    name = "style" if metric.endswith(" style") else "concept"
    column = "style_rank" if name == "style" else "rank"
    if column not in old or old[column].isna().all():
        raise EraseError(
            f"suite {suite.name!r}, group {old['group'].iloc[0]!r} counts {metric}, but no prompt"
            f" names a {name} that is known: leave the metric out"
        )
    return [(metric, column, (successes(metric, old[column]), successes(metric, new[column])))]


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


@dataclass
class Evaluation:
    """What one erasure does on one suite."""

    suite: Suite
    rows: pd.DataFrame
    """Tidy, see `COLUMNS`."""
    pictures: pd.DataFrame
    """The verdicts of `suite_rows`, a row a picture; model is original or erased."""
    before: Sequence[Image.Image]
    after: Sequence[Image.Image]
    targets: tuple[str, ...]

    def save(self, folder: str | Path) -> Path:
        """NAME_rows.csv and NAME_pictures.parquet. `EraseError` if they cannot be written."""
        folder, name = Path(folder), self.suite.name
        files = folder / f"{name}_rows.csv", folder / f"{name}_pictures.parquet"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with whole(*files) as (rows, pictures):
                self.rows.to_csv(rows, index=False)
                self.pictures.to_parquet(pictures, index=False)
        except OSError as error:
            raise unwritable(folder, error) from None
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
    """Draw the suite with and without the erasure, from the same noise, and count.

    The unedited model's pictures are cached for all; the erased ones in `folder`, where the results
    go too. Cut off, the same call goes on with the pictures that are there. `most` prompts of a
    group at most (0: all). 2 · steps evaluations of the UNet a picture. Raises `EraseError` for an
    erasure of another base model or other targets than the suite's, and as `Evaluation.save`.
    """
    erasure.check(pipe)
    prompts = suite_prompts(pipe, suite, erasure.config.targets, most)
    instruments.check(suite, prompts)
    ask = list(prompts["prompt"]), list(prompts["noise"]), suite.steps, suite.guidance_scale
    own = Path(folder) / "pictures" if folder else None
    before = draw(pipe, *ask, progress=progress)
    after = draw(pipe, *ask, folder=own, progress=progress, erasure=erasure)
    found, rows = suite_rows(suite, prompts, before, after, instruments)
    evaluation = Evaluation(suite, rows, found, before, after, erasure.config.targets)
    if folder:
        evaluation.save(folder)
    return evaluation


def evaluate_runs(
    pipe: Pipeline,
    runs: Sequence[str | Path],
    suite: Suite,
    most: int = 0,
    progress: bool = True,
    **given: Any,
) -> tuple[dict[str, Evaluation], dict[str, str]]:
    """Each run folder on the suite, and beside it what was wrong with those that could not be.

    A folder that is not whole, of another model or of other targets does not stop the others.
    `given` goes to `load_instruments`. Raises `EraseError` for no folder at all, and for what would
    stop every one of them, such as a classifier that does not know the concepts.
    """
    if not runs or isinstance(runs, (str, Path)):
        raise EraseError(f"runs is {runs!r}: expected a list of at least one run's folder")
    found: dict[str, Evaluation] = {}
    wrong: dict[str, str] = {}
    for run in map(Path, runs):
        try:
            erasure = Erasure.load(run)
            erasure.check(pipe)
            suite.split(erasure.config.targets)
        except EraseError as error:
            wrong[str(run)] = str(error)
            continue
        instruments = load_instruments(suite, erasure.config.targets, **given)
        found[str(run)] = evaluate(pipe, erasure, suite, instruments, run, most, progress)
    return found, wrong
