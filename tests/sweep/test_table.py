"""The table of a sweep: rebuilt, published, and which of its runs answer which question."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from erase_lib.errors import EraseError
from erase_lib.measure import read_table
from erase_lib.sweep import collect, question, run
from erase_lib.sweep.cli import main
from erase_lib.sweep.table import publish

SETTINGS = ["search", "lam", "hard", "candidates"]
DEFAULTS = {"search": "movement", "lam": 5.0, "hard": True, "candidates": 200}
RUNS = pd.DataFrame(
    [{"id": "base"}, {"id": "lam", "lam": 1.0}, {"id": "gumbel", "search": "gumbel"}]
    + [{"id": "soft", "search": "gumbel", "hard": False}, {"id": "few", "candidates": 50.0}]
    + [{"id": "few, weak", "candidates": 50.0, "lam": 1.0}]
)


@pytest.fixture
def a_run(out):
    """Writes a run's folder, as of a sweep that is over."""

    def write(name, record, metrics):
        (out / name).mkdir(parents=True)
        (out / name / "run.json").write_text(json.dumps(record))
        (out / name / "metrics.json").write_text(metrics)

    return write


def test_a_folder_of_an_older_version_is_read(a_run, out):
    record = {"status": "done", "parameters": {"targets": ["dog", "cat"], "lam": None, "seed": 0}}
    record |= {"notebook": "06_erase.ipynb", "threads": 1, "git_commit": "abc", "worker": 7}
    record |= {"sweep": "f00", "started": "2026-01-02T03:04:05+0000", "seconds": 9.5}
    record |= dict.fromkeys(run.VERSIONS, "0.1") | {"id": "dog+cat-0badcafe"}
    row = {"metric": "ESR-1", "model": "erased", "value": 1.0, "low": 0.5, "high": 1.0, "n": 8}
    a_run("dog+cat-0badcafe", record, json.dumps({"strength": 1.0, "metrics": [row]}))
    (found,) = collect(out).to_dict("records")
    again = read_table(out / "results.csv").iloc[0]
    wanted = {"id": "dog+cat-0badcafe", "status": "done", "targets": "dog+cat", "seconds": 9.5}
    wanted |= {"strength": 1.0, "ESR-1 erased": 1.0, "ESR-1 erased low": 0.5, "torch": 0.1}
    for name, value in wanted.items():
        assert str(found[name]) == str(again[name]) == str(value)


def test_metrics_of_another_form_are_said_and_the_table_stands(a_run, out):
    texts = {"a": '{"metrics": {"acc": 1}}', "b": '{"status": "x", "n": 2}', "c": '{"metr'}
    for name, text in texts.items():
        a_run(name, {"status": "done", "parameters": {"k": "v"}}, text)
    found = collect(out).set_index("id")
    assert (found["status"] == "done").all() and found.loc["b", "n"] == 2
    assert found["error"].notna().to_dict() == {"a": True, "b": False, "c": True}
    with pytest.raises(EraseError, match="empty.*runs"):
        collect(out / "empty")


ABOUT = {"status": "done", "parameters": {"lam": 1.0, "seed": 0}, "seconds": 1.5, "threads": 1}
ROW = {"metric": "ESR-1", "model": "erased", "value": 1.0, "low": 0.5, "high": 1.0, "n": 8}
SAME = ["id", "status", "lam", "seed", "seconds", "ESR-1 erased", "ESR-1 erased n"]


def record(**values):
    return json.dumps(ABOUT | values)


RECORDS = ["", "null", "[1]", '{"sta', "\udcff", "[" * 100_000, '{"status": "done"}']
RECORDS += ['{"status": 5, "parameters": {}}', record(parameters=None), record(parameters=[])]
RECORDS += [record(seconds=value) for value in ("x", None, [1])] + [record(threads=10**30)]
RECORDS += [record(parameters={"a": value}) for value in (10**30, "\ud800")]
RECORDS += [record(parameters={"\ud800": 1}), '{"parameters": {"a": ' + "9" * 5000 + "}}"]


@pytest.mark.parametrize("text", RECORDS)
def test_a_damaged_record_costs_the_others_nothing(a_run, out, text):
    for name in ("a", "b"):
        a_run(name, ABOUT, json.dumps({"metrics": [ROW]}))
    whole = collect(out)
    a_run("c", {}, json.dumps({"metrics": [ROW]}))
    (out / "c" / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    found = collect(out)
    pd.testing.assert_frame_equal(found[SAME].head(2), whole[SAME], check_dtype=False)
    assert found["error"].isna().tolist() == [True, True, False]
    assert found.loc[2, "id"] == "c" and found.loc[2, "status"] == "damaged"
    assert found.loc[2, "error"].startswith("run.json is damaged") and pd.isna(found.loc[2, "lam"])
    assert len(pd.read_parquet(out / "results.parquet")) == 3
    assert run.Case("c", out / "c", {}).record().get("status") != "done" or "parameters" in text


METRICS = ["5", "null", "[]", "\udcff", "[" * 100_000, '{"metrics": 5}', '{"metrics": {"a": 1}}']
METRICS += ['{"n": 1' + "0" * 30 + "}", '{"a": "\\ud800"}', '{"\\ud800": 1}', '{"metrics": [5]}']
METRICS += [json.dumps({"metrics": [ROW | {"value": value}]}) for value in ("high", [1], 10**30)]
METRICS += [json.dumps({"metrics": [ROW | {"n": "x"}]}), json.dumps({"metrics": [{"model": "x"}]})]


@pytest.mark.parametrize("text", METRICS)
def test_damaged_metrics_cost_the_others_nothing(a_run, out, text):
    for name in ("a", "b"):
        a_run(name, ABOUT, json.dumps({"metrics": [ROW]}))
    whole = collect(out)
    a_run("c", ABOUT, "")
    (out / "c" / "metrics.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    found = collect(out)
    pd.testing.assert_frame_equal(found[SAME].head(2), whole[SAME], check_dtype=False)
    assert found["error"].isna().tolist() == [True, True, False]
    assert found.loc[2, "error"].startswith("metrics.json is damaged") and found.loc[2, "lam"] == 1


def test_a_value_of_another_kind_or_nested_is_a_text(a_run, out):
    given = [True, 0.5, "x", [1, 2], {"a": [1]}, {}, [[1]], None]
    for i, value in enumerate(given):
        a_run(str(i), ABOUT | {"parameters": {"k": value, "id": 5, "error": "none"}}, "{}")
    found = collect(out)
    wanted = ["True", "0.5", "x", "1+2", '{"a": [1]}', "{}", "[[1]]"]
    assert found["k"].tolist()[:-1] == wanted and pd.isna(found["k"].iloc[-1])
    assert found["id"].tolist() == list("01234567") and found["error"].isna().all()


def test_tables_are_read_or_refused(tmp_path):
    for name, says in (("none.csv", "none.csv"), ("a.csv", "a.csv.*status")):
        (tmp_path / "a.csv").write_text("x\n1\n")
        with pytest.raises(EraseError, match=says):
            read_table(tmp_path / name)
    (tmp_path / "b.parquet").write_text("none")
    with pytest.raises(EraseError, match="b.parquet"):
        read_table(str(tmp_path / "b.parquet"))


@pytest.mark.usefixtures("without_kernels")
def test_a_grid_is_published_with_its_hours_and_versions(book, out, tmp_path):
    file, target = tmp_path / "named.yaml", tmp_path / "results"
    file.write_text("grid: {number: [0, 1]}\n")
    given = [str(book), "--grid", str(file), "--out", str(out), "--publish", str(target)]
    assert main(given) == 0
    about = json.loads((target / "named.json").read_text())
    assert about["runs"] == 2 and about["torch"] == [run.version("torch")]
    assert len(pd.read_csv(target / "named.csv")) == 2
    assert file.read_text() == (target / file.name).read_text()


def test_tables_that_the_runs_wrote_are_joined_with_the_runs_id_and_targets(out):
    written = {"a": ["pairs", "effects"], "b": ["pairs"], "c": [], "d": ["pairs"]}
    for i, (name, tables) in enumerate(written.items()):
        (out / name).mkdir(parents=True)
        for file in tables:
            rows = pd.DataFrame({"concept": ["dog", "cat"], "delta": [i + 0.123456, 0.5]})
            rows.to_parquet(out / name / f"{file}.parquet")
    runs = pd.DataFrame({"id": ["b", "a", "c"], "targets": ["church", "bus+car", "rose"]})
    about = {"status": "done", "seconds": 1.0, "threads": 1, "git_commit": "x", "cell": None}
    runs = runs.assign(error=None, **about, **dict.fromkeys(run.VERSIONS, "1"))
    publish(runs, out, out / "results", out / "named.json")
    assert len(list((out / "results").glob("*.parquet"))) == 2
    pairs = pd.read_parquet(out / "results" / "named_pairs.parquet")  # d is not in the table
    assert pairs.columns.tolist() == ["id", "targets", "concept", "delta"]
    assert pairs["id"].tolist() == ["b", "b", "a", "a"]  # in the order of the runs
    assert pairs["targets"].tolist() == ["church"] * 2 + ["bus+car"] * 2
    assert pairs["delta"].dtype == "float32"  # to three digits
    assert pairs["delta"].tolist() == pytest.approx([1.123456, 0.5, 0.123456, 0.5], 1e-3)


ASKED = [
    ("lam", {}, ["lam", "base"], [1.0, 5.0]),
    ("search", {}, ["gumbel", "base"], ["gumbel", "movement"]),
    ("candidates", {}, ["few", "base"], [50, 200]),
    ("lam", {"candidates": 50}, ["few, weak", "few"], [1.0, 5.0]),
    ("hard", {"search": "gumbel"}, ["soft", "gumbel"], [False, True]),
]


@pytest.mark.parametrize(("vary", "fixed", "ids", "values"), ASKED)
def test_runs_that_differ_in_one_setting(vary, fixed, ids, values):
    part = question(RUNS, vary, SETTINGS, fixed, DEFAULTS)
    assert list(part["id"]) == ids and list(part[vary]) == values
    assert list(map(type, part[vary])) == list(map(type, values))
    with pytest.raises(EraseError, match="hard"):  # is not varied
        question(RUNS, "hard", SETTINGS, {}, DEFAULTS)
