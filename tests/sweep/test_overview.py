"""A plan for the eye: names of what was swept, runs that repeat others, time, what is left out."""

import json

import pytest

from erase_lib import files
from erase_lib.errors import EraseError
from erase_lib.sweep import run
from erase_lib.sweep.cli import main, plan, sweep
from erase_lib.sweep.overview import overview, repeats

CELL = """
targets: list[str] = ["church"]
method: Optional[str] = None
lam: Optional[float] = None
search: Optional[str] = None
steps: Optional[int] = None
seed: int = 0
pictures: int = 4
profile: str = "course"
output: str = "runs/x"
"""


@pytest.fixture
def cases(notebook, out):
    return lambda **grid: plan(notebook(CELL), {"grid": grid}, out)


def test_runs_that_erase_the_same_are_named(cases):
    said = repeats(cases(method=["esd", "eap"], lam=[5, 20]))
    assert "1 runs erase" in said and "esd is the same at any lam" in said and "eap" not in said
    # λ counts in UCE, the search and the seed do not
    said = repeats(cases(method=["uce"], lam=[5, 20], search=["random", "gumbel"], seed=[0, 1]))
    assert "6 runs erase" in said and "uce is the same at any search, seed" in said
    assert repeats(cases(steps=[None, 100])), "what the profile says anyway"
    assert not repeats(cases(method=["esd", "eap"], seed=[0, 1])), "these differ"
    assert not repeats(cases(method=["esd"], pictures=[4, 8])), "the notebook's own"


def test_a_folder_says_what_was_swept_and_a_run_keeps_its_own(notebook, out):
    book = notebook()
    spec = {"fixed": {"wait": 0.01}, "grid": {"number": [0, 2]}}
    names = [case.id for case in plan(book, spec, out)]
    assert [name.rpartition("-")[0] for name in names] == ["0", "2"]
    (alone,) = plan(book, spec | {"grid": {"number": [2]}}, out)
    assert alone.id.startswith("2-0.01-") and alone.id[-8:] == names[1][-8:]
    (out / names[1]).mkdir(parents=True)
    (alone,) = plan(book, spec | {"grid": {"number": [2]}}, out)
    assert alone.id == names[1], "the same run, in the folder where it is"


def test_the_time_is_told_by_the_same_notebooks_runs(cases, out):
    every = cases(seed=[0, 1, 2])
    assert "minutes" not in overview(every, "book.ipynb")
    alike = {"notebook": "book.ipynb", "parameters": {"profile": "course"}, "status": run.DONE}
    for i, other in enumerate([{}, {"notebook": "b.ipynb"}, {"parameters": {"profile": "paper"}}]):
        folder = out.parent / "elsewhere" / str(i)
        folder.mkdir(parents=True)
        record = alike | {"seconds": 60.0 if not i else 6000.0} | other
        (folder / run.RECORD).write_text(json.dumps(record))
    assert "about 3.0 minutes left on 1 workers (60 s a run" in overview(every, "book.ipynb")
    every[0].folder.mkdir(parents=True)
    (every[0].folder / run.RECORD).write_text(json.dumps(alike | {"seconds": 120.0}))
    said = overview(every, "book.ipynb", workers=2)
    assert "about 2.0 minutes left on 2 workers (120 s a run, the mean of those done)" in said


def test_what_does_not_go_together_can_be_left_out(notebook, out, capsys):
    book, spec = notebook(CELL), {"grid": {"method": ["esd", "ca"], "seed": [0]}}
    with pytest.raises(EraseError, match="anchors"):
        plan(book, spec, out)
    (case,) = plan(book, spec, out, skip_invalid=True)
    said = capsys.readouterr().err
    assert case.values["method"] == "esd" and said.count("\n") == 1 and "'method': 'ca'" in said
    with pytest.raises(EraseError, match="no run of the grid"):
        sweep(book, {"grid": {"method": ["ca"]}}, out, skip_invalid=True)
    with pytest.raises(EraseError, match="methd"):  # a slip of the pen is none of these
        plan(book, {"grid": {"methd": ["esd"]}}, out, skip_invalid=True)


def test_the_help_has_an_example_of_each(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out.partition("examples:")[2]
    for word in ("-p seed=0,1,2", "dog+cat", '"C++"', "--workers 2", "--only-failed"):
        assert word in said


def test_a_run_lies_at_the_root_of_the_checkout(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    assert run.start("course", "runs/x").resolve() == tmp_path / "notebooks" / "runs" / "x"
    (tmp_path / "pyproject.toml").touch()  # now it is one
    assert run.start("course", "runs/x") == tmp_path / "runs" / "x"
    assert not run.start("course", "mine/x").is_absolute()
