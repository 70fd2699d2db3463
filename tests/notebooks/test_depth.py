"""The notebooks after the tour: each student edition runs in smoke and leaves its results."""

from __future__ import annotations

from pathlib import Path

import pytest
from student import ROOT, run


@pytest.mark.slow
def test_the_damage_atlas(tmp_path):
    result = run("09_damage_atlas", tmp_path)
    assert result["targets"] == 12 and result["concepts"] == 428
    for score in {row["score"] for row in result["variance"]}:
        parts = [row["share"] for row in result["variance"] if row["score"] == score]
        assert sum(parts) == pytest.approx(1)
    for row in result["neutral together"] + result["predictions"]:
        assert row["low"] <= row["value"] <= row["high"]
    for name in ("delta", "specific", "parts", "mutual", "dumbbells", "graph", "predictions"):
        assert (tmp_path / f"{name}.png").stat().st_size > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["08_diffusion_primer", "14_ethics_and_limits"])
def test_the_primer_and_the_interlude(tmp_path, name):
    result = run(name, tmp_path)
    assert result["profile"] == "smoke" and len(list(tmp_path.glob("*.png"))) >= 1
    for row in result.get("tokens", []):
        assert row["low"] <= row["share"] <= row["high"]
    if name.startswith("08"):
        shares = {row["carried"]: row["share"] for row in result["tokens"]}
        assert shares["nothing"] == 0 and result["n"] == 3
        assert sum(result["attention"].values()) == pytest.approx(1)
    else:
        assert result["opened"]["original"] >= result["opened"]["erased"]
        assert result["back door"]["erased, by c′"] > result["back door"]["erased, by name"]


@pytest.mark.slow
def test_the_studio_without_a_browser(tmp_path):
    given = {"word": "dog", "steps": 4, "interactive": False}
    result = run("15_studio", tmp_path, **given)
    assert result["updates"] == 4 and "erased" in result["status"]


@pytest.mark.slow
def test_the_search_under_the_microscope(tmp_path):
    result = run("10_adversarial_search", tmp_path)
    assert {row["search"] for row in result["live"]} == {"gumbel", "movement"}
    assert all(0 <= row["percentile"] <= 100 for row in result["live"])
    for row in result["hits"] + result["metrics"] + result["differences"]:
        assert row["low"] <= row["value"] <= row["high"]
    for name in ("spectrum", "chosen_gumbel", "pi_gumbel", "before_after", "hits", "preserved"):
        assert (tmp_path / f"{name}.png").stat().st_size > 100


@pytest.mark.slow
def test_speed_and_memory(tmp_path):
    result = run("12_speed_and_memory", tmp_path)
    published, replay = result["timed"]
    assert published["evaluations"] > 0 and replay["evaluations"] > 0
    assert 1 < result["wall_ratio"]["low"] <= result["wall_ratio"]["mean"]


@pytest.mark.slow
def test_ablations(tmp_path):
    result = run("11_ablations", tmp_path)
    names = ["vocabulary", "candidates", "preserve_batch", "lam", "lam_kv", "eta"]
    names += ["train_method", "search", "hard", "search_lr", "temperature"]
    for name in names:
        assert len({row[name] for row in result[name]}) >= 2
        assert (tmp_path / f"{name}.png").stat().st_size > 100
    assert {row["metric"] for row in result["changes"]} == {"PSR-1 near", "PSR-1 far"}


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


@pytest.mark.slow
def test_building_the_embedded_model(tmp_path):
    before = files(ROOT / "data")
    result = run("16_build_the_embedded_model", tmp_path)
    assert files(ROOT / "data") == before, "a smoke run must leave the shipped data alone"
    assert result["profile"] == "smoke" and result["spearman"]["n"] == 2000
    assert {row["n"] for row in result["quality"]} == {40}
    for row in (result["psnr"], result["spearman"], *result["quality"]):
        assert row["low"] <= row["value"] <= row["high"]
    assert (tmp_path / "quality.png").stat().st_size > 100
