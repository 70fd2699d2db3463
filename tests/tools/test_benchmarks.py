"""The benchmarks of speed, K and V, and the map: small runs of the real thing; what they count."""

from __future__ import annotations

import json
import shutil

import pytest

from erase_lib import EraseConfig, erase, load_pipeline
from tools import chromium
from tools.benchmarks import ROOT, kv, map_fps, speed


@pytest.mark.slow
def test_one_row_in_a_process_of_its_own(tmp_path, capsys):
    out = tmp_path / "speed.json"
    speed.main(["--rows", "uce", "--profile", "smoke", "--out", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    assert row["name"] == "uce" and row["evaluations"] == 0 and row["updates"] == 1
    assert row["seconds"] > 0 and row["peak_mb"] > 100
    assert "uce" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "share"),
    [("eap", 1), pytest.param("eap, published schedule", 2, marks=pytest.mark.slow)],
)
def test_a_row_counts_what_the_erasure_counts(name, share):
    row = speed.measure(name, "church", "smoke")
    config = EraseConfig.from_profile("smoke", targets=["church"], **speed.ROWS[name] | speed.SMOKE)
    spent = erase(load_pipeline(), config, []).history[-1]["evaluations"]
    # extrapolated from two timed updates to the profile's own
    assert row["evaluations"] == spent * share and row["updates"] == 2 * share
    assert row["timed_updates"] == 2


def test_k_and_v_at_stable_diffusions_shapes_and_few_embeddings(tmp_path, capsys, monkeypatch):
    shapes = [tuple(w.shape) for w in kv.weights().values()]
    # counted in the UNet's published config: 10 of each width for K and V, 12 of the widest
    assert [shapes.count((width, 768)) for width in (320, 640, 1280)] == [10, 10, 12]
    monkeypatch.setattr(kv, "weights", lambda: {"a": kv.random(32, kv.DIM)})
    out = tmp_path / "kv.json"
    kv.main(["--n", "20", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found == json.loads(capsys.readouterr().out) and found["n"] == 20
    assert {"torch", "threads"} < set(found)
    for seconds in (found["seconds"], found["cpu_seconds"]):
        assert seconds["sum"] == pytest.approx(seconds["edit"] + seconds["movement"], abs=0.02)


def test_frames_of_the_map_are_the_best_of_their_repeats():
    row = map_fps.row(428, [30.04, 59.96], [12.0, 8.0])
    assert row == {
        "points": 428,
        "n": 2,
        "dragged": 60.0,
        "dragged, least": 30.0,
        "zoomed": 12.0,
        "zoomed, least": 8.0,
    }
    table = map_fps.points(5)
    assert list(table["concept"])[:2] == ["church", "word 1"] and table["concept"].is_unique


def test_the_frames_that_ship_are_those_of_the_results():
    found = json.loads((ROOT / "data" / "results" / "map_fps.json").read_text("utf-8"))
    said = (ROOT / "docs" / "RESULTS.md").read_text("utf-8")
    assert [row["points"] for row in found["rows"]] == list(map_fps.SIZES)
    for row in found["rows"]:
        assert 0 < row["dragged, least"] <= row["dragged"] and row["n"] >= 3
        told = f"| {row['points']:,} | {row['dragged']:.1f} | {row['zoomed']:.1f} |"
        assert told in said, "the table in docs/RESULTS.md is another"
    assert found["cores"] > 0 and found["drawn by"] and found["chromium"]


@pytest.mark.slow
def test_a_map_is_dragged_and_zoomed_in_chromium(tmp_path):
    pytest.importorskip("playwright")
    if not any(map(shutil.which, chromium.NAMES)):
        pytest.skip("needs Debian's package chromium")
    out = tmp_path / "fps.json"
    map_fps.main(f"--sizes 30 --seconds 0.5 --repeats 1 --out {out}".split())
    (row,) = json.loads(out.read_text("utf-8"))["rows"]
    assert row["points"] == 30 and row["dragged"] > 0 and row["zoomed"] > 0
