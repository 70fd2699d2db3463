"""Methods side by side on a suite: from the pictures of many runs, matched concept by concept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from erase_lib.errors import EraseError, reason, unknown
from erase_lib.files import DATA
from erase_lib.measure import METRIC, bootstrap, flipped, holm, label, read_table

UNIT = ["group", "targets", "concept"]  # what is drawn anew by the bootstrap
PLAIN = {"CLIP score": "clip", "distance": "distance", "probability": "probability"}


def read_runs(
    tables: Sequence[str | Path], suite: str, vary: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of published sweeps that measured `suite`, and every picture of the finished ones.

    `tables` are the sweeps' NAME.csv; beside each lies NAME_SUITE_pictures.parquet. Both tables get
    a column setting: the run's values of the columns `vary`; the unedited model's pictures are of
    the setting "original". Raises `EraseError` for a table or file that is missing, damaged, or of
    no finished run, and for an unknown column.
    """
    for what, given, such in (("tables", tables, "results.csv"), ("vary", vary, "method")):
        if not given or isinstance(given, (str, Path)):
            raise EraseError(f"{what} is {given!r}: expected a list, such as [{such!r}]")
    runs = pd.concat([read_table(table) for table in tables], ignore_index=True).copy()
    for name in ("id", "status", *vary):
        if name not in runs:
            raise unknown("column", name, runs.columns)
    if (double := runs["id"].duplicated()).any():
        name = runs.loc[double, "id"].iloc[0]
        raise EraseError(f"run {name!r} is in {list(map(str, tables))} twice: give each table once")
    runs["setting"] = label(runs, vary)
    pictures = pd.concat([_pictures(table, suite) for table in tables], ignore_index=True)
    done = runs[runs["status"] == "done"].set_index("id")["setting"]
    pictures = pictures[pictures["id"].isin(done.index)]
    if pictures.empty:
        raise EraseError(f"no picture of a finished run in {list(map(str, tables))}: publish anew")
    named = pictures["id"].map(done)
    return runs, pictures.assign(setting=named.where(pictures["model"] == "erased", "original"))


def _pictures(table: str | Path, suite: str) -> pd.DataFrame:
    path = next((p for p in (Path(table), DATA.parent / table) if p.is_file()), Path(table))
    path = path.with_name(f"{path.stem}_{suite}_pictures.parquet")
    if not path.is_file():
        raise EraseError(f"{path} does not exist: publish a sweep of runs with suite={suite!r}")
    try:
        return pd.read_parquet(path)
    except Exception as error:  # pandas and pyarrow each raise their own kinds
        raise EraseError(f"{path} is damaged ({reason(error)}): publish the sweep again") from None


def units(pictures: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The mean of each unit, a concept in a split: group, targets, concept, setting, value.

    Over all its pictures and all seeds of the erasure. `metric`: ESR-k, PSR-k, ESR-1 style,
    PSR-1 style, CLIP score, distance, probability. Raises `EraseError` for another, and for one
    that these pictures were not measured by.
    """
    kind, _, k = metric.removesuffix(" style").partition("-")
    ranked = kind in ("ESR", "PSR") and METRIC.fullmatch(metric)
    rank = "style_rank" if metric.endswith(" style") else "rank"
    column = rank if ranked else PLAIN.get(metric)
    if column not in pictures:
        raise unknown("metric", metric, ["ESR-1", "PSR-1", *PLAIN])
    value = pictures[column]
    if ranked:
        value = (value < int(k)).where(value.notna()).astype(float)
        value = 1 - value if kind == "ESR" else value
    found = pictures.assign(value=value).dropna(subset=["value"])
    return found.groupby([*UNIT, "setting"], as_index=False, sort=False)["value"].mean()


def _units_of(pictures: pd.DataFrame, group: str, metric: str) -> pd.DataFrame:
    """`units` of a group. Raises `EraseError` for an unknown one, and where there are none."""
    part = pictures[pictures["group"] == group]
    if part.empty:
        raise unknown("group", group, pictures["group"].unique())
    if (found := units(part, metric)).empty:
        raise EraseError(f"group {group!r} has no {metric} of any concept: ask for another")
    return found


def levels(pictures: pd.DataFrame, asked: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Each setting's mean of each (group, metric): with its interval and its spread over splits.

    Columns: setting, group, metric, value, low, high (95 %, bootstrap over `UNIT`s), spread
    (standard deviation over the splits, as the paper gives), units, splits. Raises `EraseError` for
    a group or metric that is unknown, or that no concept has.
    """
    rows = []
    for group, metric in asked:
        found = _units_of(pictures, group, metric)
        for setting, part in found.groupby("setting", sort=False):
            low, high = bootstrap(part["value"].to_numpy())
            splits = part.groupby("targets")["value"].mean()
            row = {"setting": setting, "group": group, "metric": metric}
            row |= {"value": part["value"].mean(), "low": low, "high": high}
            spread = splits.std() if len(splits) > 1 else np.nan
            rows.append(row | {"spread": spread, "units": len(part), "splits": len(splits)})
    return pd.DataFrame(rows)


def wide(levels: pd.DataFrame) -> pd.DataFrame:
    """`levels` to read: a row a setting, a column a metric and group, "0.91 [0.88, 0.94]"."""
    text = [
        f"{v:.2f} [{low:.2f}, {high:.2f}]"
        for v, low, high in levels[["value", "low", "high"]].to_numpy()
    ]
    shown = levels.assign(text=text, what=levels["metric"] + " " + levels["group"])
    found = shown.pivot(index="setting", columns="what", values="text")
    return found.loc[shown["setting"].unique(), shown["what"].unique()]


def paper_form(levels: pd.DataFrame) -> pd.DataFrame:
    """Of `levels` what table 1 of Bui et al. 2024 has, ready for `published.beside`: method,
    metric, value, low, high, spread. Of several settings of a method, such as searches, the first
    counts as the method, the others keep their names."""
    table = levels[levels["group"].isin(["target", "kept"])]
    first: dict[str, str] = {}
    for setting in levels["setting"].unique():
        name = setting.partition(",")[0]
        first[setting] = setting if name in first.values() else name
    columns = ["method", "metric", "value", "low", "high", "spread"]
    return table.assign(method=table["setting"].map(first))[columns].reset_index(drop=True)


def card(pictures: pd.DataFrame, runs: pd.DataFrame) -> str:
    """What stands under a figure of a comparison: what measured it, of how much."""
    of = pictures[pictures["model"] == "erased"]
    done = runs.loc[runs["id"].isin(of["id"]), "seed"]
    seeds = ", ".join(map(str, sorted(done.dropna().astype(int).unique())))
    return (
        f"{of['id'].nunique()} erasures ({of['targets'].nunique()} splits, seeds {seeds}) ·"
        f" {len(of):,} pictures of {of['concept'].nunique()} concepts, each beside the unedited"
        f" model's from the same noise\nmeasured by {'; '.join(of['measured_by'].unique())}\n"
        "Intervals: 95 %, bootstrap over concepts within the splits; seeds of the erasure averaged."
    )


def differences(
    pictures: pd.DataFrame, asked: Sequence[tuple[str, str]], base: str, seed: int = 0
) -> pd.DataFrame:
    """Every setting against `base`, matched concept by concept, with a test.

    Columns: setting, group, metric, value (setting − base), low, high (95 %, bootstrap over
    `UNIT`s), p (sign-flip permutation of the units' differences, two-sided), q (p after Holm's
    correction over the settings of a metric), units. Raises `EraseError` for an unknown base, one
    without a match, and as `levels`.
    """
    rows: list[dict[str, Any]] = []
    for group, metric in asked:
        found = _units_of(pictures, group, metric)
        wide = found.pivot(index=UNIT, columns="setting", values="value")
        if base not in wide:
            raise unknown("setting", base, wide.columns)
        some = []
        for setting in wide.columns.drop(base):
            gaps = (wide[setting] - wide[base]).dropna().to_numpy()
            if not len(gaps):
                raise EraseError(f"no concept of {setting!r} is matched in {base!r}: leave it out")
            low, high = bootstrap(gaps)
            row = {"setting": setting, "group": group, "metric": metric, "value": gaps.mean()}
            some.append(row | {"low": low, "high": high, "p": flipped(gaps, seed=seed)})
            some[-1] |= {"units": len(gaps)}
        for row, q in zip(some, holm([row["p"] for row in some]), strict=True):
            rows.append(row | {"q": q})
    return pd.DataFrame(rows)
