"""One setting at a time: which runs of a grid answer which question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
            kept &= runs[name].astype(str) == str(fixed[name])
        elif name != vary:
            kept &= runs[name].isna()
    # several settings may be numbers: as objects they stay what they are
    part = runs[kept].copy()
    part[vary] = part[vary].astype(object).where(part[vary].notna(), defaults[vary])
    if part[vary].nunique() < 2:
        raise EraseError(f"no two runs differ in {vary} alone: expected a grid that varies it")
    return part.sort_values(vary, kind="stable")
