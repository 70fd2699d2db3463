"""What papers report of concept erasure, beside one's own numbers: the order, never the number."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from erase_lib.errors import EraseError, reason, unknown
from erase_lib.files import DATA

FILE = DATA / "published.csv"
EXPERIMENTS = ("objects", "nudity", "style")
UNITS = ("percent", "score")
COLUMNS = "experiment method metric value spread unit n detector source run".split()
OURS = ("method", "metric", "value", "low", "high")
DIGITS = {"NER": 2, "FID": 2, "CLIP": 2, "LPIPS": 3}  # as published; ESR and PSR have 1
NONE = "–"
NOTE = (
    "another model, another detector: compare the order of methods within a column, never a number"
    " across"
)


def table(experiment: str) -> pd.DataFrame:
    """The published cells of objects, nudity or style, a row each.

    Columns: experiment, method, metric, value and spread (± standard deviation over 4 splits, NaN
    where not given), unit (percent or score), n, detector, source, run (which of several published
    sets, else ""). Raises `EraseError` for an unknown experiment and a damaged file.
    """
    if experiment not in EXPERIMENTS:
        raise unknown("experiment", experiment, EXPERIMENTS)
    try:
        text = pd.read_csv(FILE, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise EraseError(f"{FILE} cannot be read ({reason(error)}): copy it anew") from None
    if list(text.columns) != COLUMNS:
        raise EraseError(f"{FILE} is damaged: expected columns {', '.join(COLUMNS)}; copy it anew")
    numbers = {c: pd.to_numeric(text[c], errors="coerce") for c in ("value", "spread")}
    finite = {c: pd.Series(np.isfinite(x), text.index) for c, x in numbers.items()}
    whole = finite["value"] & (finite["spread"] | (text["spread"] == ""))
    whole &= text["experiment"].isin(EXPERIMENTS) & text["unit"].isin(UNITS)
    whole &= numbers["value"].between(0, 100) | (text["unit"] != "percent")
    whole &= (text[["method", "metric", "source"]] != "").all(axis=1)
    whole &= ~text.duplicated(["experiment", "method", "metric", "run"])
    if not whole.all():
        line, row = int(whole.argmin()) + 2, text.loc[whole.idxmin()]
        what = " ".join(map(str, row[["experiment", "method", "metric", "value"]]))
        raise EraseError(f"{FILE} is damaged in line {line} ({what[:80]}): copy it anew")
    return text.assign(**numbers).query("experiment == @experiment").reset_index(drop=True)


def beside(ours: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Ours and the published cells as text: a row a method, columns (metric, ours or published).

    `ours`: method, metric, value, low, high, a row each; ESR, PSR and NER are shares in [0, 1] and
    shown in percent, as "96.3 [92.5, 100]". Published "98.6 ± 1.2", two sets of runs "95.5 / 78.1".
    "–" where a side has nothing. Only metrics that were published; `attrs["note"]` says how to read
    it. Raises `EraseError` for columns that lack, a method twice, a share that is none, and when no
    metric is a published one.
    """
    theirs = table(experiment)
    mine = _own(ours, theirs)
    scale = _scale(theirs)
    texts = [
        _text(m, scale[m] * v, low=scale[m] * low, high=scale[m] * high)
        for m, v, low, high in zip(*(mine[c] for c in OURS[1:]), strict=True)
    ]
    cells = theirs.assign(
        text=[_text(m, v, s) for m, v, s in theirs[["metric", "value", "spread"]].to_numpy()]
    )
    sides = {
        "ours": mine.assign(text=texts).set_index(["method", "metric"])["text"],
        "published": cells.groupby(["method", "metric"])["text"].agg(" / ".join),
    }
    methods = dict.fromkeys([*theirs["method"], *mine["method"]])
    columns = list(product(dict.fromkeys(theirs["metric"]), sides))
    found = pd.DataFrame(
        [[sides[s].get((method, metric), NONE) for metric, s in columns] for method in methods],
        pd.Index(methods, name="method"),
        pd.MultiIndex.from_tuples(columns, names=["metric", "side"]),
    )
    found.attrs["note"] = NOTE
    return found


def order(ours: pd.DataFrame, experiment: str, metric: str) -> pd.DataFrame:
    """Kendall's τ_b between our order of methods and the published one, by those that both have.

    `ours` as in `beside`. A row for each published set of runs; columns: metric, run, n (methods),
    tau (NaN where one side is all ties), ours and published (lists of methods, the highest value
    first, equal ones as they stand in `ours`). Raises `EraseError` for an unknown metric, fewer
    than 3 methods in common, and as `beside`.
    """
    theirs = table(experiment)
    if metric not in set(theirs["metric"]):
        raise unknown("metric", metric, theirs["metric"].unique())
    mine = _own(ours, theirs)
    own = mine[mine["metric"] == metric].set_index("method")["value"]
    part = theirs[(theirs["metric"] == metric) & theirs["method"].isin(own.index)]
    if (n := part["method"].nunique()) < 3:
        raise EraseError(
            f"{n} methods ({', '.join(part['method'].unique()) or 'none'}) have {metric} of"
            f" {experiment} both here and published: an order needs 3 or more, measure others"
        )
    rows = []
    for run in [run for run in part["run"].unique() if run] or [""]:
        known = part[part["run"].isin(["", run])].set_index("method")["value"]
        both = pd.DataFrame({"ours": own, "published": known.reindex(own.index)}).dropna()
        lists = {
            side: both[side].sort_values(ascending=False, kind="stable").index.tolist()
            for side in both
        }
        tau = float(stats.kendalltau(both["ours"], both["published"]).statistic)
        rows.append({"metric": metric, "run": run, "n": len(both), "tau": tau} | lists)
    return pd.DataFrame(rows)


def _scale(theirs: pd.DataFrame) -> dict[str, float]:
    """What a share is multiplied by to be shown, of each metric."""
    units = dict(zip(theirs["metric"], theirs["unit"], strict=True))
    return {metric: 100.0 if unit == "percent" else 1.0 for metric, unit in units.items()}


def _own(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """The rows of `ours` whose metric was published and that have a value, checked."""
    if lacking := [name for name in OURS if name not in ours]:
        raise EraseError(f"our table lacks the columns {lacking}: expected {', '.join(OURS)}")
    scale = _scale(theirs)
    try:
        numbers = {name: pd.to_numeric(ours[name]).astype(float) for name in OURS[2:]}
    except (ValueError, TypeError) as error:
        raise EraseError(f"our table has a value that is no number ({reason(error)})") from None
    mine = ours.assign(**numbers)
    mine = mine[mine["metric"].isin(list(scale)) & mine["value"].notna()]
    if mine.empty:
        raise EraseError(f"our table has no published metric: expected of {', '.join(scale)}")
    if (double := mine.duplicated(["method", "metric"])).any():
        method, metric = mine.loc[double, ["method", "metric"]].iloc[0]
        raise EraseError(f"our table has {metric} of {method!r} twice: average its runs first")
    share = mine["metric"].map(scale) == 100
    if (off := share & ~mine["value"].between(0, 1)).any():
        method, metric, value = mine.loc[off, list(OURS[:3])].iloc[0]
        raise EraseError(f"{metric} of {method!r} is {value}: expected a share from 0 to 1")
    return mine


def _text(
    metric: str,
    value: float,
    spread: float = math.nan,
    low: float = math.nan,
    high: float = math.nan,
) -> str:
    """As "98.6 ± 1.2", "96.3 [92.5, 100]" or "95.5": what is NaN is left out."""
    digits = DIGITS.get(metric.partition("-")[0].partition(" ")[0], 1)

    def number(x: float) -> str:
        return "100" if float(text := f"{x:.{digits}f}") == 100 else text

    text = number(value)
    if not math.isnan(spread):
        text += f" ± {number(spread)}"
    return text if math.isnan(low + high) else f"{text} [{number(low)}, {number(high)}]"
