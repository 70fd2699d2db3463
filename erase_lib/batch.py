"""One run of a notebook in its own folder: executed by papermill, recorded whatever happens."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from erase_lib.errors import reason
from erase_lib.files import whole
from erase_lib.grid import OUTPUT, Parameter, Values
from erase_lib.lock import alone
from erase_lib.paths import DATA

RECORD, EXECUTED, LOCK = "run.json", "executed.ipynb", "lock"
DONE, FAILED, RUNNING = "done", "failed", "running"
VERSIONS = ("erase-lib", "torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Case:
    """One run to do: where, and with which parameters."""

    id: str
    folder: Path
    values: Values
    """Every parameter of the notebook but `output`."""

    def record(self) -> dict[str, Any]:
        """What run.json holds; empty before the first run."""
        return read_json(self.folder / RECORD)

    @property
    def status(self) -> str:
        return self.record().get("status", "")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty if it is missing or not whole."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text("utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def content(notebook: Path) -> str:
    """The notebook's code, without outputs and prose: another text is another run."""
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def make_case(out: Path, code: str, known: Mapping[str, Parameter], values: Values) -> Case:
    """The case of these values, its id made of them, the notebook's code and the library's version.

    The id begins with the values that differ from the notebook's defaults, for the reader; its last
    eight digits hash everything, so the same run has the same folder in every grid.
    """
    own = {name: value for name, value in values.items() if value != known[name].default}
    shown = "-".join(shorten(value) for value in own.values()) or "defaults"
    text = json.dumps([values, code, version("erase-lib")], sort_keys=True)
    name = f"{shown[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Case(name, out / name, values)


def shorten(value: Any) -> str:
    """A value as part of a file name."""
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^\w.+]+", "_", text)


def git_commit() -> str:
    """The commit that the library stands at, with `-dirty` for changed files; "" without git."""
    call = ["git", "-C", str(DATA.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@contextmanager
def threads_of(number: int) -> Iterator[None]:
    """A kernel started within the block uses so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    new = dict.fromkeys(names, str(number)) | {"JUPYTER_PREFER_ENV_PATH": "1"}
    old = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for name, value in old.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def execute(
    notebook: Path,
    case: Case,
    threads: int = 1,
    cell_timeout: int = 3600,
    commit: str = "",
) -> dict[str, Any]:
    """Run the notebook in the case's folder; its record, which is also written to run.json.

    Nothing is raised for a notebook that fails: the record then holds the cell, the error and the
    traceback, and the executed notebook stays. A case that is done is not done twice: if another
    process is at it, this one waits and returns what came of it.
    """
    try:
        case.folder.mkdir(parents=True, exist_ok=True)
        with alone(case.folder / LOCK, wait=True):
            if case.status == DONE:
                return case.record()
            record: dict[str, Any] = {"id": case.id, "status": RUNNING, "parameters": case.values}
            record |= {"notebook": notebook.name, "threads": threads, "git_commit": commit}
            record |= {name: version(name) for name in VERSIONS}
            record |= {"worker": os.getpid()}
            record["started"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            write(case.folder / RECORD, record)
            begin = time.perf_counter()
            record |= attempt(notebook, case, threads, cell_timeout)
            record["seconds"] = round(time.perf_counter() - begin, 2)
            write(case.folder / RECORD, record)
            return record
    except OSError as error:  # a full disk: this run cannot even be recorded, the next may
        why = f"cannot write to {case.folder} ({reason(error)})"
        return {"id": case.id, "status": FAILED, "parameters": case.values, "error": why}


def write(path: Path, record: Mapping[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    with whole(path) as (temporary,):
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


def attempt(notebook: Path, case: Case, threads: int, cell_timeout: int) -> dict[str, Any]:
    """Execute the notebook: the status, and for a failure its cell, error and traceback."""
    executing = case.folder / "executing.ipynb"
    try:
        with threads_of(threads):
            papermill.execute_notebook(
                str(notebook),
                str(executing),
                parameters=case.values | {OUTPUT: str(case.folder.resolve())},
                kernel_name="python3",
                start_timeout=180,
                execution_timeout=cell_timeout,
                progress_bar=False,
                extra_arguments=["--log-level=ERROR"],  # no word on every kernel's transport
            )
        found: dict[str, Any] = {"status": DONE}
    except PapermillExecutionError as error:
        text = f"{error.ename}: {error.evalue}"
        found = {"status": FAILED, "cell": error.cell_index, "error": text}
        found["traceback"] = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
    except Exception as error:  # a dead kernel, a cell over its time, a full disk
        text = f"{type(error).__name__}: {reason(error)}"
        found = {"status": FAILED, "cell": unfinished(executing), "error": text}
    with suppress(OSError):
        os.replace(executing, case.folder / EXECUTED)
    return found


def unfinished(notebook: Path) -> int | None:
    """Index of the cell at which a run broke off: the last that was begun when it was saved."""
    with suppress(OSError, ValueError, nbformat.reader.NotJSONError):
        cells = nbformat.read(notebook, as_version=4).cells
        states = [cell.metadata.get("papermill", {}).get("status") for cell in cells]
        begun = [i for i, state in enumerate(states) if state not in (None, "pending")]
        return begun[-1] if begun else None
    return None


def forget(case: Case, everything: bool) -> None:
    """Remove the record, so that the case counts as not run; with `everything` all its files, or a
    finished checkpoint would answer for a new run."""
    for path in case.folder.glob("*" if everything else RECORD):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:  # its holder may be a worker that outlived its sweep
            path.unlink()


def fail(case: Case, error: str) -> None:
    """Record as failed what could not do so itself; nothing is tried again unasked."""
    cell = unfinished(case.folder / "executing.ipynb")
    write(case.folder / RECORD, case.record() | {"status": FAILED, "cell": cell, "error": error})
