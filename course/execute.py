"""Running the course's notebooks for the book; what has not changed is not run again."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path
from unittest import mock

import nbformat

from course.plan import NOTEBOOKS, ROOT, notebook, tagged
from erase_lib.errors import EraseError
from erase_lib.files import whole_folder
from erase_lib.sweep import DONE, git_commit, run_notebook

# for a kernel that inherits MPLBACKEND=Agg shows no picture
INLINE = "module://matplotlib_inline.backend_inline"
# what a notebook's pictures and numbers hang on, besides itself
USED = (
    "erase_lib/**/*.py",
    "tools/**/*.py",
    "course/exercise.py",
    "course/titles.py",
    "data/results/*",
    "data/suites/*",
    "data/emoji/*",
    "data/models/**/*.safetensors",
)


def digest(name: str, profile: str) -> str:
    """A short hash of a notebook, of the code, checks and tables that it uses, and the profile."""
    found = hashlib.sha256(profile.encode())
    used = (*USED, f"course/checks/n{name[:2]}.py")
    paths = [NOTEBOOKS / f"{name}.ipynb", *(p for g in used for p in sorted(ROOT.glob(g)))]
    for path in paths:
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:12]


def parameters(name: str, profile: str, folder: Path) -> dict[str, object]:
    """What the book gives a notebook: its profile, a folder for its output, and no widgets."""
    cell = next((cell for cell in notebook(name).cells if tagged(cell, "parameters")), None)
    if cell is None:
        raise EraseError(f"{name}.ipynb has no cell tagged parameters: put it back")
    known = [line.split(":")[0] for line in cell.source.splitlines()]
    wanted = {"profile": profile, "output": str(folder / "runs" / name), "interactive": False}
    if profile == "smoke" and "live" in known:
        wanted["live"] = ["eap_closed"]
    if profile == "smoke" and "steps" in known and "profile" not in known:
        wanted["steps"] = 4
    return {key: value for key, value in wanted.items() if key in known}


def executed(name: str, profile: str, folder: Path) -> tuple[nbformat.NotebookNode, float]:
    """The notebook as run, from the folder if it was run before, and how many seconds it took.

    What it writes takes the place of what it wrote before. Raises `RuntimeError` with the cell and
    what it said when it fails, and `EraseError` where anything else would be lost; the others stay.
    """
    done = folder / "executed" / f"{name}-{digest(name, profile)}.ipynb"
    if not done.is_file():
        done.parent.mkdir(parents=True, exist_ok=True)
        part, begin = done.with_suffix(".part.ipynb"), time.perf_counter()
        values = parameters(name, profile, folder)
        inline = mock.patch.dict(os.environ, MPLBACKEND=INLINE)
        with whole_folder(folder / "runs" / name) as output, inline:
            values |= {"output": str(output)} if "output" in values else {}
            found = run_notebook(NOTEBOOKS / f"{name}.ipynb", part, values, 3600, cwd=str(ROOT))
            if found["status"] != DONE:
                where = f"{name}, cell {found['cell']}: {found['error']}"[:300]
                raise RuntimeError(f"{where} (executed so far: {part})")
        nb = nbformat.read(part, as_version=4)
        nb.metadata["seconds"] = round(time.perf_counter() - begin, 1)
        nb.metadata["commit"] = git_commit()
        nbformat.write(nb, part)
        part.rename(done)
        for old in done.parent.iterdir():
            own = re.fullmatch(rf"{name}-[0-9a-f]{{12}}(\.part)?\.ipynb", old.name)
            if own and old != done:
                old.unlink()
    nb = nbformat.read(done, as_version=4)
    return nb, float(nb.metadata["seconds"])


def complaints(nb: nbformat.NotebookNode) -> list[str]:
    """What the checks of an executed notebook with its solutions say, where it is not `right`."""
    said = [
        (output.get("text") or "no text").strip()
        for cell in nb.cells
        if tagged(cell, "check")
        for output in cell.outputs[:1] or [{}]
    ]
    return [text for text in said if not text.startswith("right")]
