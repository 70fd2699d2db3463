"""The gate at public functions: what they are given is of the kind that their type hints say."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, wraps
from inspect import Parameter, isfunction, signature
from itertools import islice
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from reprlib import Repr
from traceback import walk_tb
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from erase_lib.errors import EraseError, unknown
from erase_lib.files import as_path

F = TypeVar("F", bound=Callable[..., Any])
# what more is taken for a kind than its own; a bool is no number
PLAIN: dict[Any, Any] = {int: Integral, float: Real, Path: (str, PathLike), bool: (bool, np.bool_)}
NUMBERS = (int, float)
# who makes what cannot stand in the place of a class of ours; any other object may
MOST = 10**6  # items of a list
COMMON = {"builtins", "pathlib", "numpy", "pandas", "PIL", "torch", "diffusers", "erase_lib"}
MAKERS = {"Pipeline": "load_pipeline()", "EraseConfig": "EraseConfig(...) or EraseConfig.from_dict"}
MAKERS |= {"Erasure": "erase or Erasure.load", "Suite": "read_suite", "World": "World(pipe)"}
MAKERS |= {"Judge": "Judge.load()", "Classifier": "World(pipe).judge"}


class Short(Repr):
    """`repr` of at most a line; Python itself refuses to print integers of thousands of digits."""

    def repr_int(self, x: int, level: int) -> str:
        """A long one in hexadecimal, which has no limit."""
        return super().repr_int(x, level) if abs(x) < 2**64 else f"{hex(x)[:12]}…"


SHORT = Short()
SHORT.maxstring = SHORT.maxother = 60


def gate(given: F) -> F:
    """The function, or the class with its public methods, that raises `EraseError` for an argument
    that is missing, unknown or of another kind than its hint, and for a table without a column, or
    any row, that is looked for in it. NumPy's numbers are handed on as Python's own, columns and
    arrays as lists where a list is asked for."""
    if isinstance(given, type):
        for name, found in list(vars(given).items()):
            inner = getattr(found, "__func__", found)  # a class method's
            if isfunction(inner) and (name[0] != "_" or name == "__init__"):
                made = gate(inner)
                setattr(given, name, made if inner is found else type(found)(made))
        return given
    form, door = signature(given), given.__qualname__.removesuffix(".__init__")
    kinds = cache(lambda: get_type_hints(given))  # at the first call every name in them is known

    @wraps(given)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = form.bind(*args, **kwargs)
        except TypeError as error:
            takes = [key for key in form.parameters if key not in ("self", "cls")]
            if "unexpected" in str(error) and (strange := [k for k in kwargs if k not in takes]):
                raise unknown(f"argument of {door}", strange[0], takes) from None
            raise EraseError(f"{door}: {error}; it takes {', '.join(takes[:12])}") from None
        for key, value in bound.arguments.items():
            asked = form.parameters[key]
            try:  # a pipeline's hint is Any: diffusers registers its parts where no checker sees
                if asked.annotation == "Pipeline" and not hasattr(value, "scheduler"):
                    raise TypeError(value)
                bound.arguments[key] = fit(value, kinds().get(key, Any))
            except TypeError as error:
                raise _refusal(door, asked, value, error.args[0]) from None
        try:
            return given(*bound.args, **bound.kwargs)
        except (EraseError, OSError):
            raise
        except Exception as error:  # each library has its own kinds for what a table lacks
            if text := _lacking(bound.arguments, error):
                raise EraseError(f"{door}: {text}") from error
            raise

    return checked  # type: ignore[return-value]


def guard(room: str) -> None:
    """`gate` what a room offers, for all who come from outside of it."""
    for name, value in list(vars(sys.modules[room]).items()):
        home = str(getattr(value, "__module__", ""))
        if home.startswith(f"{room}.") and (isfunction(value) or isinstance(value, type)):
            for module in (room, home):
                setattr(sys.modules[module], name, value := gate(value))


def fit(value: Any, kind: Any) -> Any:
    """The value as one of this kind. `TypeError` with the part of it that is none."""
    if kind is Any or (type(value) is kind and kind is not np.ndarray):
        return value
    of, parts = get_origin(kind) or kind, get_args(kind)
    if of in (Union, UnionType):
        for part in parts:
            with suppress(TypeError):
                return fit(value, part)
    elif of in (list, tuple, Sequence, Collection, Iterable):
        return _listed(value, of, parts or (Any, ...))
    elif of is Mapping and hasattr(value, "to_dict") and not hasattr(value, "columns"):
        return value  # a column, by its index
    elif of is np.ndarray:
        with suppress(ValueError, RuntimeError):  # rows of several lengths, a tensor with gradient
            if (array := np.asarray(value)).dtype.kind in "biuf" and array.ndim:
                return array
    elif isinstance(value, PLAIN.get(of, of)) and not (of in NUMBERS and isinstance(value, bool)):
        for part in value.values() if parts and isinstance(value, Mapping) else ():
            fit(part, parts[1])
        value = value.item() if isinstance(value, np.generic) else value
        if of is float and not isinstance(value, float):
            try:  # a fraction; an integer stays one, but for those that no float can be
                value = value if float(value) == value and isinstance(value, int) else float(value)
            except OverflowError:
                raise TypeError(value) from None
        return as_path(value) if of is Path else value
    elif of.__module__[:9] == "erase_lib" and type(value).__module__.split(".")[0] not in COMMON:
        return value
    raise TypeError(value)


def _listed(value: Any, of: Any, parts: tuple[Any, ...]) -> Any:
    """`fit` for lists: parts are what their items are; lazy sequences are not looked into."""
    value = value.tolist() if hasattr(value, "tolist") else value
    loose = (str, bytes) if of in (Iterable, Collection) else (str, bytes, Mapping, set, frozenset)
    if isinstance(value, loose) or hasattr(value, "columns") or not isinstance(value, Iterable):
        raise TypeError(value)
    if of in (list, tuple) or not isinstance(value, Sequence):
        value = list(islice(value, MOST + 1))
        if len(value) > MOST:
            raise TypeError(value[:3])
    if isinstance(value, (list, tuple)):
        parts = parts[:1] * len(value) if of is not tuple or parts[-1] is ... else parts
        if len(parts) != len(value):
            raise TypeError(value)
        value = of(map(fit, value, parts)) if of is tuple else list(map(fit, value, parts))
    return value


def _lacking(arguments: Mapping[str, Any], error: Exception) -> str:
    """What a table among the arguments lacks for which there was this error; "" if none does."""
    each = [(k, v.values() if isinstance(v, Mapping) else [v]) for k, v in arguments.items()]
    tables = [(k, table) for k, some in each for table in some if isinstance(table, pd.DataFrame)]
    names, frames = list[str](), [frame for frame, _ in walk_tb(error.__traceback__)]
    within = str(frames[-1].f_globals.get("__name__"))
    if isinstance(error, KeyError) and within.startswith("pandas."):
        said = str(error.args[0])  # a column's name, or a sentence with a list of such
        names = re.findall("'([^']*)'", said.partition("[")[2].partition("]")[0]) or [said]
    elif isinstance(error, AttributeError) and re.match("'(Pandas|DataFrame)' object", str(error)):
        names = [str(error.name)]  # of a row or a table
    for key, table in tables:
        if lacking := [n for n in names if n not in table.columns and n not in table.index]:
            known = ", ".join(map(str, table.columns[:20])) or "none"
            return f"{key} lacks {lacking[0]!r}: its columns are {known}"
    return next((f"{k} has no rows: expected one or more" for k, t in tables if t.empty), "")


def _refusal(door: str, asked: Parameter, value: Any, wrong: Any) -> EraseError:
    """The line for a value, or for what is in it, that is not what a parameter asks for."""
    shown = " ".join(SHORT.repr(value).split())[:90]
    inside = "" if wrong is value else f", and in it {SHORT.repr(wrong)[:60]}"
    kind = re.sub("Sequence|Iterable|tuple", "list", str(asked.annotation))
    kind = kind.replace("Images", "list[PIL.Image]")
    text = f"{door}: {asked.name} is {shown} ({type(value).__name__}){inside}: expected {kind}"
    if isinstance(value, str) and kind.startswith("list[str"):
        text += f", such as [{value[:60]!r}]"
    elif maker := MAKERS.get(kind.split(" |")[0]):
        text += f", from {maker}"
    elif asked.default not in (asked.empty, None, ()):
        text += f", such as {asked.default!r}"
    return EraseError(text)
