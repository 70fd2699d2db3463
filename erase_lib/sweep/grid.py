"""A grid of parameters, from the command line or a YAML file, checked before the first run."""

from __future__ import annotations

import ast
import itertools
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from erase_lib.concepts import check_concepts
from erase_lib.config import EraseConfig
from erase_lib.errors import EraseError, reason
from erase_lib.files import check_keys

OUTPUT = "output"  # the parameter that every swept notebook has: where the sweep puts the run
RESERVED = {"id", "status", "seconds", "threads", "started", "git_commit", "cell", "error"}
SECTIONS = ("notebook", "fixed", "grid", "zip", "cases")
MOST = 10_000  # runs of a grid
Values = dict[str, Any]


class Parameter(NamedTuple):
    """One line of a parameters cell; str, int, float, bool, list[…] or Optional[…] is its kind."""

    kind: str
    default: Any


def settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to `EraseConfig` among a notebook's parameters: `settings(globals())`."""
    return {f.name: parameters[f.name] for f in fields(EraseConfig) if f.name in parameters}


def parameters(notebook: str | Path) -> dict[str, Parameter]:
    """What the cell tagged `parameters` offers. Raises `EraseError` for a missing or damaged
    notebook, one without such a cell or without `output`, and a default that is no plain value."""
    import papermill  # takes seconds, which a notebook that only reads tables need not wait

    path, known = Path(notebook), {}
    try:
        path.read_bytes()  # papermill would warn of a name without .ipynb first
        found = papermill.inspect_notebook(path)
    except Exception as error:  # json, nbformat and papermill each raise their own kinds
        raise EraseError(f"{path} is missing or no notebook ({reason(error)})") from None
    if OUTPUT not in found:
        raise EraseError(f"{path} cannot be swept: no cell tagged parameters sets `{OUTPUT}`")
    if taken := sorted(RESERVED & found.keys()):
        raise EraseError(f"{path}: parameter {taken[0]!r} is a column of the results: rename it")
    for name, line in found.items():
        try:
            default = ast.literal_eval(line["default"])
            kind = line["inferred_type_name"]
            if kind == "None":  # no annotation: the default's own kind
                kind = type(default).__name__
            # `lam: float = 5` is 5.0, as `-p lam=5` is
            known[name] = Parameter(kind, convert(default, kind, name))
        except (ValueError, SyntaxError):
            raise EraseError(f"{path}: {name} = {line['default']} is no plain value") from None
    return known


def pieces(text: str, at: str) -> list[str]:
    """A text cut `at` each comma or plus that stands in no double quotes, as in CSV."""
    if text.count('"') % 2:
        raise EraseError(f'{text!r} has a double quote that is not closed: write "" for one')
    return [part.strip() for part in re.split(rf'[{at}](?=(?:[^"]*"[^"]*")*[^"]*$)', text)]


def convert(value: Any, kind: str, name: str) -> Any:
    """A value as its annotated kind, or `EraseError`. Texts are read (`1e-5`, `true`, `none`,
    `church+dog`, `"C++"`): YAML 1.1 takes 1e-5 for one, and on a command line everything is."""
    if optional := re.fullmatch(r"Optional\[(.+)\]", kind):
        nothing = str(value).lower() in ("none", "null")
        # an empty list is a value too: no styles
        return None if nothing else [] if value == [] else convert(value, optional[1], name)
    if many := re.fullmatch(r"list\[(.+)\]", kind):
        items = pieces(value, "+") if isinstance(value, str) else value
        if isinstance(value, str) and "" in items:
            raise EraseError(f"{name} is {value!r}, with nothing beside a +: quote it as '\"C++\"'")
        items = [items] if isinstance(items, (int, float)) else items
        if not isinstance(items, (list, tuple)) or not items:
            raise EraseError(f"{name} is {value!r}: expected {kind}, such as one or more values")
        return [convert(item, many[1], name) for item in items]
    if kind == "str" and isinstance(value, str):
        quoted = re.fullmatch(r'"((?:[^"]|"")*)"', value)
        return quoted[1].replace('""', '"') if quoted else value
    if kind not in ("str", "bool", "int", "float"):
        return value  # without annotation, or with one of the notebook's own, it stays
    if kind == "bool" and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind in ("int", "float") and not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):
            if isinstance(value, str) and not re.fullmatch(r"[-+.0-9eE\s]+", value):
                raise ValueError(value)  # Python also takes 1_0, and the digits of other scripts
            number = {"int": int, "float": float}[kind](value)
            fits = kind == "float" or -(2**63) <= number < 2**63  # what a table holds
            if fits and math.isfinite(number) and (isinstance(value, str) or number == value):
                return number + 0  # -0.0 is 0.0
    form = f"{kind} of 64 bits" if kind == "int" else kind
    raise EraseError(f"{name} is {value!r} ({type(value).__name__}): expected {form}")


def read_arguments(pairs: Iterable[str]) -> Values:
    """`["method=esd,eap", "seed=0"]` as the section `{"method": ["esd", "eap"], "seed": ["0"]}`."""
    grid: dict[str, list[str]] = {}
    for pair in pairs:
        if re.search(r"[\ud800-\udfff]", pair):  # what the locale cannot read
            raise EraseError(f"-p {pair!r} is no text here: write UTF-8, in a locale of UTF-8")
        name, _, text = (part.strip() for part in pair.partition("="))
        if not name or not text:
            raise EraseError(f"-p {pair!r}: expected name=value or name=value,value")
        if name in grid:
            raise EraseError(f"-p {name} is given twice: write {name}=value,value")
        grid[name] = pieces(text, ",")
    return grid


def expand(spec: Mapping[str, Any], most: int = MOST) -> list[Values]:
    """Every case: each row of `cases` × each row of `zip` × the product of `grid`, over `fixed`.
    Raises `EraseError` for a section of another form, a name in two, and more than `most` cases."""
    fixed, grid, zipped = (section(spec, name) for name in ("fixed", "grid", "zip"))
    for name, values in (grid | zipped).items():
        if not isinstance(values, list) or not values:
            raise EraseError(f"{name} is {values!r}: expected a list of values to run through")
    sizes = {name: len(values) for name, values in zipped.items()}
    if len(set(sizes.values())) > 1:
        raise EraseError(f"zip has lists of {sizes} values: expected as many in each")
    cases = spec.get("cases", [{}])
    if not (isinstance(cases, list) and cases and all(isinstance(c, dict) for c in cases)):
        raise EraseError("cases: expected a list of mappings from parameter to value")
    sections = [fixed, grid, zipped, {name: None for case in cases for name in case}]
    for first, second in itertools.combinations(sections, 2):
        if both := sorted(map(str, first.keys() & second.keys())):
            raise EraseError(f"{both[0]} stands in two sections of the grid: keep one")
    rows = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)]
    rows = rows or [{}]
    if (count := math.prod([len(cases), len(rows), *map(len, grid.values())])) > most:
        raise EraseError(f"{count:,} runs: expected at most {most:,}; --most N allows more")
    points = (dict(zip(grid, p, strict=True)) for p in itertools.product(*grid.values()))
    return [fixed | case | row | p for case, row, p in itertools.product(cases, rows, points)]


def section(spec: Mapping[str, Any], name: str) -> Values:
    """The section of a grid; empty if absent. Raises `EraseError` when it is no mapping."""
    found = {} if spec.get(name) is None else spec[name]
    if not isinstance(found, dict):
        raise EraseError(f"{name} is {found!r}: expected a mapping from parameter to value")
    return found


def erasure_of(values: Mapping[str, Any]) -> EraseConfig | None:
    """What a run's parameters erase by; None for a notebook without such settings."""
    if own := settings(values):
        own.setdefault("targets", [values.get("target") or "church"])
        return EraseConfig.from_profile(values.get("profile") or "course", **own)
    return None


def check(
    known: Mapping[str, Parameter], cases: Sequence[Values], skip_invalid: bool = False
) -> list[Values]:
    """Each case with every parameter of the notebook but `output`, converted to its kind; what
    belongs to `EraseConfig` is checked by it. Raises `EraseError` for the first wrong one; one
    whose settings do not go together is left out with `skip_invalid`."""
    free = {name: p for name, p in known.items() if name != OUTPUT}
    checked, sound = list[Values](), set[str]()
    for case in cases:
        if OUTPUT in case:
            raise EraseError(f"{OUTPUT} is set by the sweep itself: give --out instead")
        check_keys(case, "parameter", free)
        values = {name: p.default for name, p in free.items()}
        values |= {name: convert(value, free[name].kind, name) for name, value in case.items()}
        try:
            config = erasure_of(values)
            new = set(config.targets) - sound if config else set()
            given = values.get("model") or values.get("profile") == "paper"  # Stable Diffusion's
            if new and not given:  # the embedded one: its judge knows these
                check_concepts(sorted(new))
                sound |= new
        except EraseError as error:
            if not skip_invalid:
                raise
            print(f"left out: {case}: {error}", file=sys.stderr)
        else:
            checked.append(values)
    if not checked:
        raise EraseError("no run of the grid is valid: nothing is left to do")
    return checked
