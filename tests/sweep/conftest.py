"""Small notebooks to sweep, and what their runs leave behind."""

from __future__ import annotations

import os
import shutil
import signal
import time

import nbformat
import pytest

from erase_lib.sweep import run
from erase_lib.sweep.run import read_json

CELL = """
number: int = 0  # which run this is
wait: float = 0.0  # seconds
output: str = "runs/x"
"""
BODY = """
import json, os, time
from pathlib import Path
with open(Path(output) / "log", "a") as log:
    log.write("started\\n")
time.sleep(wait)
if number == 13:
    raise ValueError("unlucky")
if number == 99:
    os._exit(1)
row = {"metric": "ESR-1", "model": "erased", "value": number / 2, "low": 0.0, "high": 1.0, "n": 4}
result = {"kernel_threads": int(os.environ["OMP_NUM_THREADS"]), "metrics": [row]}
result["spins"] = os.environ["GOMP_SPINCOUNT"]
(Path(output) / "metrics.json").write_text(json.dumps(result))
with open(Path(output) / "log", "a") as log:
    log.write("finished\\n")
"""


@pytest.fixture
def notebook(tmp_path):
    """Writes a notebook: a parameters cell, the body above and more, and cells of given tags."""

    def write(cell=CELL, more="", prose="", **tagged):
        kind = nbformat.v4.new_code_cell
        cells = [kind("from typing import Optional"), kind(BODY + more), kind("'the end'")]
        cells.append(nbformat.v4.new_markdown_cell(prose))
        tags = {"parameters": cell.strip()} | tagged
        cells[1:1] = [kind(text, metadata={"tags": [tag]}) for tag, text in tags.items()]
        kernel = {"name": "python3", "language": "python", "display_name": "P"}
        book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(book, tmp_path / "book.ipynb")
        return tmp_path / "book.ipynb"

    return write


@pytest.fixture
def without_kernels(monkeypatch):
    """Notebooks run in this process: for what is asked of a run's folder, whoever fills it."""

    def run_notebook(notebook, executed, values, cell_timeout, **more):
        names = {}
        shutil.copy(notebook, executed)
        try:
            for cell in nbformat.read(notebook, 4).cells:
                if cell.cell_type == "code":
                    exec(cell.source, names)
                    if "parameters" in cell.metadata.get("tags", []):
                        names |= values
        except Exception as error:
            return {"status": run.FAILED, "error": f"{type(error).__name__}: {error}"}
        return {"status": run.DONE}

    monkeypatch.setattr(run, "run_notebook", run_notebook)


@pytest.fixture
def book(notebook):
    return notebook()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def numbers():
    return lambda *values: {"grid": {"number": list(values)}}


@pytest.fixture
def logs(out):
    return lambda: {path.parent.name: path.read_text().split() for path in out.glob("*/log")}


@pytest.fixture
def wait_for():
    def wait(condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.1)

    return wait


@pytest.fixture
def kill_a_worker(out, logs, wait_for):
    def kill():
        wait_for(lambda: sum("started" in log for log in logs().values()) == 2)
        worker = read_json(next(out.glob("*/run.json")))["worker"]
        os.kill(worker, signal.SIGKILL)
        return worker

    return kill
