"""The table of a sweep, rebuilt from its run folders at any time, and which runs answer what."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from erase_lib.errors import EraseError, reason
from erase_lib.files import alone, as_path, whole, writing
from erase_lib.sweep.grid import Values
from erase_lib.sweep.run import DONE, FAILED, METRICS, RECORD, VERSIONS, read_record

KEPT = ("seconds", "threads", "started", "git_commit", *VERSIONS)  # of a run's record


def collect(out: str | Path, ids: Iterable[str] | None = None) -> pd.DataFrame:
    """A row for each run in `out`, or of `ids`, also written to results.parquet and results.csv:
    id, status (done, failed, unfinished, damaged), parameters, metrics, seconds, versions, error. A
    metric with an interval: `ESR-1 erased`, `… low`, `… high`, `… n`. `EraseError` for no runs."""
    out = as_path(out)
    names = sorted(path.parent.name for path in out.glob(f"*/{RECORD}")) if ids is None else ids
    table = pd.DataFrame([row(out / name) for name in names])
    if table.empty:
        raise EraseError(f"{out} holds no runs: expected the folder of a sweep")
    for name in table.columns:  # Parquet has one kind a column
        kinds = set(table[name].dropna().map(type))
        if len(kinds) > 1 and kinds != {int, float}:
            table[name] = table[name].map(lambda value: None if pd.isna(value) else str(value))
    lock, files = out / "results.lock", (out / "results.parquet", out / "results.csv")
    # the lock, for who collects by hand beside a sweep
    with writing(out), alone(lock, wait=True), whole(*files) as (parquet, csv):
        table.to_parquet(parquet, index=False)
        table.to_csv(csv, index=False, lineterminator="\n")
    return table


def row(folder: Path) -> dict[str, Any]:
    """One run as a row; of a damaged one no more than that it is."""
    record, found = read_record(folder), {"id": folder.name, "status": "unfinished"}
    try:
        if "parameters" not in record and (folder / RECORD).exists():
            raise ValueError("it is no record of a run")
        about = {name: cell(record.get(name)) for name in (*KEPT, "cell", "error")}
        given = {cell(name): cell(value) for name, value in record.get("parameters", {}).items()}
    except (ValueError, RecursionError) as wrong:
        text = f"{RECORD} is damaged ({reason(wrong)}): run the sweep again, or delete the folder"
        return found | {"status": "damaged", "error": text}
    if record.get("status") in (DONE, FAILED):
        found["status"] = record["status"]
    found |= given | found
    if found["status"] == DONE and (folder / METRICS).exists():
        try:
            metrics = flat(json.loads((folder / METRICS).read_text("utf-8")))
            found |= {name: metrics[name] for name in metrics if name not in found | record}
        except Exception as wrong:  # whatever has written it
            about["error"] = f"{METRICS} is damaged ({reason(wrong)}): run again with --force"
    return found | about


def cell(value: Any) -> Any:
    """A table's cell: a list joined, nested JSON; `ValueError` for what Parquet cannot hold."""
    if isinstance(value, list) and not any(isinstance(v, (dict, list)) for v in value):
        value = "+".join(map(str, value))
    elif isinstance(value, (dict, list)):
        value = json.dumps(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("an integer beyond 64 bits")
    return value.encode().decode() if isinstance(value, str) else value  # no half a character


def flat(metrics: dict[str, Any]) -> dict[str, Any]:
    """metrics.json as columns: numbers and texts as they are, the rows of `metrics` by name."""
    columns = {cell(k): cell(v) for k, v in metrics.items() if isinstance(v, (int, float, str))}
    for line in metrics.get("metrics", []):
        parts = ("suite", "metric", "group", "model")
        name = cell(" ".join(str(line[part]) for part in parts if part in line))
        numbers = {f"{name} {key}": line[key] for key in ("low", "high", "n") if key in line}
        for key, value in {name: line["value"], **numbers}.items():
            columns[key] = cell(value) if value is None else cell(0 + value)  # no text
    return columns


def question(
    runs: pd.DataFrame, vary: str, settings: Sequence[str], fixed: Values, defaults: Values
) -> pd.DataFrame:
    """The rows of a sweep's table that differ in `vary` alone, sorted by it: all other `settings`
    are as in `fixed`, or empty, not given; where `vary` is, it becomes the one of `defaults`.
    Raises `EraseError` when fewer than two values of it are left."""
    others = [name for name in settings if name not in (vary, *fixed)]
    kept = runs[others].isna().all(axis=1)
    for name, value in fixed.items():
        kept &= runs[name] == value
    part = runs[kept].copy()
    kind = type(defaults[vary])
    # beside empty cells a table's integers and truth values have become others
    values = [defaults[vary] if pd.isna(value) else kind(value) for value in part[vary]]
    part[vary] = pd.Series(values, index=part.index, dtype=object)
    if part[vary].nunique() < 2:
        raise EraseError(f"no two runs differ in {vary} alone: expected a grid that varies it")
    return part.sort_values(vary, kind="stable")


def write_short(rows: pd.DataFrame, path: Path) -> None:
    """A Parquet file of few bytes: numbers to three digits (11 bits), which no measurement here
    exceeds, as float32, their bytes apart; no prompts, which concept and style say."""
    rows = rows.drop(columns="prompt", errors="ignore").copy()
    numbers = list(rows.select_dtypes("floating"))
    for name in numbers:
        bits = rows[name].to_numpy("float32", copy=True).view("int32")
        rows[name] = ((bits + 0x1000) & ~0x1FFF).view("float32")
    words = [name for name in rows if name not in numbers]
    small = {"compression": "zstd", "compression_level": 19, "use_byte_stream_split": numbers}
    rows.to_parquet(path, index=False, use_dictionary=words, **small)


def publish(table: pd.DataFrame, out: Path, target: Path, grid: Path) -> None:
    """Put a finished table where later notebooks read it: NAME.csv, the grid, and NAME.json with
    its hours and versions, NAME being the grid file's. So also the tables that the runs wrote as
    Parquet: NAME_TABLE.parquet has the rows of all, each run's id and targets in front."""
    target.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"runs": len(table), "hours": round(table["seconds"].sum() / 3600, 2)}
    for name in ("threads", "git_commit", *VERSIONS):
        about[name] = sorted(table[name].astype(str).unique())
    with whole(target / f"{grid.stem}.csv", target / f"{grid.stem}.json") as (csv, text):
        # what differs from machine to machine stays out of the table
        table.drop(columns=["cell", "error", *VERSIONS]).to_csv(csv, index=False)
        text.write_text(json.dumps(about, indent=1), encoding="utf-8")
    parts: dict[str, list[pd.DataFrame]] = {}
    for run in table.to_dict("records"):
        for path in (out / run["id"]).glob("*.parquet"):
            try:
                part = pd.read_parquet(path)
                for column in ("targets", "id"):
                    part.insert(0, column, run.get(column))
            except (OSError, ValueError) as error:
                raise EraseError(f"{path} is damaged ({reason(error)}): run it again") from None
            parts.setdefault(path.name, []).append(part)
    for name, tables in parts.items():
        with whole(target / f"{grid.stem}_{name}") as (path,):
            write_short(pd.concat(tables, ignore_index=True), path)
    if grid.suffix == ".yaml" and grid.resolve() != (target / grid.name).resolve():
        shutil.copy(grid, target)
