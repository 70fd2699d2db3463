"""Privacy and installing: no network, nothing in HOME, no data, no place to write."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from erase_lib import concepts, files, load_pipeline, measure, show, study
from erase_lib.files import DATA
from erase_lib.measure import Judge, load_clip
from erase_lib.measure.instruments import ThemeDetector
from erase_lib.study.compare import published

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, **environment: str) -> list[str]:
    """What a new process with this environment alone prints, line by line."""
    needed = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=needed | environment,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


OFFLINE = """
import socket, sys

def asked(*given, **_):
    raise SystemExit(f"the network is asked for {given}")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = asked
socket.create_connection = socket.gethostbyname = asked
from erase_lib import EraseConfig, erase, generate, load_pipeline
from erase_lib.measure import Judge, load_clip

pipe = load_pipeline(device="cpu")
generate(pipe, ["dog"], steps=2, progress=False)
erase(pipe, EraseConfig.from_profile("smoke", targets=["church"], steps=1, method="esd"), [])
Judge.load(), load_clip()
print("done")
"""


@pytest.mark.slow
def test_the_embedded_model_asks_no_network_and_writes_nothing_at_home(tmp_path):
    assert python(OFFLINE, HOME=str(tmp_path))[-1:] == ["done"]
    # torchmetrics imports Matplotlib, which lists the fonts
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} <= {"matplotlib"}


def test_onnxruntime_asks_nothing_wherever_it_is_imported(tmp_path):
    pytest.importorskip("onnxruntime")
    code = "import erase_lib, onnxruntime; onnxruntime.get_available_providers()"
    python(code, HOME=str(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "export ORT_DISABLE_TELEMETRY" in (ROOT / "setup.mk").read_text("utf-8")


@pytest.mark.parametrize(
    "read",
    [
        load_pipeline,
        concepts.concept_table,
        concepts.style_names,
        concepts.neutral_concepts,
        lambda: concepts.vocabulary("english"),
        lambda: concepts.check_concepts(["dog"]),
        lambda: measure.read_suite("objects"),
        lambda: measure.read_table("data/results/none.csv"),
        lambda: published("objects"),
        lambda: ThemeDetector(None, "weapon"),
        lambda: show.thumbnails("noto"),
        lambda: study.read_atlas("data/results/none"),
        Judge.load,
        load_clip,
    ],
)
def test_without_data_every_door_says_how_to_install(refused, tmp_path, monkeypatch, read):
    monkeypatch.setattr(files, "DATA", tmp_path / "data")  # as beside a wheel
    refused(read, says=[str(tmp_path / "data"), "pip install -e ."])


def test_a_path_to_the_data_is_a_path_like_others():
    assert (DATA / "emoji").is_dir() and DATA == Path(DATA) and hash(DATA) == hash(Path(DATA))
    assert pickle.loads(pickle.dumps(DATA / "a")) == DATA / "a"


PLACES = """
import os, erase_lib

for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
    place = os.environ.get(name, "")
    print(os.path.isdir(place), place)
"""


def test_without_a_home_what_is_compiled_is_kept_elsewhere(tmp_path):
    home = python(PLACES, HOME=str(tmp_path))
    assert home == ["False ", "False "], "a home that can be written to is used as ever"
    numba, matplotlib = python(PLACES, HOME=str(tmp_path / "none"))
    assert numba.startswith("True ") and matplotlib.startswith("True ") and numba != matplotlib
    own = python(PLACES, HOME=str(tmp_path / "none"), NUMBA_CACHE_DIR=str(tmp_path))
    assert own[0] == f"True {tmp_path}", "one that was chosen stays"
