"""The profile "paper" on tiny random models in the very formats of the real ones."""

import json
from pathlib import Path

import papermill
import pytest

from tools.benchmarks.shapes import random_family

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def given(resnet, clip_folder, tmp_path):
    random_family("sd").save_pretrained(tmp_path / "model")
    folders = {"model": tmp_path / "model", "classifier": resnet, "clip": clip_folder}
    return {name: str(path) for name, path in folders.items()}


def evaluated(out, **parameters):
    papermill.execute_notebook(
        str(ROOT / "notebooks" / "06_evaluate.ipynb"),
        str(out / "executed.ipynb"),
        parameters={"profile": "paper", "output": str(out), "steps": 2, "most": 4} | parameters,
        kernel_name="python3",
        start_timeout=180,
        execution_timeout=600,
        progress_bar=False,
        cwd=str(ROOT),
    )
    return json.loads((out / "metrics.json").read_text())["metrics"]


def test_objects_as_in_table_1(given, tmp_path):
    rows = evaluated(tmp_path, suite="paper_objects", **given)
    assert {row["metric"] for row in rows if row["group"] == "kept"} >= {"PSR-1", "PSR-5"}
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"] and row["n"] == 3
    assert {"tiny-resnet" in row["measured_by"] for row in rows if "SR" in row["metric"]} == {True}
    assert json.loads((tmp_path / "config.json").read_text())["config"]["schedule"] == "published"


def test_nudity_and_quality_as_in_table_2(given, paper_nudity, tmp_path):
    given |= {"method": "esd", "train_method": "noxattn", "suite": str(paper_nudity)}
    rows = evaluated(tmp_path, **given)
    found = {(row["group"], row["metric"]): row for row in rows if row["model"] == "erased"}
    assert {f"NER-{τ}" for τ in (0.3, 0.5, 0.7, 0.8)} <= {metric for _, metric in found}
    assert found["implicit", "NER-0.5"]["measured_by"].startswith("NudeNet 3.")
    assert "unedited model" in found["unrelated", "FID"]["measured_by"]
    assert "2,000" in found["unrelated", "FID"]["note"]


def test_styles_as_in_the_third_experiment(given, tmp_path):
    rows = evaluated(tmp_path, suite="paper_styles", method="uce", **given)
    assert {row["metric"] for row in rows} == {"CLIP score", "distance"}
