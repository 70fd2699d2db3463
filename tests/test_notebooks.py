"""Every notebook runs headlessly in its smoke profile, and leaves its results."""

from __future__ import annotations

import json
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(name: str, folder: Path, **parameters) -> dict:
    papermill.execute_notebook(
        str(ROOT / "notebooks" / f"{name}.ipynb"),
        str(folder / f"{name}.ipynb"),
        parameters={"profile": "smoke", "output": str(folder)} | parameters,
        kernel_name="python3",
        start_timeout=180,
        execution_timeout=600,
        progress_bar=False,
        cwd=str(ROOT),
    )
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("method", ["eap"])
def test_quickstart(tmp_path, method):
    result = run("00_quickstart", tmp_path, method=method)
    assert result["profile"] == "smoke" and result["method"] == method
    rows = {(r["metric"], r["model"]): r for r in result["metrics"]}
    assert rows["ESR-1", "erased"]["n"] == 4
    for row in rows.values():
        assert row["low"] <= row["value"] <= row["high"]
    for name in ("before_after.png", "erasure/erased.safetensors", "erasure/config.json"):
        assert (tmp_path / name).stat().st_size > 100


@pytest.mark.slow
def test_quickstart_without_preservation(tmp_path):
    assert run("00_quickstart", tmp_path, method="esd", target="dog")["target"] == "dog"


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


@pytest.mark.slow
def test_building_the_embedded_model(tmp_path):
    before = files(ROOT / "data")
    result = run("A1_build_the_embedded_model", tmp_path)
    assert files(ROOT / "data") == before, "a smoke run must leave the shipped data alone"
    assert result["profile"] == "smoke" and result["spearman"]["n"] == 2000
    assert {row["n"] for row in result["quality"]} == {40}
    for row in (result["psnr"], result["spearman"], *result["quality"]):
        assert row["low"] <= row["value"] <= row["high"]
    assert (tmp_path / "quality.png").stat().st_size > 100
