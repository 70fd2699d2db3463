"""Two editions of the course, each a folder and a zip that run on their own.

python -m course.editions student     the exercises without their solutions
python -m course.editions solutions   everything, for the lecturer, and SOLUTIONS.md
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbconvert.preprocessors import TagRemovePreprocessor

from course.plan import NOTEBOOKS, ROOT, lessons, notebook, tagged, title_of
from erase_lib.errors import EraseError
from erase_lib.files import as_path, whole, whole_folder
from tools import one_line

EDITIONS = ("student", "solutions")
# what an edition needs to be installed and to run; tests, and what makes the editions, stay behind
TAKEN = ("erase_lib", "tools", "data", "notebooks", "pyproject.toml", "constraints.txt")
TAKEN += (
    "course/__init__.py",
    "course/exercise.py",
    "course/titles.py",
    "course/checks",
    "course/lab",
)
TAKEN += ("setup.mk", "LICENSE", "CITATION.cff", "docs/FAQ.md")
LEFT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "private", "runs", "*.ipynb")
SWEPT = "run_erase"  # the notebook that is no lesson


def left(folder: str, names: list[str]) -> set[str]:
    """What of a folder stays behind: what is made anew, and every link, which may lead out."""
    links = {name for name in names if (Path(folder) / name).is_symlink()}
    return links | LEFT(folder, names)


def without_solutions(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The student's notebook: cells tagged `solution` removed."""
    made, _ = TagRemovePreprocessor(remove_cell_tags={"solution"}).preprocess(nb, {})
    return made


def packed(source: str) -> str:
    """A module that does what `source` does, and cannot be read by the way."""
    text = b64encode(zlib.compress(source.encode(), 9)).decode()
    lines = "\n".join(f'    "{line}"' for line in textwrap.wrap(text, 88))
    return (
        '"""Checks, packed so that they do not give the answers away."""\n\n'
        "from base64 import b64decode\nfrom zlib import decompress\n\n"
        f"TEXT = (\n{lines}\n)\n"
        'exec(compile(decompress(b64decode(TEXT)), "a check", "exec"))\n'
    )


def exercises(nb: nbformat.NotebookNode) -> list[tuple[str, str, str]]:
    """Each exercise of a notebook: what is asked, the stub and the solution."""
    found, asked, stub = [], "", ""
    for cell in nb.cells:
        if cell.cell_type == "markdown" and "### Exercise" in cell.source:
            asked = cell.source[cell.source.index("### Exercise") :]
        if tagged(cell, "exercise"):
            stub = cell.source
        if tagged(cell, "solution"):
            found.append((asked, stub, cell.source))
    return found


def solutions_text() -> str:
    """All exercises with their solutions, to read before a lesson."""
    text = ["# Solutions\n\nEvery exercise, lesson by lesson. Not for students."]
    for lesson in lessons():
        for name in lesson.notebooks:
            nb = notebook(name)
            text.append(f"## {lesson.label}: {title_of(nb)}")
            text += [f"{asked}\n\n```python\n{done}\n```" for asked, _, done in exercises(nb)]
    return "\n\n".join(text) + "\n"


def copy(new: Path) -> None:
    """What an edition needs of the checkout, but its notebooks, into a new folder."""
    for name in TAKEN:
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, new / name, ignore=left)
        else:
            shutil.copy(ROOT / name, new / name)


def write(edition: str, out: Path) -> Path:
    """Write an edition to out/erase-course-EDITION and, beside it, its zip. Returns the folder.

    What stood there is replaced once both are whole. Raises `EraseError` for a folder that is
    itself copied.
    """
    for name in TAKEN:
        if out.resolve().is_relative_to((ROOT / name).resolve()):
            raise EraseError(f"{out} lies in {ROOT / name}, which is copied: choose another folder")
    folder = out / f"erase-course-{edition}"
    with whole(folder.with_suffix(".zip")) as (zipped,), whole_folder(folder) as new:
        copy(new)
        for path in (new / "course" / "checks").glob("n*.py") if edition == "student" else ():
            path.write_text(packed(path.read_text("utf-8")), "utf-8")
        (new / "setup.mk").rename(new / "Makefile")
        for name in (*(name for lesson in lessons() for name in lesson.notebooks), SWEPT):
            nb = notebook(name, NOTEBOOKS)
            nb = without_solutions(nb) if edition == "student" else nb
            nbformat.write(nb, new / "notebooks" / f"{name}.ipynb")
        shutil.copy(Path(__file__).parent / "static" / "START.md", new / "README.md")
        if edition == "solutions":
            shutil.copy(ROOT / "COURSE.md", new)
            (new / "SOLUTIONS.md").write_text(solutions_text(), "utf-8")
        # a zip knows no year before 1980
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as file:
            for path in sorted(new.rglob("*")):
                file.write(path, Path(folder.name) / path.relative_to(new))
    return folder


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Write one of the editions and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m course.editions", description=__doc__)
    parser.add_argument("edition", choices=EDITIONS)
    parser.add_argument("--out", default="build")
    given = parser.parse_args(arguments)
    folder = write(given.edition, as_path(given.out))
    zipped = folder.with_suffix(".zip")
    print(
        f"The {given.edition} edition: {folder}, and {zipped}, {zipped.stat().st_size / 1e6:.0f} MB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
