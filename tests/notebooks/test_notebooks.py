"""The student's edition of every notebook runs headlessly in smoke, and leaves its results.

With their solutions the notebooks are run for the book (tests/course/test_book.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import kills
import nbformat
import pandas as pd
import papermill
import pytest

from course.editions import without_solutions
from course.exercise import NOT_YET
from course.plan import notebook, tagged
from erase_lib import Erasure
from erase_lib.measure import STRENGTHS
from erase_lib.sweep.cli import main

ROOT = Path(__file__).resolve().parents[2]


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


def test_quickstart(tmp_path):
    result = run("01_quickstart", tmp_path, method="esd", target="dog")
    assert [result[name] for name in ("profile", "method", "target")] == ["smoke", "esd", "dog"]
    rows = {(r["metric"], r["model"]): r for r in result["metrics"]}
    assert rows["ESR-1", "erased"]["n"] == 4
    for row in rows.values():
        assert row["low"] <= row["value"] <= row["high"]
    for name in ("before_after.png", "erasure/erased.safetensors", "erasure/config.json"):
        assert (tmp_path / name).stat().st_size > 100


@pytest.mark.slow
def test_a_swept_erasure_and_the_table_of_its_runs(tmp_path):
    out, target = tmp_path / "out", tmp_path / "results"
    arguments = ["--grid", str(ROOT / "notebooks/params/smoke.yaml"), "--out", str(out)]
    assert main([*arguments, "--publish", str(target)]) == 0
    runs = pd.read_csv(target / "smoke.csv")
    assert (
        len(runs) == 4
        and (runs["status"] == "done").all()
        and set(runs["method"]) == {"esd", "eap"}
    )
    assert (runs["ESR-1 erased n"] == 8).all() and (runs["PSR-1 near erased n"] == 6).all()
    for name in runs["id"]:
        for file in ("before_after.png", "erased.safetensors", "history.csv", "executed.ipynb"):
            assert (out / name / file).stat().st_size > 100
    result = run("13_many_runs", tmp_path, table=str(target / "smoke.csv"))
    assert result["runs"] == 4 and result["failed"] == 0
    assert {row["setting"] for row in result["differences"]} == {"eap"}
    for row in result["means"] + result["differences"]:
        assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.slow
def test_an_erasure_measured_where_it_first_erases(tmp_path):
    given = {"method": "eap", "lam_kv": 1.0, "dtype": "float32", "moments": [2]}
    result = run("run_erase", tmp_path, match=0.5, match_pictures=1, **given)
    # four updates erase nothing, at no strength
    assert result["strength"] == STRENGTHS[-1] and result["reached"] is False
    assert Erasure.load(tmp_path).strength == result["strength"]
    assert 0 <= result["percentile 2"] <= 100 and -1 <= result["delta near"] <= 1


@pytest.mark.slow
def test_one_erasure_explained(tmp_path):
    result = run("05_erase", tmp_path, method="eap", lam=1.0)
    assert result["updates"] == 4 and result["strength"] == 1
    for row in result["metrics"]:
        assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.slow
def test_concept_sensitivity(tmp_path):
    result = run("02_concept_sensitivity", tmp_path, targets=["dog"], predictors=["distance", "kv"])
    assert {row["predictor"] for row in result["agreement"]} == {"distance", "kv"}
    for row in result["predictors"] + result["neutral"]:
        assert row["low"] <= row["value"] <= row["high"] and row["groups"] == 5
    pairs = pd.read_parquet(tmp_path / "pairs.parquet")
    assert pairs["judge"].isna().sum() == 2 * 3  # two pictures of three neutral concepts
    for name in ("spectrum", "bars", "strip", "predictors", "bars_weapons", "bars_noto_style"):
        assert (tmp_path / f"{name}.png").stat().st_size > 100


@pytest.mark.slow
def test_the_map_of_concepts(tmp_path):
    result = run("03_embedding_map", tmp_path, target="dog", projection="tsne")
    spaces = {row["space"] for row in result["spaces"]}
    assert {"text", "pictures", "text, PCA", "pictures, UMAP"} <= spaces
    assert all(-1 <= row["value"] <= 1 for row in result["spaces"])
    assert (tmp_path / "map.html").stat().st_size > 1e6  # it needs no network
    for name in ("map_text", "map_pictures", "maps", "spaces", "strip"):
        assert (tmp_path / f"{name}.png").stat().st_size > 100


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
def test_the_method_from_its_equations(tmp_path):
    result = run("04_the_method", tmp_path)
    assert result["profile"] == "smoke"


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
def test_an_evaluation_and_what_is_said_of_a_folder_that_is_none(tmp_path):
    result = run("06_evaluate", tmp_path, suite="theme", dtype="float32", match=0.5)
    rows = {(r["group"], r["metric"], r["model"]): r for r in result["metrics"]}
    assert rows["implicit", "NER-0.8", "erased"]["n"] == 4
    assert "weapon, 8 concepts" in rows["implicit", "NER-0.3", "original"]["measured_by"]
    for row in rows.values():
        assert row["low"] <= row["value"] <= row["high"] and row["measured_by"] and row["seeds"]
    names = [f"{name}_{tmp_path.name}.png" for name in ("levels", "pictures")]
    for name in (*names, "thresholds.png", "theme_pictures.parquet", "theme_rows.csv"):
        assert (tmp_path / name).stat().st_size > 100
    # the run again, with one that is none beside it: the good one is measured, the status is bad
    runs = [str(tmp_path), str(tmp_path / "none")]
    with pytest.raises(papermill.PapermillExecutionError, match="1 of 2 runs were not evaluated"):
        run("06_evaluate", tmp_path, suite="theme", dtype="float32", runs=runs)
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert list(again["not evaluated"]) == runs[1:]
    same = ("group", "metric", "model", "value", "low", "high")
    before, after = (pd.DataFrame(r["metrics"])[list(same)] for r in (result, again))
    pd.testing.assert_frame_equal(before, after)


@pytest.mark.slow
def test_methods_side_by_side(tmp_path):
    result = run("07_compare", tmp_path, live=["eap_closed"])
    assert result["runs"] >= 40 and "eap_closed" in result["strengths"]
    found = {(r["setting"], r["group"], r["metric"]): r for r in result["levels"]}
    assert found["esd", "target", "ESR-1"]["splits"] == 4
    for row in result["levels"] + result["differences"]:
        assert row["low"] <= row["value"] <= row["high"]
    assert all(0 < r["p"] <= r["q"] <= 1 for r in result["differences"])
    for name in ("plane", "levels", "differences", "side_by_side"):
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


@pytest.mark.slow
def test_a_sweep_killed_twice_ends_as_if_it_had_not_been():
    kills.main(2, each=2, seed=1)


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
