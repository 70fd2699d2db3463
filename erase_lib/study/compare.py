"""Methods side by side on a suite, matched concept by concept; and beside what papers report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from erase_lib.errors import EraseError, reason, unknown
from erase_lib.files import DATA, check_keys, whole_table
from erase_lib.measure import BOTH, METRIC, bootstrap, flipped, holm, label, read_table, successes

UNIT = ["group", "targets", "concept"]  # what is drawn anew by the bootstrap
PLAIN = {"CLIP score": "clip", "distance": "distance", "probability": "probability"}

FILE = DATA / "published.csv"
EXPERIMENTS = ("objects", "nudity", "style")
COLUMNS = "experiment method metric value spread unit n detector source run".split()
OURS = ["method", "metric", "value", "low", "high"]
DIGITS = {"NER": 2, "FID": 2, "CLIP": 2, "LPIPS": 3}  # as published; ESR and PSR have 1
NONE = "–"
NOTE = "another model and detector: compare the order of methods in a column, never a number across"


def read_runs(
    tables: Sequence[str | Path], suite: str, vary: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of published sweeps that measured `suite`, and every picture of the finished ones.
    `tables` are the sweeps' NAME.csv; beside each lies NAME_SUITE_pictures.parquet. Both get a
    column setting: the run's values of the columns `vary`, or "original" for pictures of the
    unedited model. Raises `EraseError` for a table or file that is missing, damaged, or of no
    finished run, and for an unknown column."""
    if not tables or not vary:
        raise EraseError(f"tables is {tables}, vary is {vary}: expected two lists, of one or more")
    runs = pd.concat([read_table(table) for table in tables], ignore_index=True).copy()
    check_keys(["id", "status", *vary], "column", runs.columns)
    if double := runs.loc[runs["id"].duplicated(), "id"].tolist():
        raise EraseError(f"run {double[0]!r} is in {list(map(str, tables))} twice: give each once")
    runs["setting"] = label(runs, vary)
    paths = [Path(t).with_name(f"{Path(t).stem}_{suite}_pictures.parquet") for t in tables]
    pictures = pd.concat([read_table(path) for path in paths], ignore_index=True)
    done = runs[runs["status"] == "done"].set_index("id")["setting"]
    pictures = pictures[pictures["id"].isin(done.index)]
    if pictures.empty:
        raise EraseError(f"no picture of a finished run in {list(map(str, tables))}: publish anew")
    named = pictures["id"].map(done)
    return runs, pictures.assign(setting=named.where(pictures["model"] == "erased", "original"))


def units(pictures: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The mean of each unit, a concept in a split, over all its pictures and all seeds of the
    erasure: group, targets, concept, setting, value. `metric`: ESR-k, PSR-k, either with " style",
    ESR-k with " judge+eye", or one of `PLAIN`. Raises `EraseError` for another and for one that
    these pictures were not measured by."""
    ranked = metric[:4] in ("ESR-", "PSR-") and METRIC.fullmatch(metric)
    if not ranked and metric not in PLAIN:
        raise unknown("metric", metric, ["ESR-1", "PSR-1", *PLAIN])
    if metric.endswith(BOTH) and "eye" not in pictures:
        raise EraseError(f"these pictures were not measured by {metric!r}: ask for 'ESR-1'")
    value = successes(metric, pictures) if ranked else pictures[PLAIN[metric]]
    found = pictures.assign(value=value).dropna(subset=["value"])
    return found.groupby([*UNIT, "setting"], as_index=False, sort=False)["value"].mean()


def _units_of(pictures: pd.DataFrame, group: str, metric: str) -> pd.DataFrame:
    """`units` of a group. Raises `EraseError` for an unknown one, and where there are none."""
    check_keys([group], "group", pictures["group"].unique())
    if (found := units(pictures[pictures["group"] == group], metric)).empty:
        raise EraseError(f"group {group!r} has no {metric} of any concept: ask for another")
    return found


def levels(pictures: pd.DataFrame, asked: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Each setting's mean of each (group, metric). Columns: setting, group, metric, value, low,
    high (95 %, bootstrap over `UNIT`s), spread (standard deviation over the splits, as the paper
    gives), units, splits. Raises `EraseError` for a group or metric that is unknown, or that no
    concept has."""
    rows = []
    for group, metric in asked:
        for setting, part in _units_of(pictures, group, metric).groupby("setting", sort=False):
            low, high = bootstrap(part["value"].to_numpy())
            splits = part.groupby("targets")["value"].mean()
            row = {"setting": setting, "group": group, "metric": metric}
            row |= {"value": part["value"].mean(), "low": low, "high": high, "spread": splits.std()}
            rows.append(row | {"units": len(part), "splits": len(splits)})
    return pd.DataFrame(rows)


def wide(levels: pd.DataFrame) -> pd.DataFrame:
    """`levels` to read: a row a setting, a column a metric and group, "0.91 [0.88, 0.94]"."""
    numbers = levels[["value", "low", "high"]].to_numpy()
    text = ["{:.2f} [{:.2f}, {:.2f}]".format(*row) for row in numbers]
    shown = levels.assign(text=text, what=levels["metric"] + " " + levels["group"])
    found = shown.pivot(index="setting", columns="what", values="text")
    return found.loc[shown["setting"].unique(), shown["what"].unique()]


def differences(
    pictures: pd.DataFrame, asked: Sequence[tuple[str, str]], base: str, seed: int = 0
) -> pd.DataFrame:
    """Every setting against `base`, matched concept by concept, with a test. Columns: setting,
    group, metric, value (setting − base), low, high (as in `levels`), p (`measure.flipped`), q (p
    after Holm's correction over the settings of a metric), units. Raises `EraseError` for an
    unknown base, one without a match, and as `levels`."""
    rows: list[dict[str, Any]] = []
    for group, metric in asked:
        found, some = _units_of(pictures, group, metric), []
        wide = found.pivot(index=UNIT, columns="setting", values="value")
        check_keys([base], "setting", wide.columns)
        for setting in wide.columns.drop(base):
            gaps = (wide[setting] - wide[base]).dropna().to_numpy()
            if not len(gaps):
                raise EraseError(f"no concept of {setting!r} is matched in {base!r}: leave it out")
            low, high = bootstrap(gaps)
            row = {"setting": setting, "group": group, "metric": metric, "value": gaps.mean()}
            row |= {"low": low, "high": high, "p": flipped(gaps, seed=seed), "units": len(gaps)}
            some.append(row)
        corrected = holm([row["p"] for row in some])
        rows += [row | {"q": q} for row, q in zip(some, corrected, strict=True)]
    return pd.DataFrame(rows)


def caption(pictures: pd.DataFrame, runs: pd.DataFrame) -> str:
    """What stands under a figure: what measured it, of how much."""
    of = pictures[pictures["model"] == "erased"]
    done = runs.loc[runs["id"].isin(of["id"]), "seed"].dropna().astype(int)
    seeds = ", ".join(map(str, sorted(done.unique())))
    return (
        f"{of['id'].nunique()} erasures ({of['targets'].nunique()} splits, seeds {seeds}) ·"
        f" {len(of):,} pictures of {of['concept'].nunique()} concepts, each beside the unedited"
        f" model's from the same noise\nmeasured by {'; '.join(of['measured_by'].unique())}\n"
        "Intervals: 95 %, bootstrap over concepts within the splits; seeds of the erasure averaged."
    )


def paper_form(levels: pd.DataFrame) -> pd.DataFrame:
    """Of `levels` what table 1 of Bui et al. 2024 has, for `beside`: method, metric, value, low,
    high, spread. The first setting of a method counts as it, others (searches) keep their names."""
    table = levels[levels["group"].isin(["target", "kept"])].reset_index(drop=True)
    settings = pd.Series(levels["setting"].unique(), dtype=object)
    named = settings.str.partition(",")[0]
    first = dict(zip(settings, named.where(~named.duplicated(), settings), strict=True))
    return table.assign(method=table["setting"].map(first))[[*OURS, "spread"]]


def published(experiment: str) -> pd.DataFrame:
    """The published cells of one of `EXPERIMENTS`, a row each, columns `COLUMNS`. spread: standard
    deviation over 4 splits (NaN where not given); unit: percent or score; run: which of several
    sets ("" of one). Raises `EraseError` for another, and a damaged file."""
    check_keys([experiment], "experiment", EXPERIMENTS)
    cells = whole_table(FILE, dtype=str).query("experiment == @experiment")[COLUMNS]
    numbers = cells[["value", "spread"]].apply(pd.to_numeric)
    return cells.assign(**numbers).reset_index(drop=True)


def beside(ours: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Ours and the published cells as text: a row a method, columns (metric, ours or published).
    `ours`: method, metric, value, low, high, a row each; ESR, PSR and NER are shares in [0, 1] and
    shown in percent, as "96.3 [92.5, 100]". Published "98.6 ± 1.2", two sets of runs "95.5 / 78.1";
    `NONE` where a side has nothing. `attrs["note"]` says how to read it. Raises `EraseError` for
    columns that lack, a method twice, a share that is none, and when no metric was published."""
    theirs = published(experiment)
    mine = _own(ours, theirs).assign(side="ours", spread=math.nan)
    mine[OURS[2:]] = mine[OURS[2:]].mul(mine["scale"], axis=0)
    cells = pd.concat([mine, theirs.assign(side="published")])
    cells["text"] = [_text(*row) for row in cells[[*OURS[1:], "spread"]].to_numpy()]
    found = cells.pivot_table("text", "method", ["metric", "side"], aggfunc=" / ".join)
    sides = [theirs["metric"].unique(), ["ours", "published"]]
    columns = pd.MultiIndex.from_product(sides, names=["metric", "side"])
    methods = pd.Index([*theirs["method"], *mine["method"]], name="method").unique()
    found = found.reindex(methods).reindex(columns=columns, fill_value=NONE).fillna(NONE)
    found.attrs["note"] = NOTE
    return found


def published_order(ours: pd.DataFrame, experiment: str, metric: str) -> pd.DataFrame:
    """Kendall's τ_b between our order of methods and the published one, by those that both have. A
    row for each published set of runs: metric, run, n (methods), tau (NaN where one side is all
    ties), ours and published (methods, the highest value first, equal ones as in `ours`). Raises
    `EraseError` for an unknown metric, fewer than 3 methods in common, and as `beside`."""
    theirs = published(experiment)
    check_keys([metric], "metric", theirs["metric"].unique())
    own = _own(ours, theirs).query("metric == @metric").set_index("method")["value"]
    part = theirs[(theirs["metric"] == metric) & theirs["method"].isin(own.index)]
    if len(both := part["method"].unique()) < 3:
        raise EraseError(f"{len(both)} methods have {metric} here and published: measure 3 or more")
    rows = []
    for run in [run for run in part["run"].unique() if run] or [""]:
        known = part[part["run"].isin(["", run])].set_index("method")["value"]
        sides = pd.DataFrame({"ours": own, "published": known.reindex(own.index)}).dropna()
        tau = sides["ours"].corr(sides["published"], method="kendall")
        orders = {s: sides.index[np.argsort(-sides[s], kind="stable")].tolist() for s in sides}
        rows.append({"metric": metric, "run": run, "n": len(sides), "tau": tau} | orders)
    return pd.DataFrame(rows)


def _own(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Rows of `ours` with a published metric and a value, checked; `scale` is how to show them."""
    if lacking := [name for name in OURS if name not in ours]:
        raise EraseError(f"our table lacks the columns {lacking}: expected {', '.join(OURS)}")
    units = zip(theirs["metric"], theirs["unit"], strict=True)
    shown = {metric: 100.0 if unit == "percent" else 1.0 for metric, unit in units}
    try:
        numbers = {name: pd.to_numeric(ours[name]).astype(float) for name in OURS[2:]}
    except (ValueError, TypeError) as error:
        raise EraseError(f"our table has a value that is no number ({reason(error)})") from None
    mine = ours.assign(**numbers, scale=ours["metric"].map(shown).astype(float))
    mine = mine.dropna(subset=["scale", "value"])
    if mine.empty:
        raise EraseError(f"our table has no published metric: expected of {', '.join(shown)}")
    if (double := mine.duplicated(["method", "metric"])).any():
        method, metric = mine.loc[double, ["method", "metric"]].iloc[0]
        raise EraseError(f"our table has {metric} of {method!r} twice: average its runs first")
    if (off := (mine["scale"] == 100) & ~mine["value"].between(0, 1)).any():
        method, metric, value = mine.loc[off, OURS[:3]].iloc[0]
        raise EraseError(f"{metric} of {method!r} is {value}: expected a share from 0 to 1")
    return mine


def _text(metric: str, value: float, low: float, high: float, spread: float) -> str:
    """As "98.6 ± 1.2", "96.3 [92.5, 100]" or "95.5": what is NaN is left out."""
    digits = DIGITS.get(metric.partition("-")[0].partition(" ")[0], 1)
    told = [f"{x:.{digits}f}" for x in (value, spread, low, high)]
    told = ["100" if float(text) == 100 else text for text in told]
    text = told[0] if math.isnan(spread) else f"{told[0]} ± {told[1]}"
    return text if math.isnan(low + high) else f"{text} [{told[2]}, {told[3]}]"
