"""One run of a notebook in its own folder: executed by papermill, recorded whatever happens."""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from erase_lib.config import PROFILES
from erase_lib.errors import EraseError, reason, unknown, unwritable
from erase_lib.files import DATA, FINGERPRINT, alone, as_path, read_text, rooted, whole, writing
from erase_lib.sweep.grid import OUTPUT, Values

METRICS, RECORD, EXECUTED, LOG = "metrics.json", "run.json", "executed.ipynb", "log.txt"
LOCK, OWNER = "lock", "sweep"  # the latter beside the run folders: which sweep is at them
WRITTEN, KILLED = ".written.json", "killed-"  # what runs wrote there; where what may be so is moved
DONE, FAILED, RUNNING = "done", "failed", "running"
KINDS: dict[str, Any] = {"status": str, "sweep": str, "parameters": dict, "seconds": (int, float)}
PACKAGES = ("erase-lib", "torch", "diffusers", "transformers")
VERSIONS = (*PACKAGES, "embedded model")
ASIDE = {"parameters", "exercise", "solution", "check"}  # no part of what a run computes
SMOKE = "SMOKE RUN: A FEW STEPS TO SEE THAT EVERYTHING WORKS. DO NOT QUOTE ITS NUMBERS."


def start(profile: str, output: str | Path) -> Path:
    """The run's folder, `rooted`, made if it is not there; a smoke run says so in large letters.
    Raises `EraseError` for an unknown profile, and a folder that cannot be made."""
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    folder = rooted(as_path(output))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if profile == "smoke":
        print(SMOKE)
    return folder


def finish(folder: str | Path, result: Mapping[str, Any]) -> None:
    """Write `result`, its tables as rows, to metrics.json. `EraseError` when it cannot be
    written."""
    path = Path(folder) / METRICS
    with writing(path):
        write(path, result)


def write(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    with whole(path) as (temporary,):
        temporary.write_text(json.dumps(dict(values), indent=2, default=_plain), "utf-8")


def _plain(value: Any) -> Any:
    """A table as its rows, NumPy's numbers and arrays as Python's."""
    if hasattr(value, "to_dict"):
        return value.to_dict("records")
    return value.tolist() if hasattr(value, "tolist") else str(value)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty if it is missing or not whole."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_text("utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def read_record(folder: Path) -> dict[str, Any]:
    """The run.json of a run's folder; empty if it is missing, not whole or of another form."""
    record = read_json(folder / RECORD)
    fit = all(isinstance(record[k], kind) for k, kind in KINDS.items() if k in record)
    return record if fit and ("parameters" in record or record.get("status") != DONE) else {}


@dataclass(frozen=True)
class Case:
    """One run to do: where, and with which values of every parameter but `output`."""

    id: str
    folder: Path
    values: Values

    def record(self) -> dict[str, Any]:
        """What run.json holds; empty before the first run."""
        return read_record(self.folder)


def computed(notebook: Path) -> str:
    """A notebook's code without prose, comments, docstrings, `ASIDE`: a hint makes no other run.
    Raises `EraseError` for a damaged one."""
    try:
        cells = [c for c in read_json(notebook).get("cells", []) if c["cell_type"] == "code"]
        own = [c for c in cells if not ASIDE & set(c["metadata"].get("tags", []))]
        texts = ["".join(c["source"]) for c in own]
    except (TypeError, KeyError, AttributeError) as error:
        raise EraseError(f"{notebook} is damaged ({reason(error)}): put back a whole one") from None
    parts = []
    for text in texts:
        with suppress(SyntaxError, ValueError, RecursionError):  # %matplotlib stays as it is
            tree = ast.parse(text)
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
                    del node.body[0]
            text = ast.unparse(tree)
        parts.append(text)
    return "\n".join(filter(None, parts))


def make_case(out: Path, code: str, values: Values, shown: Values, there: Values) -> Case:
    """The case of these values. Its id says those that are `shown` and ends with a hash of all, the
    code and the library's version: the same run is the same in every grid, and keeps the name by
    which the hash is `there`."""
    said = "-".join(map(shorten, shown.values())) or "defaults"
    text = json.dumps([values, code, version("erase-lib")], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:8]
    name = there.get(key, f"{said[:60]}-{key}")
    return Case(name, out / name, values)


def shorten(value: Any) -> str:
    """A value as part of a file name."""
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^\w.+]+", "_", text)


def git_commit() -> str:
    """The commit that the library stands at, with `-dirty` for changed files; "" without git."""
    call = ["git", "-C", str(DATA.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    with suppress(OSError):
        return subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip()
    return ""


def threads_of(number: int) -> AbstractContextManager[Any]:
    """A kernel started within the block uses so many threads, which do not spin while they wait:
    beside other work that takes five times as long. A GOMP_SPINCOUNT that is set stays."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    new = dict.fromkeys(names, str(number)) | {"JUPYTER_PREFER_ENV_PATH": "1"}
    new["GOMP_SPINCOUNT"] = os.environ.get("GOMP_SPINCOUNT", "10000")
    return mock.patch.dict(os.environ, new)  # and as they were after it


@dataclass(frozen=True)
class Settings:
    """How a sweep does its runs."""

    notebook: Path
    sweep: str  # tells its records from those of an older one
    threads: int = 1
    cell_timeout: int = 3600
    commit: str = ""
    force: bool = False
    parent: int = 0  # the process without which a worker, its child, begins nothing


def execute(settings: Settings, case: Case) -> dict[str, Any]:
    """Run the notebook in the case's folder; its record, also in run.json, holds an error and its
    cell and traceback. What is done, or what another process is at, is not done twice. With `force`
    only this sweep's result counts; what older runs wrote goes, as does another commit's half."""
    try:
        case.folder.mkdir(parents=True, exist_ok=True)
        with alone(case.folder / LOCK, wait=True):
            found = case.record()
            own = not settings.force or found.get("sweep") == settings.sweep
            if own and found.get("status") == DONE:
                return found | {"id": case.id}
            # workers of a killed sweep begin nothing once another has taken over
            taken = read_text(case.folder.parent / OWNER) not in ("", settings.sweep)
            if taken or settings.parent not in (0, os.getpid(), os.getppid()):
                return {"id": case.id, "status": FAILED, "error": "another sweep has taken over"}
            if not own or found.get("git_commit", settings.commit) != settings.commit:
                clear(case.folder)
            listed = read_json(case.folder / WRITTEN).get("names")
            # what a run that was killed has written nobody knows
            sure = listed is not None or not (case.folder / RECORD).exists()
            (case.folder / WRITTEN).unlink(missing_ok=True)
            others = inside(case.folder) - set(listed or [])
            record: dict[str, Any] = {"id": case.id, "status": RUNNING, "parameters": case.values}
            record |= {"notebook": settings.notebook.name, "threads": settings.threads}
            record |= {"git_commit": settings.commit} | {name: version(name) for name in PACKAGES}
            record |= {"embedded model": read_text(FINGERPRINT).strip(), "worker": os.getpid()}
            record |= {"sweep": settings.sweep, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            write(case.folder / RECORD, record)
            begin = time.perf_counter()
            values, copy = case.values | {OUTPUT: str(case.folder)}, case.folder / EXECUTED
            with logged(case.folder / LOG), threads_of(settings.threads):
                record |= run_notebook(settings.notebook, copy, values, settings.cell_timeout)
            record["seconds"] = round(time.perf_counter() - begin, 2)
            if sure:
                write(case.folder / WRITTEN, {"names": sorted(inside(case.folder) - others)})
            write(case.folder / RECORD, record)
            return record
    except OSError as error:  # a full disk: this run cannot even be recorded, the next may
        why = str(unwritable(case.folder, error))
        return {"id": case.id, "status": FAILED, "parameters": case.values, "error": why}


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """papermill's log within the block, with times: when each cell began, and what it printed."""
    logger, handler = logging.getLogger("papermill"), logging.FileHandler(path, "w", "utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.setLevel(logging.INFO)
    logger.propagate = False  # what many runs print would drown the progress bar
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def run_notebook(
    notebook: Path, executed: Path, values: Mapping[str, Any], cell_timeout: int, **more: Any
) -> dict[str, Any]:
    """The status of a notebook run into `executed`; if it failed cell, error and traceback."""
    import papermill  # at use, as in grid
    from traitlets.config import Config

    # what papermill is told; seconds until a kernel that does not end when asked to is killed
    more |= {"config": Config({"KernelManager": {"shutdown_wait_time": 3.0}})}
    more |= {"kernel_name": "python3", "start_timeout": 180, "execution_timeout": cell_timeout}
    # it logs transport and shutdown every time
    more |= {"extra_arguments": ["--log-level=CRITICAL"], "progress_bar": False, "log_output": True}
    try:
        papermill.execute_notebook(notebook, executed, dict(values), **more)
        return {"status": DONE}
    except papermill.PapermillExecutionError as error:
        text = " ".join(f"{error.ename}: {error.evalue}".split())
        trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
        return {"status": FAILED, "cell": error.cell_index, "error": text, "traceback": trace}
    except Exception as error:  # a dead kernel, a cell over its time, a full disk
        text = f"{type(error).__name__}: {reason(error)}"
        if isinstance(error, TimeoutError):
            text += f" (after {cell_timeout} s): allow more, by --cell-timeout or LIMIT="
        return {"status": FAILED, "cell": last_begun(executed), "error": text}


def last_begun(notebook: Path) -> int | None:
    """Index of the last cell that has a time: when a run ends papermill completes all cells."""
    told = [c["metadata"].get("papermill", {}) for c in read_json(notebook).get("cells", [])]
    return max((i for i, cell in enumerate(told) if cell.get("start_time")), default=None)


def inside(folder: Path) -> set[str]:
    """The names of all in a run's folder but its lock and its list; links are not followed."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return names - {LOCK, f"{LOCK}.holder", WRITTEN}


def clear(folder: Path) -> None:
    """Remove what older runs wrote, or a finished checkpoint would answer for the new one; all else
    stays. Where one was killed nobody knows what is whose: it moves to a folder `KILLED…` there."""
    (folder / RECORD).unlink(missing_ok=True)  # first: without its files it still says "done"
    names = read_json(folder / WRITTEN).get("names")
    if names is None:
        names, aside = [EXECUTED, LOG, METRICS], folder / f"{KILLED}{time.time_ns()}"
        for name in inside(folder).difference(names):
            if "/" not in name and not name.startswith(KILLED):
                aside.mkdir(exist_ok=True)
                (folder / name).rename(aside / name)
    for path in (folder / name for name in sorted(inside(folder) & set(names), reverse=True)):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()


def fail(case: Case, error: str) -> dict[str, Any]:
    """Record as failed what could not do so itself; unless, at the last moment, it has ended."""
    with alone(case.folder / LOCK, wait=True):
        record = {"id": case.id, "parameters": case.values} | case.record()
        if record.get("status") not in (DONE, FAILED):
            record |= {"status": FAILED, "cell": last_begun(case.folder / EXECUTED), "error": error}
            write(case.folder / RECORD, record)
        return record
