"""One setting at a time: which runs of a grid answer which question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from erase_lib.errors import EraseError


def question(
    runs: pd.DataFrame,
    vary: str,
    settings: Sequence[str],
    fixed: Mapping[str, object],
    defaults: Mapping[str, object],
) -> pd.DataFrame:
    """The runs that differ in `vary` alone: all other `settings` are as in `fixed`, or not given.

    `runs` is a sweep's table, empty where a setting was not given; those of `vary` are filled from
    `defaults`, and sorted by it. Raises `EraseError` when fewer than two values of it are left.
    """
    kept = pd.Series(True, index=runs.index)
    for name in settings:
        if name in fixed:
            kept &= runs[name] == fixed[name]
        elif name != vary:
            kept &= runs[name].isna()
    part = runs[kept].copy()
    kind: Callable[[object], object] = type(defaults[vary])
    # beside empty cells a table's integers and truth values have become others
    values = [defaults[vary] if pd.isna(value) else kind(value) for value in part[vary]]
    part[vary] = pd.Series(values, index=part.index, dtype=object)
    if part[vary].nunique() < 2:
        raise EraseError(f"no two runs differ in {vary} alone: expected a grid that varies it")
    return part.sort_values(vary, kind="stable")
