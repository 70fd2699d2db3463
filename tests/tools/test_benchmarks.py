"""The benchmarks of speed and of K and V: small runs of the real thing, and what they count."""

from __future__ import annotations

import json

import pytest

from erase_lib import EraseConfig, erase, load_pipeline
from tools.benchmarks import kv, speed


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
