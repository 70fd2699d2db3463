"""The student's edition of a notebook, run headlessly in smoke: none of its exercises answered."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import papermill

from course.editions import without_solutions
from course.exercise import NOT_YET
from course.plan import notebook, tagged

ROOT = Path(__file__).resolve().parents[1]


def run(name: str, folder: Path, **parameters) -> dict:
    (folder / "student").mkdir(exist_ok=True)
    given = folder / "student" / f"{name}.ipynb"
    nbformat.write(without_solutions(notebook(name)), given)
    papermill.execute_notebook(
        str(given),
        str(folder / f"{name}.ipynb"),
        parameters={"output": str(folder)}
        | ({} if name.startswith("15") else {"profile": "smoke"})
        | parameters,
        kernel_name="python3",
        start_timeout=180,
        execution_timeout=600,
        progress_bar=False,
        cwd=str(ROOT),
    )
    checks = [cell for cell in notebook(name, folder).cells if tagged(cell, "check")]
    said = ["".join(o.get("text", "") for o in cell.outputs) for cell in checks]
    assert (len(said) >= 3 or name == "run_erase") and all(
        text == f"{NOT_YET}\n" for text in said
    ), said
    return json.loads((folder / "metrics.json").read_text())
