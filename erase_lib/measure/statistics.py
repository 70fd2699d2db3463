"""How sure a number is: intervals, tests, and the tables of runs that they are taken of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from erase_lib.errors import EraseError, check_range
from erase_lib.files import FINGERPRINT, read_text, sought, whole_table

DRAWS = 100_000  # the most that an interval or a test is made of
Groups = Sequence[object] | np.ndarray  # what each value is of, such as its prompt
Estimate = Callable[[np.ndarray], float]  # takes the indices of the rows to use


def chance(seed: int) -> np.random.Generator:
    """Random numbers of this seed. Raises `EraseError` for one below 0."""
    check_range("seed", seed, 0, 2**63 - 1)
    return np.random.default_rng(seed)


def bootstrap(
    values: np.ndarray, groups: Groups | None = None, n: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean; whole groups (prompts) are drawn with replacement, as
    pictures of one prompt resemble each other. When all values agree it has no width: that does
    not make the number certain, so always show n beside it. Raises `EraseError` for no values."""
    check_range("n", n, 1, DRAWS)
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        raise EraseError("an interval of no values; give at least one")
    codes = np.arange(len(values)) if groups is None else pd.factorize(np.asarray(groups))[0]
    if len(codes) != len(values):
        raise EraseError(f"{len(codes)} groups of {len(values)} values: give one for each")
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    rng = chance(seed)
    drawn = (rng.integers(0, len(sums), len(sums)) for _ in range(n))
    means = [sums[i].sum() / counts[i].sum() for i in drawn]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def row_intervals(
    values: np.ndarray, n: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap intervals of the mean of each row of `(rows, pictures)`; NaN for rows of one.
    Percentiles of few values are too narrow: they are widened by what Student's t and n − 1 ask for
    (Hesterberg 2015, What Teachers Should Know About the Bootstrap, §5.3)."""
    check_range("n", n, 1, DRAWS)
    size = values.shape[1]
    if size == 1:
        return np.full(len(values), np.nan), np.full(len(values), np.nan)
    drawn = chance(seed).integers(0, size, (n, size))
    counts = np.apply_along_axis(np.bincount, 1, drawn, minlength=size)
    low, high = np.percentile(values @ counts.T / size, [2.5, 97.5], axis=1)
    wider = stats.t.ppf(0.975, size - 1) / stats.norm.ppf(0.975) * np.sqrt(size / (size - 1))
    mean = values.mean(1)
    return mean + wider * (low - mean), mean + wider * (high - mean)


def jackknife(
    estimate: Estimate, n: int, groups: Groups, folds: int = 20, seed: int = 0
) -> tuple[float, float, float]:
    """`estimate` of n rows, and its 95 % interval from leaving out a fold of whole groups at a
    time, drawn with `seed`: for a number of a set, such as FID. se² = (f − 1)/f Σ(θ_i − θ̄)² (Efron
    & Stein 1981), times t. `EraseError` for fewer than two groups."""
    codes, known = pd.factorize(np.asarray(groups))
    if len(known) < 2 or len(codes) != n:
        raise EraseError(f"{len(known)} groups of {n} pictures: an interval needs at least two")
    folds = min(folds, len(known))
    fold = chance(seed).permutation(len(known))[codes] % folds
    whole = estimate(np.arange(n))
    parts = np.array([estimate(np.flatnonzero(fold != i)) for i in range(folds)])
    error = np.sqrt((folds - 1) / folds * ((parts - parts.mean()) ** 2).sum())
    wide = stats.t.ppf(0.975, folds - 1) * error
    return whole, whole - wide, whole + wide


def worst(values: Sequence[float], share: float = 0.05, least: int = 3) -> float:
    """Mean of the largest `share` of the values, of at least `least`: what their mean hides. Of
    noisy values the largest are partly noise: compare it at as many pictures of each alone."""
    check_range("values", len(values), 1, 10**9)
    return float(np.sort(values)[-max(least, round(share * len(values))) :].mean())


def flipped(gaps: np.ndarray, n: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of a mean as far from 0 as that of `gaps`, if each sign could as well have been
    the other; from n random flips, and the observed one counts (Phipson & Smyth 2010)."""
    check_range("n", n, 1, DRAWS)
    signs = chance(seed).choice([-1.0, 1.0], (n, len(gaps)))
    return float((1 + (np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-9).sum()) / (n + 1))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p (Holm 1979), in their order."""
    steps = np.sort(values) * (len(values) - np.arange(len(values)))
    rank = np.argsort(np.argsort(values))
    return np.minimum(np.maximum.accumulate(steps), 1)[rank].tolist()


def means(table: pd.DataFrame, by: Sequence[str], over: str = "targets") -> pd.DataFrame:
    """Mean `value` of several runs for each combination of the columns `by`: these, value, low,
    high (95 %, Student's t over groups, those of `over`; NaN for a single one), runs, groups. A
    percentile bootstrap of five to ten groups is too narrow."""
    parts = table.groupby(list(by), sort=False)
    rows = [dict(zip(by, names, strict=True)) | _of_runs(p["value"], p[over]) for names, p in parts]
    return pd.DataFrame(rows)


def matched_differences(
    table: pd.DataFrame, column: str, base: object, matched: Sequence[str] = ("targets", "seed")
) -> pd.DataFrame:
    """`value` of every setting in `column` minus that of `base`, run by run: matched on the columns
    `matched`, t over the first. Columns as in `means`. `EraseError` without a match."""
    wide = table.pivot_table(index=list(matched), columns=column, values="value")
    if base not in wide:
        raise EraseError(f"no run with {column} {base!r}: expected one of {list(wide.columns)}")
    rows = []
    for name in wide.columns.drop(base):
        gaps = (wide[name] - wide[base]).dropna()
        if gaps.empty:
            raise EraseError(f"no run with {column} {name!r} has a match with {base!r}")
        rows.append({column: name} | _of_runs(gaps, gaps.index.get_level_values(0).to_series()))
    return pd.DataFrame(rows)


def _of_runs(values: pd.Series, groups: pd.Series) -> dict[str, Any]:
    """value, low, high, runs and groups of the mean of runs."""
    n, count, every = len(values), groups.nunique(), values.to_numpy(float)
    value, low, high = every.mean(), np.nan, np.nan
    if count > 1:  # of a mean, leaving out each group is Student's interval of the groups' means
        mean = lambda rows: float(every[rows].mean())  # noqa: E731
        value, low, high = jackknife(mean, n, groups.to_numpy(), count)
    return {"value": value, "low": low, "high": high, "runs": n, "groups": count}


def read_table(table: str | Path) -> pd.DataFrame:
    """A sweep's table, .csv or .parquet, `sought`. Raises `EraseError` when there is none, or it is
    no table of runs."""
    if not (path := sought(table)).is_file():
        raise EraseError(f"table {table} does not exist: expected results.csv of a sweep")
    # a concept may be called "null"; what is published has the number of its runs beside it
    csv: dict[str, Any] = {"keep_default_na": True, "converters": {"targets": str}}
    found = whole_table(path, **({} if path.suffix == ".parquet" else csv))
    about = re.search(r'^ "runs": (\d+)', read_text(path.with_suffix(".json")), re.M)
    if about and path.suffix == ".csv" and len(found) != int(about[1]):
        raise EraseError(f"{path} has {len(found)} runs of {about[1]}: copy it anew")
    if not {"status", "id", "targets"} & set(found):
        raise EraseError(f"{path} has no column status: expected results.csv of a sweep")
    return found


def table_model(table: str | Path, own: str | None = None) -> str:
    """A line for beneath a figure: which embedded model a published table is of, by the fingerprint
    in its NAME.json. `own`: the reader's model, where there is one."""
    if own:
        return "This table is of the embedded model, not of yours."
    path = sought(re.sub(r"\.(csv|parquet)$", "", str(table)) + ".json")
    made = re.search(r'"embedded model": \[\s*"(\w+)"\s*\]', read_text(path))
    if not made:
        return "This table does not say which model it is of."
    if made[1] == read_text(FINGERPRINT).strip():
        return "This table is of the embedded model as it is."
    return "This table is of an earlier embedded model, not of today's: see docs/RESULTS.md."


def label(runs: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """What each run is called: its values of the columns, where it has them, joined by a comma."""
    return runs[list(columns)].apply(lambda row: ", ".join(row.dropna().astype(str)), axis=1)


def long(table: pd.DataFrame) -> pd.DataFrame:
    """The finished runs with a row for each metric: the run's own columns, then metric, model,
    value, low, high, n. Raises `EraseError` when there is none."""
    names = [name.removesuffix(" low") for name in table if name.endswith(" low")]
    if not names:
        raise EraseError("no finished run has a metric with an interval: is it a sweep's table?")
    ends = {"value": "", "low": " low", "high": " high", "n": " n"}
    runs = table[table["status"] == "done"]
    own = runs.drop(columns=[name + end for name in names for end in ends.values()])
    parts = []
    for name in names:
        metric, _, model = name.rpartition(" ")
        values = {field: runs[name + end] for field, end in ends.items()}
        parts.append(own.assign(metric=metric, model=model, **values))
    return pd.concat(parts, ignore_index=True)
