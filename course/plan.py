"""The plan of the course, and what its pages are called."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import nbformat
import yaml

from erase_lib.errors import EraseError, reason

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PLAN = Path(__file__).parent / "lessons.yaml"
NUMBERED = "[0-9][0-9]_*.ipynb"
OWN = re.compile(r"\d\d_\w+")  # not JupyterLab's copy of one, NAME-Copy1
BESIDE = ("GLOSSARY.md",)  # what the editions and the book need beside the notebooks


@dataclass(frozen=True)
class Lesson:
    """A lesson's number, or `home` for what is read at home, its title and its notebooks."""

    lesson: int | str
    title: str
    notebooks: tuple[str, ...]

    @property
    def label(self) -> str:
        """As it stands in the book's list."""
        return f"{self.lesson} · {self.title}" if isinstance(self.lesson, int) else self.title


def lessons() -> list[Lesson]:
    """The lessons in their order. Raises `EraseError` if they are not every notebook, each once,
    or lessons.yaml is damaged or the glossary missing.

    A lesson's notebook has a number; the one that a sweep runs has none, nor has a copy.
    """
    try:
        rows = yaml.safe_load(PLAN.read_text("utf-8"))
        found = [Lesson(r["lesson"], str(r["title"]), tuple(r["notebooks"])) for r in rows]
        planned = ["".join(name) for lesson in found for name in lesson.notebooks]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError) as error:
        text = f"{PLAN} is damaged ({reason(error)}): expected a list with lesson, title, notebooks"
        raise EraseError(text) from None
    there = {path.stem for path in NOTEBOOKS.glob(NUMBERED) if OWN.fullmatch(path.stem)}
    for name in BESIDE:
        if not (NOTEBOOKS / name).is_file():
            raise EraseError(f"{NOTEBOOKS / name} is missing: the course needs it, put it back")
    if len(planned) != len(set(planned)) or set(planned) != there:
        odd = sorted(set(planned) ^ there) or [n for n in planned if planned.count(n) > 1]
        raise EraseError(f"course/lessons.yaml: {odd[0]} is in no lesson, in two, or no notebook")
    return found


def math_font() -> Path:
    """STIX Two Math, with which the book and the slides set formulas (SIL Open Font License)."""
    return Path(str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"))


def notebook(name: str, folder: Path = NOTEBOOKS) -> nbformat.NotebookNode:
    """A notebook by its name. Raises `EraseError` when it cannot be read, or is none."""
    path = folder / f"{name}.ipynb"
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError("a link to another place")
        nbformat.validate(json.loads(path.read_text("utf-8")))  # `read` would log what is wrong
        nb = nbformat.read(path, as_version=4)
        title_of(nb)
    except Exception as error:  # json, nbformat and jsonschema each raise their own kinds
        said = "no heading" if isinstance(error, StopIteration) else reason(error)
        raise EraseError(
            f"{path} is no whole notebook ({said}): put back the one of the course"
        ) from None
    return nb


def tagged(cell: nbformat.NotebookNode, tag: str) -> bool:
    """Whether a cell bears a tag."""
    return tag in cell.metadata.get("tags", [])


def headings(source: str) -> list[tuple[int, str]]:
    """Level and text of a Markdown text's headings, outside of code."""
    plain = re.sub(r"^```.*?^```", "", source, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^(#{1,6}) +(.+?)\s*$", plain, flags=re.MULTILINE)
    return [(len(marks), text) for marks, text in found]


def title_of(nb: nbformat.NotebookNode) -> str:
    """A notebook's first heading."""
    return next(text for cell in nb.cells for _, text in headings(cell.source))


def slug(text: str) -> str:
    """A heading's anchor, as GitHub makes it: lower case, no punctuation, hyphens for spaces."""
    words = re.sub(r"[*`$\\{}]|\[|\]\([^)]*\)", "", text).strip().lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
