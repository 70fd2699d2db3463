"""How well a concept is gone (ESR) and how well the others stay (PSR), with intervals."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from erase_lib.errors import EraseError
from erase_lib.judge import Judge, ranks


def verdicts(
    judge: Judge,
    pictures: Sequence[Image.Image] | Tensor,
    prompts: pd.DataFrame,
    model: str = "original",
) -> pd.DataFrame:
    """One row a picture: what was asked for and what the judge sees.

    `prompts` has one row a picture, in the same order: prompt, concept and, if known, style, seed.
    Columns: prompt, concept, style, seed, model, rank and probability (of the concept asked for,
    rank 0 = top), seen (the likeliest concept), style_seen, measured_by, seconds (judging time).
    """
    if lacking := {"prompt", "concept"} - set(prompts.columns):
        raise EraseError(f"the table of prompts lacks the columns {sorted(lacking)}")
    begin = time.perf_counter()
    columns = judge.index(prompts["concept"])
    logits = judge.logits(pictures)
    likely = logits[:, : len(judge.concepts)].softmax(1).numpy()
    rank = ranks(likely, columns)
    table = pd.DataFrame(
        {name: prompts.get(name) for name in ("prompt", "concept", "style", "seed")}
    )
    return table.reset_index(drop=True).assign(
        model=model,
        rank=rank,
        probability=likely[np.arange(len(rank)), columns],
        seen=[judge.concepts[i] for i in likely.argmax(1)],
        style_seen=[judge.styles[i] for i in logits[:, len(judge.concepts) :].argmax(1)],
        measured_by=judge.name,
        seconds=(time.perf_counter() - begin) / max(len(rank), 1),
    )


def esr(table: pd.DataFrame, targets: Iterable[str], k: int = 1) -> float:
    """ESR-k: share of the erased concepts' pictures *not* recognised in the judge's top k."""
    return float((_about(table, targets)["rank"] >= k).mean())


def psr(table: pd.DataFrame, kept: Iterable[str], k: int = 1) -> float:
    """PSR-k: share of the kept concepts' pictures that the judge recognises in its top k."""
    return float((_about(table, kept)["rank"] < k).mean())


def _about(table: pd.DataFrame, concepts: Iterable[str]) -> pd.DataFrame:
    wanted = list(concepts)
    chosen = table[table["concept"].isin(wanted)]
    if chosen.empty:
        raise EraseError(
            f"no picture of {wanted} among the verdicts; draw some, or name other concepts"
        )
    return chosen


def bootstrap(
    values: np.ndarray,
    groups: Sequence[object] | np.ndarray | None = None,
    n: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of the mean; whole groups (prompts) are drawn with replacement.

    Pictures of one prompt resemble each other, so prompts are the unit. When all values agree the
    interval has no width: that does not make the number certain, so always show n beside it.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        raise EraseError("an interval of no values; give at least one")
    codes = np.arange(len(values)) if groups is None else pd.factorize(np.asarray(groups))[0]
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, len(sums), len(sums)) for _ in range(n))
    means = [sums[i].sum() / counts[i].sum() for i in drawn]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def paired(
    before: np.ndarray,
    after: np.ndarray,
    groups: Sequence[object] | np.ndarray | None = None,
    n: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The same interval of the mean of `after − before`, matched picture by picture."""
    return bootstrap(
        np.asarray(after, dtype=float) - np.asarray(before, dtype=float), groups, n, seed
    )


def means(table: pd.DataFrame, by: Sequence[str], over: str = "targets") -> pd.DataFrame:
    """Mean `value` of several runs for each combination of the columns `by`.

    Columns: `by`, value, low, high (95 %, bootstrap over whole groups of the column `over`; NaN for
    a single group, which says nothing of others), runs, groups.
    """
    rows = []
    for names, part in table.groupby(list(by), sort=False):
        groups = part[over].nunique()
        low, high = bootstrap(part["value"].to_numpy(), part[over].to_numpy())
        low, high = (low, high) if groups > 1 else (np.nan, np.nan)
        row = dict(zip(by, names, strict=True)) | {"value": part["value"].mean()}
        row |= {"low": low, "high": high, "runs": len(part), "groups": groups}
        rows.append(row)
    return pd.DataFrame(rows)


def gains(
    table: pd.DataFrame, column: str, base: str, matched: Sequence[str] = ("targets", "seed")
) -> pd.DataFrame:
    """`value` of every setting in `column` minus that of the setting `base`, run by run.

    Runs are matched on the columns `matched`; the interval is a bootstrap over the first of them.
    Columns: `column`, value, low, high (NaN for a single group), runs, groups. Raises `EraseError`
    when no run has its match.
    """
    wide = table.pivot_table(index=list(matched), columns=column, values="value")
    if base not in wide:
        raise EraseError(f"no run with {column} {base!r}: expected one of {list(wide.columns)}")
    rows = []
    for name in wide.columns.drop(base):
        # one by one: a list of truth values would be a mask of the rows
        pairs = pd.DataFrame({"base": wide[base], "other": wide[name]}).dropna()
        if pairs.empty:
            raise EraseError(f"no run with {column} {name!r} has a match with {base!r}")
        groups = pairs.index.get_level_values(0).to_numpy()
        low, high = paired(pairs["base"].to_numpy(), pairs["other"].to_numpy(), groups)
        low, high = (low, high) if len(set(groups)) > 1 else (np.nan, np.nan)
        row = {
            column: name,
            "value": (pairs["other"] - pairs["base"]).mean(),
            "low": low,
            "high": high,
        }
        rows.append(row | {"runs": len(pairs), "groups": len(set(groups))})
    return pd.DataFrame(rows)


def summary(
    verdicts_before: pd.DataFrame,
    verdicts_after: pd.DataFrame,
    targets: Iterable[str],
    near: Iterable[str] = (),
    k: int = 1,
) -> pd.DataFrame:
    """ESR-k of the targets, PSR-k of all other concepts: near the targets, far from them, together.

    Both tables hold the same prompts and seeds. Three rows a metric, told apart by column `model`:
    "original", "erased", "difference" (erased − original, picture by picture). Columns: metric,
    model, value, low, high (95 %, bootstrap over prompts), n (pictures), prompts, seeds,
    measured_by, seconds (spent judging). A metric without pictures is left out.
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
    parts = {
        f"ESR-{k}": gone,
        f"PSR-{k} near": close,
        f"PSR-{k} far": ~gone & ~close,
        f"PSR-{k}": ~gone,
    }
    rows = []
    for metric, part in parts.items():
        if not part.any():
            continue
        right = [(t.loc[part, "rank"] < k).to_numpy(dtype=float) for t in (before, after)]
        old, new = (1 - r for r in right) if metric.startswith("ESR") else right
        groups = before.loc[part, "prompt"].to_numpy()
        seconds = [float(t.loc[part, "seconds"].sum()) for t in (before, after)]
        values = {
            "original": (old.mean(), *bootstrap(old, groups), seconds[0]),
            "erased": (new.mean(), *bootstrap(new, groups), seconds[1]),
            "difference": ((new - old).mean(), *paired(old, new, groups), sum(seconds)),
        }
        common = {
            "n": int(part.sum()),
            "prompts": len(set(groups)),
            "seeds": before.loc[part, "seed"].nunique(),
            "measured_by": after["measured_by"].iloc[0],
        }
        for model, (value, low, high, spent) in values.items():
            row = {"metric": metric, "model": model, "value": value, "low": low, "high": high}
            rows.append(row | common | {"seconds": spent})
    return pd.DataFrame(rows)
