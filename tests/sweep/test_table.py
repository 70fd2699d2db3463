"""The table of a sweep: rebuilt, published, and which of its runs answer which question."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from erase_lib.errors import EraseError
from erase_lib.measure import read_table
from erase_lib.sweep import question, run
from erase_lib.sweep.cli import main, sweep
from erase_lib.sweep.table import collect, gather, publish

SETTINGS = ["search", "lam", "hard", "candidates"]
DEFAULTS = {"search": "movement", "lam": 5.0, "hard": True, "candidates": 200}
RUNS = pd.DataFrame(
    [
        {"id": "base"},
        {"id": "lam", "lam": 1.0},
        {"id": "gumbel", "search": "gumbel"},
        {"id": "soft", "search": "gumbel", "hard": False},
        {"id": "few", "candidates": 50.0},
        {"id": "few, weak", "candidates": 50.0, "lam": 1.0},
    ]
)


def test_the_table_is_rebuilt_from_the_folders(book, tmp_path, numbers):
    out = tmp_path / "out"
    first = sweep(book, numbers(0, 1), out, progress=False)
    for file in ("results.parquet", "results.csv"):
        (out / file).unlink()
    again = collect(out).set_index("id").loc[first["id"]].reset_index()
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), collect(out))
    name = first["id"][0]
    (out / name / "metrics.json").write_text('{"metr')
    assert "damaged" in collect(out).set_index("id").loc[name, "error"]
    with pytest.raises(EraseError, match="empty.*runs"):
        collect(tmp_path / "empty")


def test_a_folder_of_an_older_version_is_read(tmp_path):
    versions = dict.fromkeys(run.VERSIONS, "0.1")
    record = {"status": "done", "parameters": {"targets": ["dog", "cat"], "lam": None, "seed": 0}}
    record |= {"notebook": "06_erase.ipynb", "threads": 1, "git_commit": "abc", "worker": 7}
    record |= {"sweep": "f00", "started": "2026-01-02T03:04:05+0000", "seconds": 9.5} | versions
    row = {"metric": "ESR-1", "model": "erased", "value": 1.0, "low": 0.5, "high": 1.0, "n": 8}
    folder = tmp_path / "dog+cat-0badcafe"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"id": folder.name} | record, indent=1))
    (folder / "metrics.json").write_text(json.dumps({"strength": 1.0, "metrics": [row]}))
    (found,) = collect(tmp_path).to_dict("records")
    again = read_table(tmp_path / "results.csv").iloc[0]
    wanted = {"id": folder.name, "status": "done", "targets": "dog+cat", "seconds": 9.5}
    wanted |= {"strength": 1.0, "ESR-1 erased": 1.0, "ESR-1 erased low": 0.5, "torch": 0.1}
    for name, value in wanted.items():
        assert str(found[name]) == str(again[name]) == str(value)


def test_metrics_of_another_form_are_said_and_the_table_stands(tmp_path):
    texts = {"a": '{"metrics": {"acc": 1}}', "b": '{"status": "x", "n": 2}', "c": ""}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text('{"status": "done", "parameters": {"k": "v"}}')
        (tmp_path / name / "metrics.json").write_text(text)
    found = collect(tmp_path).set_index("id")
    assert (found["status"] == "done").all() and found.loc["b", "n"] == 2
    assert found["error"].notna().to_dict() == {"a": True, "b": False, "c": True}


def test_tables_are_read_or_refused(tmp_path):
    for name, says in (("none.csv", "none.csv"), ("a.csv", "a.csv.*status")):
        (tmp_path / "a.csv").write_text("x\n1\n")
        with pytest.raises(EraseError, match=says):
            read_table(tmp_path / name)
    (tmp_path / "b.parquet").write_text("none")
    with pytest.raises(EraseError, match="b.parquet"):
        read_table(str(tmp_path / "b.parquet"))


def test_a_grid_is_published_with_its_hours_and_versions(book, tmp_path):
    file = tmp_path / "named.yaml"
    file.write_text("grid: {number: [0, 1]}\n")
    target = tmp_path / "results"
    arguments = [str(book), "--grid", str(file), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--publish", str(target)]) == 0
    about = json.loads((target / "named.json").read_text())
    assert about["runs"] == 2 and about["torch"] == [run.version("torch")]
    assert len(pd.read_csv(target / "named.csv")) == 2 and (target / file.name).is_file()
    assert Path(file).read_text() == (target / file.name).read_text()


def test_tables_that_the_runs_wrote_are_joined_with_the_runs_id_and_targets(tmp_path):
    out, written = tmp_path / "out", {"a": ["pairs", "effects"], "b": ["pairs"], "c": []}
    for i, (name, tables) in enumerate(written.items()):
        (out / name).mkdir(parents=True)
        for file in tables:
            rows = pd.DataFrame({"concept": ["dog", "cat"], "delta": [float(i), 0.5]})
            rows.to_parquet(out / name / f"{file}.parquet")
    runs = pd.DataFrame({"id": ["b", "a", "c"], "targets": ["church", "bus+car", "rose"]})
    (out / "d").mkdir()  # a run that is not in the table
    rows.to_parquet(out / "d" / "pairs.parquet")
    found = gather(runs, out)
    assert list(found) == ["effects.parquet", "pairs.parquet"]
    pairs = found["pairs.parquet"]
    assert pairs.columns.tolist() == ["id", "targets", "concept", "delta"]
    assert pairs["id"].tolist() == ["b", "b", "a", "a"]  # in the order of the runs
    assert pairs["targets"].tolist() == ["church"] * 2 + ["bus+car"] * 2
    assert pairs["delta"].tolist() == [1.0, 0.5, 0.0, 0.5]
    about = {"status": "done", "seconds": 1.0, "threads": 1, "git_commit": "x", "cell": None}
    runs = runs.assign(error=None, **about, **dict.fromkeys(run.VERSIONS, "1"))
    publish(runs, out, tmp_path / "results", tmp_path / "named.json")
    again = pd.read_parquet(tmp_path / "results" / "named_pairs.parquet")
    # to three digits, as float32
    pd.testing.assert_frame_equal(again, pairs, check_dtype=False, rtol=1e-3)


@pytest.mark.parametrize(
    ("vary", "fixed", "ids", "values"),
    [
        ("lam", {}, ["lam", "base"], [1.0, 5.0]),
        ("search", {}, ["gumbel", "base"], ["gumbel", "movement"]),
        ("candidates", {}, ["few", "base"], [50, 200]),
        ("lam", {"candidates": 50}, ["few, weak", "few"], [1.0, 5.0]),
        ("hard", {"search": "gumbel"}, ["soft", "gumbel"], [False, True]),
    ],
)
def test_runs_that_differ_in_one_setting(vary, fixed, ids, values):
    part = question(RUNS, vary, SETTINGS, fixed, DEFAULTS)
    assert list(part["id"]) == ids and list(part[vary]) == values
    assert all(type(found) is type(value) for found, value in zip(part[vary], values, strict=True))


def test_a_setting_that_was_not_varied_is_refused():
    with pytest.raises(EraseError, match="hard"):
        question(RUNS, "hard", SETTINGS, {}, DEFAULTS)
