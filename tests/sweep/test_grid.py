"""Grids: read, multiplied out, and refused before the first run when something is wrong."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from erase_lib.config import EraseConfig
from erase_lib.errors import EraseError
from erase_lib.sweep import grid
from erase_lib.sweep.cli import main

GRIDS = Path(__file__).resolve().parents[2] / "notebooks" / "params"

CELL = """
targets: list[str] = ["church"]  # what to erase
method: Optional[str] = None  # how
lam: float = 5.0
steps: int = 100
hard: bool = True
output: str = "runs/x"
"""


@pytest.fixture
def known(notebook):
    return grid.parameters(notebook(CELL))


def test_parameters_come_from_the_annotated_cell(known):
    assert list(known) == ["targets", "method", "lam", "steps", "hard", "output"]
    assert known["targets"] == grid.Parameter("list[str]", ["church"])
    assert known["method"].kind == "Optional[str]" and known["method"].default is None


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        ("1e-5", "float", 1e-5),  # YAML 1.1 takes it for a text
        (1, "float", 1.0),
        ("7", "int", 7),
        (3.0, "int", 3),
        ("true", "bool", True),
        (False, "bool", False),
        ("none", "Optional[float]", None),
        (None, "Optional[str]", None),
        ("2", "Optional[int]", 2),
        ("church + fuel pump", "list[str]", ["church", "fuel pump"]),
        ("dog", "list[str]", ["dog"]),
        ([1, "2"], "list[int]", [1, 2]),
        (4, "list[int]", [4]),
        ([], "Optional[list[str]]", []),
    ],
)
def test_values_become_their_annotated_kind(value, kind, read):
    found = grid.convert(value, kind, "x")
    assert found == read and type(found) is type(read)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("abc", "float"),
        ("nan", "float"),
        ("1e999", "float"),
        (True, "int"),
        (1.5, "int"),
        ("1.5", "int"),
        ("yes", "bool"),
        (1, "str"),
        (None, "str"),
        ({"a": 1}, "list[str]"),
        ([], "list[str]"),
        ([1], "list[str]"),
    ],
)
def test_values_of_another_kind_are_refused(value, kind):
    with pytest.raises(EraseError, match=r"^x is .*expected"):
        grid.convert(value, kind, "x")


def test_sections_are_multiplied_in_order():
    spec = {
        "fixed": {"seed": 0},
        "grid": {"method": ["esd", "eap"]},
        "zip": {"lam": [1, 5], "lr": [1e-4, 1e-5]},
        "cases": [{"targets": "church"}, {"targets": "dog", "steps": 50}],
    }
    found = grid.expand(spec)
    first = {"seed": 0, "targets": "church", "lam": 1, "lr": 1e-4, "method": "esd"}
    assert len(found) == 2 * 2 * 2 and found[0] == first
    assert {(case["lam"], case["lr"]) for case in found} == {(1, 1e-4), (5, 1e-5)}
    assert [case.get("steps") for case in found] == [None] * 4 + [50] * 4
    assert grid.expand({}) == [{}]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"grid": {"lam": 5}}, "lam is 5.*list"),
        ({"grid": {"lam": []}}, "lam is .*list"),
        ({"zip": {"a": [1, 2], "b": [1]}}, "a 2, b 1"),
        ({"fixed": {"a": 1}, "grid": {"a": [1]}}, "^a .*two"),
        ({"cases": {"a": 1}}, "cases.*mapping"),
        ({"cases": []}, "cases.*mapping"),
        ({"fixed": [1]}, "fixed.*mapping"),
    ],
)
def test_a_section_of_the_wrong_form_is_refused(spec, says):
    with pytest.raises(EraseError, match=says):
        grid.expand(spec)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grid:\n\tlam: [1]\n", "line 2.*tabs"),
        ("grid: {lam: [1, 2]}\ngrid: {lam: [3]}\n", "grid.*twice"),
        ("grid:\n  lam: [1]\n  lam: [2]\n", "lam.*twice.*line 2"),
        ("girds: {lam: [1]}\n", "girds.*'grid'"),
        ("- 1\n", "expected"),
        ("", "expected"),
        ("grid: {lam: [1}\n", "line 1"),
        ("fixed: {date: 2024-13-45}\n", "month"),
    ],
)
def test_a_wrong_grid_file_is_one_line(tmp_path, text, says):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(EraseError, match=says) as error:
        grid.read_yaml(path)
    assert "\n" not in str(error.value) and "grid.yaml" in str(error.value)


def test_settings_are_shared_by_an_anchor(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("cases: [&one {lam: 1, seed: 2}, {<<: *one, lam: 3}]\n")
    assert grid.expand(grid.read_yaml(path)) == [{"lam": 1, "seed": 2}, {"lam": 3, "seed": 2}]


def test_a_missing_grid_file_is_one_line(tmp_path):
    with pytest.raises(EraseError, match="none.yaml"):
        grid.read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ({"metod": "esd"}, "metod.*'method'"),
        ({"method": "esdd"}, "esdd.*'esd'"),
        ({"lam": -1}, "lam is -1.0"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"output": "here"}, "--out"),
        ({"targets": "church+chruch"}, "chruch"),
    ],
)
def test_a_wrong_case_is_refused(known, case, says):
    with pytest.raises(EraseError, match=says):
        grid.check(known, [{"lam": 1}, case])


def test_a_checked_case_has_every_parameter_but_output(known):
    (found,) = grid.check(known, [{"lam": "1e-1", "targets": "dog"}])
    assert found == {"targets": ["dog"], "method": None, "lam": 0.1, "steps": 100, "hard": True}


def test_pairs_of_the_command_line():
    found = grid.read_arguments(["a=1,2", "b = fuel pump+dog"])
    assert found == {"a": ["1", "2"], "b": ["fuel pump+dog"]}
    for wrong in (["a"], ["=1"], ["a="], ["a=1", "a=2"]):
        with pytest.raises(EraseError, match="^-p"):
            grid.read_arguments(wrong)


def test_notebooks_that_cannot_be_swept(notebook, tmp_path):
    for cell, says in (
        ("x: int = 1", "output"),
        ("output = str(1)", "plain"),
        ("output = 'x'\nstatus = 'y'", "status"),
    ):
        with pytest.raises(EraseError, match=says):
            grid.parameters(notebook(cell))
    with pytest.raises(EraseError, match="none.ipynb"):
        grid.parameters(tmp_path / "none.ipynb")
    (tmp_path / "text.ipynb").write_text("not a notebook")
    with pytest.raises(EraseError, match="text.ipynb"):
        grid.parameters(tmp_path / "text.ipynb")


def test_the_targets_of_another_model_are_its_own(notebook):
    cell = 'target: str = "dog"\nmodel: str = ""\nlam: float = 1.0\noutput: str = "x"'
    known = grid.parameters(notebook(cell))
    assert grid.check(known, [{"target": "nudity", "model": "an/id"}])
    with pytest.raises(EraseError, match="nudity"):
        grid.check(known, [{"target": "nudity"}])


def test_without_annotation_the_default_says_the_kind(notebook):
    found = grid.parameters(notebook("seed = 0\nlam: float = 5\noutput = 'x'"))
    assert found["seed"].kind == "int" and type(found["lam"].default) is float
    assert grid.check(found, [{"seed": "3"}]) == [{"seed": 3, "lam": 5.0}]


def test_ten_thousand_cases_are_planned(known):
    cases = grid.expand({"grid": {"steps": list(range(1, 101)), "lam": list(range(100))}})
    assert len(grid.check(known, cases)) == 10_000


@pytest.mark.parametrize("name", sorted(path.stem for path in GRIDS.glob("*.yaml")))
def test_every_named_grid_can_be_run(name, capsys):
    assert main(["--grid", str(GRIDS / f"{name}.yaml"), "--out", "none", "--dry-run"]) == 0
    assert re.search(r"\d+ runs, 0 of them done", capsys.readouterr().out)


def test_a_swept_erasure_has_every_setting():
    known = grid.parameters(GRIDS.parent / "run_erase.ipynb")
    settings = {field.name for field in fields(EraseConfig)}
    assert not settings - known.keys()
    free = settings - {"targets", "seed"}
    assert {known[name].default for name in free} == {None}, "the profile decides"
    kinds = {name: known[name].kind for name in free}
    hints = {name: EraseConfig.__annotations__[name] for name in free}
    plain = {name: re.sub(r"tuple\[str, ...\]", "list[str]", hint) for name, hint in hints.items()}
    assert kinds == {name: f"Optional[{hint}]" for name, hint in plain.items()}
