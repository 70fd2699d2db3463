"""A grid of parameters, from the command line or a YAML file, checked before the first run."""

from __future__ import annotations

import ast
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_lib.concepts import check_concepts
from erase_lib.config import EraseConfig
from erase_lib.errors import EraseError, reason, unknown
from erase_lib.files import read_mapping
from erase_lib.sweep.notebook import settings

OUTPUT = "output"  # the parameter that every swept notebook has: where the sweep puts the run
RESERVED = {"id", "status", "seconds", "threads", "started", "git_commit", "cell", "error"}
SECTIONS = ("notebook", "fixed", "grid", "zip", "cases")
Values = dict[str, Any]


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell."""

    kind: str
    """str, int, float, bool, list[…] of these or Optional[…] of any."""
    default: Any


def parameters(notebook: str | Path) -> dict[str, Parameter]:
    """What the cell tagged `parameters` offers, through papermill's own inspection.

    Raises `EraseError` for a missing or damaged notebook, one without such a cell or without
    `output`, and a default that is not a plain value.
    """
    import papermill  # takes seconds, which a notebook that only reads tables need not wait

    path = Path(notebook)
    if not path.is_file():
        raise EraseError(f"notebook {path} does not exist")
    try:
        found = papermill.inspect_notebook(path)
    except Exception as error:  # json, nbformat and papermill each raise their own kinds
        raise EraseError(f"{path} is no notebook ({reason(error)})") from None
    if OUTPUT not in found:
        raise EraseError(f"{path} cannot be swept: no cell tagged parameters sets `{OUTPUT}`")
    if taken := sorted(RESERVED & found.keys()):
        raise EraseError(f"{path}: parameter {taken[0]!r} is a column of the results: rename it")
    known = {}
    for name, line in found.items():
        try:
            default = ast.literal_eval(line["default"])
            kind = line["inferred_type_name"]
            if kind == "None":  # no annotation: the default's own kind
                kind = "None" if default is None else type(default).__name__
            default = convert(default, kind, name)  # `lam: float = 5` is 5.0, as `-p lam=5` is
        except (ValueError, SyntaxError):
            raise EraseError(
                f"{path}: parameter {name} = {line['default']}: expected a plain value"
            ) from None
        known[name] = Parameter(kind, default)
    return known


def convert(value: Any, kind: str, name: str) -> Any:
    """A value as its annotated kind: texts are read (`1e-5`, `true`, `none`, `church+dog`).

    YAML 1.1 takes 1e-5 for a text, and on a command line everything is one. `EraseError` when it
    cannot be read as `kind`.
    """
    if optional := re.fullmatch(r"Optional\[(.+)\]", kind):
        nothing = value is None or (isinstance(value, str) and value.lower() in ("none", "null"))
        # an empty list is a value too: no styles
        return None if nothing else [] if value == [] else convert(value, optional[1], name)
    if many := re.fullmatch(r"list\[(.+)\]", kind):
        items = [v.strip() for v in value.split("+")] if isinstance(value, str) else value
        if isinstance(items, (bool, int, float)):
            items = [items]
        if not isinstance(items, (list, tuple)) or not items:
            raise EraseError(f"{name} is {value!r}: expected {kind}, such as one or more values")
        return [convert(item, many[1], name) for item in items]
    if kind == "str" and isinstance(value, str):
        return value
    if kind == "bool" and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind in ("int", "float") and not isinstance(value, bool):
        try:
            number = {"int": int, "float": float}[kind](value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number) and (isinstance(value, str) or number == value):
            return number
    if kind not in ("str", "bool", "int", "float"):
        return value  # no annotation, or one of the notebook's own
    raise EraseError(f"{name} is {value!r} ({type(value).__name__}): expected {kind}")


def read_arguments(pairs: Iterable[str]) -> Values:
    """`["method=esd,eap", "seed=0"]` as the section `{"method": ["esd", "eap"], "seed": ["0"]}`."""
    grid: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise EraseError(f"-p {pair!r}: expected name=value or name=value,value")
        if name.strip() in grid:
            raise EraseError(f"-p {name.strip()} is given twice: write {name.strip()}=value,value")
        grid[name.strip()] = [value.strip() for value in text.split(",")]
    return grid


def read_yaml(path: str | Path) -> Values:
    """The sections of a grid file. Raises `EraseError`, with the line, for what is not one."""
    return read_mapping(path, "grid", SECTIONS)


def expand(spec: Mapping[str, Any]) -> list[Values]:
    """Every case: each row of `cases` × each row of `zip` × the product of `grid`, over `fixed`.

    Raises `EraseError` for a section of the wrong form, lists of unequal length in `zip`, a name in
    two sections, and an empty grid.
    """
    fixed, grid, zipped = (section(spec, name) for name in ("fixed", "grid", "zip"))
    for name, values in (grid | zipped).items():
        if not isinstance(values, list) or not values:
            raise EraseError(f"{name} is {values!r}: expected a list of values to run through")
    if len({len(values) for values in zipped.values()}) > 1:
        sizes = ", ".join(f"{name} {len(values)}" for name, values in zipped.items())
        raise EraseError(f"zip has lists of unequal length: {sizes}")
    cases = spec.get("cases", [{}])
    if not (isinstance(cases, list) and cases and all(isinstance(c, dict) for c in cases)):
        raise EraseError("cases: expected a list of mappings from parameter to value")
    sections = [fixed, grid, zipped, dict.fromkeys(k for case in cases for k in case)]
    for first, second in itertools.combinations(sections, 2):
        if both := sorted(map(str, first.keys() & second.keys())):
            raise EraseError(f"{both[0]} stands in two sections of the grid: keep one")
    rows = zip(*zipped.values(), strict=True) if zipped else [()]
    product = itertools.product(cases, rows, itertools.product(*grid.values()))
    return [
        fixed | case | dict(zip(zipped, row, strict=True)) | dict(zip(grid, point, strict=True))
        for case, row, point in product
    ]


def section(spec: Mapping[str, Any], name: str) -> Values:
    """The section of a grid; empty if absent. Raises `EraseError` when it is no mapping."""
    found = spec.get(name) or {}
    if not isinstance(found, dict):
        raise EraseError(f"{name} is {found!r}: expected a mapping from parameter to value")
    return found


def check(known: Mapping[str, Parameter], cases: Sequence[Values]) -> list[Values]:
    """Each case with every parameter of the notebook, converted to its kind; `output` left out.

    What belongs to `EraseConfig` is checked by it too. Raises `EraseError` for the first wrong one.
    """
    free = {name: p for name, p in known.items() if name != OUTPUT}
    checked, targets = [], set()
    for case in cases:
        for name in case:
            if name == OUTPUT:
                raise EraseError(f"{OUTPUT} is set by the sweep itself: give --out instead")
            if name not in free:
                raise unknown("parameter", name, free)
        values = {name: p.default for name, p in free.items()}
        values |= {name: convert(value, free[name].kind, name) for name, value in case.items()}
        if own := settings(values):
            own.setdefault("targets", [values.get("target") or "church"])
            EraseConfig.from_profile(values.get("profile") or "course", **own)
            if not values.get("model"):  # the embedded one: its judge knows these
                targets.update(own["targets"])
        checked.append(values)
    check_concepts(sorted(targets))
    return checked
