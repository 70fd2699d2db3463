"""What a notebook's solution leaves, and what a check says of it and of mistakes."""

import numpy as np
import pandas as pd
import pytest

from course.exercise import NOT_YET, RIGHT, WRONG
from course.plan import NOTEBOOKS, notebook, tagged
from erase_lib import measure, study


@pytest.fixture
def solved():
    """Runs the solution of an exercise in a made-up notebook; all names that it leaves."""

    def run(number, exercise, **given):
        (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
        cells = [cell for cell in notebook(path.stem).cells if tagged(cell, "solution")]
        given |= {"np": np, "pd": pd, "measure": measure, "study": study}
        exec(cells[exercise - 1].source, given)
        return given

    return run


@pytest.fixture
def told(capsys):
    """Asserts what a check says of no answer, the solution and each (mistake, word of its hint)."""

    def asserted(check, empty, solution, wrong, *context):
        mistakes = [(answer, WRONG, word) for answer, word in wrong]
        capsys.readouterr()  # what a solution has printed
        for answer, begins, word in [(empty, NOT_YET, ""), *mistakes, (solution, RIGHT, "")]:
            check(answer, *context)
            said = capsys.readouterr().out
            assert said.startswith(begins) and word in said and said.count("\n") == 1, said

    return asserted
