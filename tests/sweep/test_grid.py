"""Grids: read, multiplied out, and refused before the first run when something is wrong."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from erase_lib.config import EraseConfig
from erase_lib.errors import EraseError
from erase_lib.files import read_mapping
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


def test_parameters_come_from_the_cell(known, notebook):
    assert known["targets"] == ("list[str]", ["church"]) and known["method"].default is None
    (found,) = grid.check(known, [{"lam": "1e-1", "targets": "dog"}])
    assert found == {"targets": ["dog"], "method": None, "lam": 0.1, "steps": 100, "hard": True}
    plain = grid.parameters(notebook("seed = 0\nlam: float = 5\noutput = 'x'"))
    assert plain["seed"].kind == "int" and type(plain["lam"].default) is float
    assert grid.check(plain, [{"seed": "3"}]) == [{"seed": 3, "lam": 5.0}]


def test_no_zero_is_another(known):
    cases = grid.check(known, [{"lam": value} for value in ("0.0", "-0.0", -0.0, 0, "-0")])
    assert {str(case["lam"]) for case in cases} == {"0.0"}


READ = {
    "float": [("1e-5", 1e-5), (1, 1.0)],  # YAML 1.1 takes 1e-5 for a text
    "int": [("7", 7), (3.0, 3)],
    "bool": [("true", True), (False, False)],
    "Optional[float]": [("none", None), (None, None), (2, 2.0)],
    "list[str]": [("church + fuel pump", ["church", "fuel pump"]), ("dog", ["dog"])],
    "list[int]": [([1, "2"], [1, 2]), (4, [4])],
    "Optional[list[str]]": [([], [])],
}
REFUSED = {
    "float": ["abc", "nan", "1e999", "1_0.5", "١.٥"],
    "int": [True, 1.5, "1.5", 10**400, 2**63, "9" * 26, "1_0", "١٢"],
    "bool": ["yes"],
    "str": [1, None],
    "list[str]": [{"a": 1}, [], [1]],
}


@pytest.mark.parametrize("kind", {**READ, **REFUSED})
def test_values_become_their_annotated_kind_or_are_refused(kind):
    for value, read in READ.get(kind, []):
        found = grid.convert(value, kind, "x")
        assert found == read and type(found) is type(read)
    for value in REFUSED.get(kind, []):
        with pytest.raises(EraseError, match=r"^x is .*expected"):
            grid.convert(value, kind, "x")


@pytest.fixture
def read(tmp_path):
    def cases_of(text):
        (tmp_path / "grid.yaml").write_text(text)
        return grid.expand(read_mapping(tmp_path / "grid.yaml", "grid", grid.SECTIONS))

    return cases_of


# each ten times the one before: a thousand million values in a few lines
BOMB = [f"  {b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefghi")]
WRONG = {
    "grid:\n\tlam: [1]\n": "grid.yaml line 2.*tabs",
    "grid: {lam: [1, 2]}\ngrid: {lam: [3]}\n": "grid.yaml.*grid.*twice",
    "grid:\n  lam: [1]\n  lam: [2]\n": "grid.yaml line 2.*lam.*twice",
    "girds: {lam: [1]}\n": "grid.yaml.*girds.*'grid'",
    "": "grid.yaml.*expected",
    "grid: {lam: [1}\n": "grid.yaml line 1",
    "grid: {a: [1], 0x1: [1], 1: [2]}\n": "grid.yaml line 1.*1 is given twice",
    "fixed: {a: !!int ''}\n": "grid.yaml line 1.*'' is no int",
    "fixed: {a: 1,\n b: !!bool maybe}\n": "grid.yaml line 2.*'maybe' is no bool",
    "fixed: {a: !!timestamp x}\n": "grid.yaml line 1.*timestamp",
    "fixed: {a: !!python/name:os.system x}\n": "grid.yaml line 1.*python/name",
    "fixed: " + "[" * 2000: "grid.yaml: .*20 blocks",
    "fixed: " + "{a: " * 30 + "}" * 30: "grid.yaml line 1: .*20 blocks",
    "fixed: &a {b: *a}\n": "grid.yaml line 1: .*20 blocks",
    "fixed: {<<: 5}\n": "grid.yaml line 1.*'<<'",
    "fixed: {a: !!set {b}}\n": "grid.yaml line 1: a mapping is no set",
    "fixed:\n  a: &a [0]\n" + "".join(BOMB): "grid.yaml line .*100,000 values",
    "fixed: {a: " + "9" * 5000 + "}\n": "grid.yaml line 1.*is no int",
    'fixed: {a: "\\ud800"}\n': "grid.yaml line 1.*is no str",
    "fixed: {a: 1}\n---\nfixed: {a: 2}\n": "grid.yaml line 2.*another document",
    "#" * 2_000_000: "grid.yaml.*300,000 bytes",
    "grid: {lam: 5}": "lam is 5.*list",
    "grid: {lam: []}": "lam is .*list",
    "zip: {a: [1, 2], b: [1]}": "a.*2.*b.*1",
    "fixed: {a: 1}\ngrid: {a: [1]}": "^a .*two",
    "cases: []": "cases.*mapping",
    "fixed: [1]": "fixed.*mapping",
    "fixed: 0": "fixed is 0.*mapping",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_grid_is_one_line(read, text):
    with pytest.raises(EraseError, match=WRONG[text]) as error:
        read(text)
    assert "\n" not in str(error.value)


# YAML 1.2's core schema; in YAML 1.1 these were 8, 90, True, a date and a text
CORE = {"010": 10, "0o10": 8, "0x1F": 31, "1:30": "1:30", "yes": "yes", "off": "off", "True": True}
CORE |= {"2024-01-02": "2024-01-02", "1e-5": 1e-5, ".inf": float("inf"), "~": None, "1_0": "1_0"}
CORE |= {"!!str 5": "5", "!!float 3": 3.0, "'<<'": "<<", "=": "="}


@pytest.mark.parametrize("text", CORE)
def test_a_scalar_is_what_it_looks_like(read, text):
    (case,) = read(f"\ufefffixed: {{a: {text}}}\n")  # with the mark that Windows puts before it
    assert case == {"a": CORE[text]} and type(case["a"]) is type(CORE[text])


def test_a_file_in_another_encoding(tmp_path, refused):
    (tmp_path / "grid.yaml").write_bytes("fixed: {a: café}\n".encode("utf-16"))
    assert read_mapping(tmp_path / "grid.yaml", "grid", ["fixed"]) == {"fixed": {"a": "café"}}
    (tmp_path / "grid.yaml").write_bytes("fixed:\n  a: café\n".encode("latin-1"))
    refused(read_mapping, tmp_path / "grid.yaml", "grid", ["fixed"], says=["line 2", "UTF-8"])


def test_what_a_merge_shares_may_itself_be_merged_and_replaced(read):
    text = "cases:\n  - a: {b: &z {<<: {c: 1}, c: 2}}\n  - {<<: *z, d: 3}\n"
    assert read(text) == [{"a": {"b": {"c": 2}}}, {"c": 2, "d": 3}]


def test_sections_are_multiplied_in_order(read):
    text = "fixed: {seed: 0}\ngrid: {method: [esd, eap]}\nzip: {lam: [1, 5], eta: [0, 1]}\n"
    found = read(text + "cases: [&one {targets: church}, {<<: *one, steps: 50}]\n")
    first = {"seed": 0, "targets": "church", "lam": 1, "eta": 0, "method": "esd"}
    assert len(found) == 2 * 2 * 2 and found[0] == first
    assert found[-1] == first | {"steps": 50, "lam": 5, "eta": 1, "method": "eap"}
    assert [case.get("steps") for case in found] == [None] * 4 + [50] * 4
    assert {(case["lam"], case["eta"]) for case in found} == {(1, 0), (5, 1)}
    assert grid.expand({}) == [{}]


def test_a_grid_is_counted_before_it_is_listed(refused):
    many = {name: list(range(1000)) for name in "abcdef"}
    refused(grid.expand, {"grid": many}, says=["1,000,000,000,000,000,000 runs", "--most"])
    refused(grid.expand, {"cases": [{"a": i} for i in range(10_001)]}, says="10,001 runs")
    refused(grid.expand, {"zip": {"a": [1, 2]}, "grid": {"b": [1, 2]}}, most=3, says="4 most 3")
    assert len(grid.expand({"cases": [{"a": 1}] * 10_001}, most=10_001)) == 10_001


UNFIT = {
    "steps=99999999999999999999999999": "steps is .*64 bits",
    "steps=1000000000000": "steps is 1000000000000.*1,000,000",
    "metod=esd": "metod.*'method'",
    "method=esdd": "esdd.*'esd'",
    "lam=-1": "lam is -1.0",
    "output=here": "--out",
    "targets=church+chruch": "chruch",
}


@pytest.mark.parametrize("pair", UNFIT)
def test_a_wrong_case_is_refused(known, pair):
    with pytest.raises(EraseError, match=UNFIT[pair]):
        grid.check(known, [{"steps": 1}, dict([pair.split("=")])])


def test_pairs_of_the_command_line():
    found = grid.read_arguments(["a=1,2", "b = fuel pump+dog"])
    assert found == {"a": ["1", "2"], "b": ["fuel pump+dog"]}
    for wrong in (["a"], ["=1"], ["a="], ["a=1", "a=2"], ["a=\udcff"], ["\udcc3\udca9=1"]):
        with pytest.raises(EraseError, match="^-p"):
            grid.read_arguments(wrong)


QUOTED = {
    'targets="Salome, 1870",dog': [["Salome, 1870"], ["dog"]],
    'targets="C++"': [["C++"]],
    'targets="C++"+"Salome, 1870" + dog,cat': [["C++", "Salome, 1870", "dog"], ["cat"]],
    'targets="say ""a+b"", c"': [['say "a+b", c']],
    "targets=Salome, 1870": [["Salome"], ["1870"]],
}


@pytest.mark.parametrize("pair", QUOTED)
def test_quotes_keep_commas_and_plus_signs(pair):
    (values,) = grid.read_arguments([pair]).values()
    assert [grid.convert(value, "list[str]", "targets") for value in values] == QUOTED[pair]
    if len(QUOTED[pair]) == len(QUOTED[pair][0]) == 1:
        assert grid.convert(values[0], "str", "target") == QUOTED[pair][0][0]
        assert grid.convert(values[0], "Optional[str]", "target") == QUOTED[pair][0][0]


@pytest.mark.parametrize(
    "pair", ["targets=C++", "targets=+", "targets=a+", 'targets="a', 'targets=5"']
)
def test_what_is_not_quoted_well_is_refused(pair, refused):
    def read():
        return [grid.convert(v, "list[str]", "x") for v in grid.read_arguments([pair])["targets"]]

    refused(read, says='"')


def test_a_plan_says_what_it_erases(notebook, capsys, tmp_path):
    book = notebook(CELL.replace('["church"]', '["dog"]') + 'model: str = "an/id"\n')
    ask = [str(book), "--out", str(tmp_path / "none"), "--dry-run", "-p"]
    assert main([*ask, "targets=Salome, 1870"]) == 0
    assert "2 runs, 0 of them done\n2 targets: 'Salome', '1870'" in capsys.readouterr().out
    assert main([*ask, 'targets="Salome, 1870"+"C++"']) == 0
    assert "1 runs, 0 of them done\n2 targets: 'Salome, 1870', 'C++'" in capsys.readouterr().out
    for wrong in ("targets=dog+Dog", "targets=dog+dog", "targets=a\nb"):
        assert main([*ask, wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["--help"])
    assert '"Salome, 1870"' in " ".join(capsys.readouterr().out.split())


def test_notebooks_that_cannot_be_swept(notebook, tmp_path):
    unfit = {"x: int = 1": "output", "output = str(1)": "plain"}
    for cell, says in (unfit | {"output = 'x'\nstatus = 'y'": "status"}).items():
        with pytest.raises(EraseError, match=says):
            grid.parameters(notebook(cell))
    (tmp_path / "text.ipynb").write_text("not a notebook")
    for name in ("none.ipynb", "text.ipynb"):
        with pytest.raises(EraseError, match=name):
            grid.parameters(tmp_path / name)


def test_the_targets_of_another_model_are_its_own(notebook):
    cell = 'target: str = "dog"\nmodel: str = ""\nlam: float = 1.0\noutput: str = "x"'
    known = grid.parameters(notebook(cell))
    assert grid.check(known, [{"target": "nudity", "model": "an/id"}])
    paper = grid.parameters(notebook(cell + '\nprofile: str = "course"'))  # Stable Diffusion's
    assert grid.check(paper, [{"target": "nudity", "profile": "paper"}])
    with pytest.raises(EraseError, match="nudity"):
        grid.check(paper, [{"target": "nudity", "profile": "course"}])
    with pytest.raises(EraseError, match="nudity"):
        grid.check(known, [{"target": "nudity"}])


@pytest.mark.parametrize("name", sorted(path.stem for path in GRIDS.glob("*.yaml")))
def test_every_named_grid_can_be_run(name, capsys):
    assert main(["--grid", str(GRIDS / f"{name}.yaml"), "--out", "none", "--dry-run"]) == 0
    assert re.search(r"\d+ runs, 0 of them done", capsys.readouterr().out)


def test_a_swept_erasure_has_every_setting():
    known = grid.parameters(GRIDS.parent / "run_erase.ipynb")
    for name in {field.name for field in fields(EraseConfig)} - {"targets", "seed"}:
        hint = EraseConfig.__annotations__[name].replace("tuple[str, ...]", "list[str]")
        assert known[name] == (f"Optional[{hint}]", None), "the profile decides"
    assert {"targets", "seed"} <= known.keys()
