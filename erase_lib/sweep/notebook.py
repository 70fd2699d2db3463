"""A notebook as a run: its settings, the folder that it starts with, the results it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from erase_lib.config import PROFILES, EraseConfig
from erase_lib.errors import unknown, unwritable
from erase_lib.files import whole

METRICS = "metrics.json"
SMOKE = "SMOKE RUN: A FEW STEPS TO SEE THAT EVERYTHING WORKS. DO NOT QUOTE ITS NUMBERS."


def settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to `EraseConfig` among a notebook's parameters: `settings(globals())`."""
    return {f.name: parameters[f.name] for f in fields(EraseConfig) if f.name in parameters}


def start(profile: str, output: str | Path) -> Path:
    """The run's folder, made if it is not there; a smoke run says so in large letters.

    Raises `EraseError` for an unknown profile, and a folder that cannot be made.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    if profile == "smoke":
        print(SMOKE)
    return folder


def finish(folder: str | Path, result: Mapping[str, Any]) -> None:
    """Write `result` to metrics.json, whole or not at all: plain values, and tables as their rows.

    Raises `EraseError` when it cannot be written.
    """
    path = Path(folder) / METRICS
    try:
        write(path, result)
    except OSError as error:
        raise unwritable(path, error) from None


def write(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    with whole(path) as (temporary,):
        temporary.write_text(json.dumps(dict(values), indent=2, default=_plain), "utf-8")


def _plain(value: Any) -> Any:
    """A table as its rows, NumPy's numbers and arrays as Python's."""
    if hasattr(value, "to_dict"):
        return value.to_dict("records")
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
