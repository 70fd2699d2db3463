"""Pictures that these tests draw are cached beside the test, not in the workbook's cache."""

from __future__ import annotations

import importlib
from functools import partial

import pytest

from erase_lib.measure import draw


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    module = importlib.import_module("erase_lib.study.sensitivity")
    monkeypatch.setattr(module, "draw", partial(draw, folder=tmp_path / "cache"))
