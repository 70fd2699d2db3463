"""Slides of the cells that are tagged `slide`, for a browser without network.

python -m course.slides [--profile smoke] [--out build/slides]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.preprocessors import Preprocessor

from course.execute import executed
from course.plan import ROOT, headings, lessons, math_font, notebook, tagged
from erase_lib.files import as_path, whole_folder
from tools import one_line

CONFIG = Path(__file__).parent / "slides_config.py"


class SlideTags(Preprocessor):
    """A slide of the title and of each cell tagged `slide`; everything else is left out.

    A code cell's slide is its outputs under the heading of its section; a text's are its heading,
    its displayed formulas and what is printed bold.
    """

    def preprocess(self, nb: nbformat.NotebookNode, resources: Any) -> tuple[Any, Any]:
        """The notebook of slides alone."""
        made, section = [_slide(nb.cells[0])], ""
        for cell in nb.cells[1:]:
            if cell.cell_type == "markdown":
                section = next((t for n, t in headings(cell.source) if n == 2), section)
            if not tagged(cell, "slide"):
                continue
            if cell.cell_type == "markdown":
                made.append(_slide(cell))
            else:
                head = nbformat.v4.new_markdown_cell(f"## {section}")
                head.metadata["slideshow"] = {"slide_type": "slide"}
                cell.metadata["slideshow"] = {"slide_type": "-"}
                made += [head, cell]
        nb.cells = made
        return nb, resources


def _slide(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """What of a text is short enough for a wall."""
    parts = re.findall(
        r"^#{1,2} .+?$|\$\$.+?\$\$|\*\*.+?\*\*", cell.source, flags=re.MULTILINE | re.DOTALL
    )
    short = nbformat.v4.new_markdown_cell("\n\n".join(parts))
    short.metadata["slideshow"] = {"slide_type": "slide"}
    return short


def names() -> list[str]:
    """The notebooks that have cells tagged `slide`."""
    every = [name for lesson in lessons() for name in lesson.notebooks]
    return [name for name in every if any(tagged(cell, "slide") for cell in notebook(name).cells)]


def write(out: Path, profile: str, work: Path) -> list[Path]:
    """Run the notebooks that have slides, if they have not been, and write them; returns the files.

    The slides that are there are replaced only by whole ones. Raises `RuntimeError` when a notebook
    or nbconvert fails, and `EraseError`, before anything is run, where a folder would be lost that
    is none of ours.
    """
    wanted = names()
    with whole_folder(out) as folder, tempfile.TemporaryDirectory() as beside:
        with as_file(files("sphinx_revealjs") / "_static" / "revealjs") as source:
            shutil.copytree(source, folder / "reveal")
        shutil.copy(math_font(), folder / "math.ttf")
        for name in wanted:
            nb, _ = executed(name, profile, work)
            path = Path(beside) / f"{name}.ipynb"
            nbformat.write(nb, path)
            command = [sys.executable, "-m", "nbconvert", "--to", "slides", "--config", str(CONFIG)]
            command += [str(path), "--output-dir", str(folder)]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                said = done.stderr.strip()[-300:]
                raise RuntimeError(f"nbconvert made no slides of {name}: {said}")
    return [out / f"{name}.slides.html" for name in wanted]


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the slides and say where they are."""
    parser = argparse.ArgumentParser(prog="python -m course.slides", description=__doc__)
    parser.add_argument("--profile", default="course", choices=["course", "smoke"])
    parser.add_argument("--out", default="build/slides")
    parser.add_argument("--work", default="build/book", help="executed notebooks")
    given = parser.parse_args(arguments)
    out, work = as_path(given.out).resolve(), as_path(given.work).resolve()
    found = write(out, given.profile, work)
    print("Slides:", *found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
