"""Which runs of a grid answer which question."""

from __future__ import annotations

import pandas as pd
import pytest

from erase_lib import EraseError
from erase_lib.sweep.ablate import question

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
    with pytest.raises(EraseError, match="no two runs differ in hard alone"):
        question(RUNS, "hard", SETTINGS, {}, DEFAULTS)
