"""The book's page of the API: signatures and docstrings, as the code has them."""

from __future__ import annotations

import ast
import inspect
import re
from html import escape
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

ROOMS = {
    "erase_lib": "The method: a model and words in, an erasure out.",
    "erase_lib.measure": "Pictures in; rows with n, interval and instrument out.",
    "erase_lib.study": "What the notebooks ask of an erasure.",
    "erase_lib.show": "Figures and widgets; no numbers of their own.",
    "erase_lib.sweep": "A grid of parameters, run folders, one table.",
}


def text() -> str:
    """The page as Markdown: a section a room, an entry for each function and class it offers."""
    parts = [
        "# The API\n\nWhat each room offers, in the words of its code: `from erase_lib import"
        " erase, measure, study, show`. The settings of an erasure are the fields of"
        " `EraseConfig`; how things hang together stands in the notebooks."
    ]
    for room, about in ROOMS.items():
        parts.append(f"## {room}\n\n{about}")
        parts += [entry(name, thing) for name, thing in offered(import_module(room)).items()]
    return "\n\n".join(parts) + "\n"


def offered(room: ModuleType) -> dict[str, Any]:
    """The functions and classes of a room's public names, in the order of the alphabet."""
    names = getattr(room, "__all__", [name for name in vars(room) if name[:1] != "_"])
    found = {name: getattr(room, name) for name in sorted(names, key=str.lower)}
    return {
        name: thing
        for name, thing in found.items()
        if (inspect.isfunction(thing) or inspect.isclass(thing))
        and (hasattr(room, "__all__") or thing.__module__.startswith(room.__name__ + "."))
    }


def entry(name: str, thing: Any) -> str:
    """A function, or a class with its public methods."""
    parts = [f"### {name}\n\n{code(name, thing)}\n\n{prose(thing)}"]
    if inspect.isclass(thing):
        parts.append(settings(thing))
        own = [(n, m) for n, m in vars(thing).items() if n[:1] != "_" and method(m)]
        for inner, of in own:
            bare = getattr(of, "__func__", of)
            parts.append(f"{code(f'{name}.{inner}', bare)}\n\n{prose(bare)}")
    return "\n\n".join(filter(None, parts))


def method(thing: Any) -> bool:
    """Whether a class's attribute is called, by an object or by the class."""
    return inspect.isfunction(thing) or isinstance(thing, (classmethod, staticmethod))


def code(name: str, thing: Any) -> str:
    """A signature as a block of code, an argument a line where it is long."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return f"```python\n{name}\n```"
    line = f"{name}{signature}"
    if len(line) > 88:
        of, end = [str(p) for p in signature.parameters.values()], line.rpartition(")")[2]
        line = f"{name}(\n    " + ",\n    ".join(of) + f",\n){end}"
    line = re.sub(r"<function (\w+) at \w+>", r"\1", re.sub(r"(: |-> )'([^']*)'", r"\1\2", line))
    return f"```python\n{line}\n```"


def prose(thing: Any) -> str:
    """A docstring as Markdown: its words, not its HTML, emphasis or formulas."""
    words = re.sub(r"``(.+?)``", r"`\1`", inspect.getdoc(thing) or "")
    parts = escape(words, quote=False).split("`")
    parts[::2] = [re.sub(r"([*_$])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def settings(thing: type) -> str:
    """The fields of a class that are told in a docstring of their own, as a list."""
    body = ast.parse(inspect.getsource(thing)).body[0].body  # type: ignore[attr-defined]
    rows = []
    for field, told in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(told, ast.Expr):
            about = SimpleNamespace(__doc__=ast.literal_eval(told.value))
            rows.append(f"- `{ast.unparse(field)}`: {' '.join(prose(about).split())}")
    return "\n".join(rows)
