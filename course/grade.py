"""Who solved what: the checks, asked of notebooks that were handed in.

python -m course.grade FOLDER [--profile course] [--limit 1800] [--out build/grades.csv]

Each notebook runs in a process of its own, in a temporary folder, on a copy of the library; its
checks are the course's, whatever it says there. A table to read along with the notebooks, not a
proof: who wants to deceive a check can.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import nbformat
import pandas as pd
import psutil

from course.editions import copy
from course.execute import parameters
from course.exercise import NOT_YET, RIGHT, WRONG
from course.plan import lessons, notebook, tagged
from erase_lib.errors import EraseError, reason
from erase_lib.files import as_path, whole, writing
from tools import one_line

CALL = re.compile(r"checks\.n(\d\d)\.exercise(\d+)\(")
ABOUT = ("handed in", "notebook", "solved", "of", "note")


def official(name: str) -> dict[int, str]:
    """Each exercise's check of a notebook of the course."""
    sources = [cell.source for cell in notebook(name).cells if tagged(cell, "check")]
    return {int(found[2]): text for text in sources if (found := CALL.search(text))}


def recognised(nb: nbformat.NotebookNode) -> str:
    """Which notebook of the course this one was, whatever it is called now: by its checks."""
    calls = [m[1] for c in nb.cells if c.cell_type == "code" for m in CALL.finditer(c.source)]
    names = {name[:2]: name for lesson in lessons() for name in lesson.notebooks}
    numbers = Counter(call for call in calls if call in names)
    if not numbers:
        raise EraseError("no notebook of this course: it has none of its checks")
    return names[numbers.most_common(1)[0][0]]


def prepared(nb: nbformat.NotebookNode, name: str, profile: str, work: Path) -> None:
    """The course's checks for the student's, and parameters: its profile, output in `work`."""
    checks = official(name)
    for cell in nb.cells:
        if cell.cell_type == "code" and (found := CALL.search(cell.source)):
            cell.source, cell.metadata["tags"] = checks.get(int(found[2]), ""), ["check"]
    given = "\n".join(
        f"{key} = {value!r}" for key, value in parameters(name, profile, work).items()
    )
    at = [i for i, cell in enumerate(nb.cells) if tagged(cell, "parameters")]
    nb.cells.insert(at[0] + 1 if at else 0, nbformat.v4.new_code_cell(given))
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}


def run(path: Path, library: Path, limit: float) -> str:
    """Run a notebook in its folder with the library at `library`, on after an error; what went
    wrong with the process, if anything did."""
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"]
    command += [
        "--allow-errors",
        "--ExecutePreprocessor.timeout=-1",
        "--log-level=ERROR",
        path.name,
    ]
    paths = os.pathsep.join(filter(None, [str(library), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths, "JUPYTER_PREFER_ENV_PATH": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=path.parent, env=environment, text=True, **pipes) as process:
        try:
            said = process.communicate(timeout=limit)[1].strip().splitlines()
            return (
                f"stopped: {said[-1] if said else 'its process died'}" if process.returncode else ""
            )
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:g} s"
        finally:
            with suppress(psutil.NoSuchProcess):  # the kernel and what it has started
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
            process.kill()


def verdicts(nb: nbformat.NotebookNode, name: str) -> dict[str, str]:
    """What each exercise's check says: right, not right, not yet, or what went wrong."""
    found = {str(k): "no check" for k in official(name)}
    for cell in nb.cells:
        if tagged(cell, "check") and (call := CALL.search(cell.source)):
            found[call[2]] = verdict(cell.get("outputs", []))
    return found


def verdict(outputs: Sequence[nbformat.NotebookNode]) -> str:
    """The word with which a check's output begins, or the kind of error that kept it from any."""
    text = "".join(o.get("text", "") for o in outputs if o.output_type == "stream")
    for word in (NOT_YET, WRONG, RIGHT):
        if text.startswith(word):
            return word
    error = next((o.ename for o in outputs if o.output_type == "error"), "")
    return f"stopped: {error}" if error else "not run"


def row(path: Path, name: str, profile: str, library: Path, limit: float) -> dict[str, object]:
    """A handed-in notebook's row; of one that is damaged or foreign, that it is."""
    about: dict[str, object] = {"handed in": name}
    try:
        nb = nbformat.read(path, as_version=4)
        nbformat.validate(nb)
        about["notebook"] = recognised(nb)
    except Exception as error:  # json, nbformat and jsonschema each raise their own kinds
        own = isinstance(error, EraseError)
        return about | {"note": str(error) if own else f"damaged: {reason(error)}"}
    lesson = str(about["notebook"])
    with tempfile.TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        prepared(nb, lesson, profile, work)
        nbformat.write(nb, work / "handed_in.ipynb")
        note = run(work / "handed_in.ipynb", library, limit)
        told = verdicts(nbformat.read(work / "handed_in.ipynb", as_version=4), lesson)
    solved = sum(word == RIGHT for word in told.values())
    return about | {"solved": solved, "of": len(told), "note": note} | told


def grade(folder: Path, profile: str = "course", limit: float = 1800) -> pd.DataFrame:
    """A row for each notebook in `folder`, whatever is in it. Raises `EraseError` for none."""
    paths = [p for p in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
    if not paths:
        raise EraseError(f"{folder} has no notebooks: expected a folder of what was handed in")
    rows = []
    with tempfile.TemporaryDirectory(prefix="library-", ignore_cleanup_errors=True) as library:
        copy(Path(library))
        for path in paths:
            name = str(path.relative_to(folder))
            rows.append(found := row(path, name, profile, Path(library), limit))
            told = f"{found['solved']} of {found['of']}" if "solved" in found else found["note"]
            print(f"{name}: {told}", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    exercises = sorted(set(table.columns) - set(ABOUT), key=int)
    table = table.reindex(columns=[*ABOUT[:-1], *exercises, ABOUT[-1]])
    return table.astype({"solved": "Int64", "of": "Int64"}).fillna({"note": ""})


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it as CSV."""
    parser = argparse.ArgumentParser(prog="python -m course.grade", description=__doc__)
    parser.add_argument("folder", help="what was handed in; a folder for each student, or files")
    parser.add_argument("--profile", default="course", choices=["course", "smoke"])
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one notebook")
    parser.add_argument("--out", default="build/grades.csv")
    given = parser.parse_args(arguments)
    out = as_path(given.out)
    table = grade(as_path(given.folder).resolve(), given.profile, given.limit)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole(out) as (path,):
            table.to_csv(path, index=False)
    print(table.astype(object).fillna("").to_string(index=False))
    print(f"The table: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
