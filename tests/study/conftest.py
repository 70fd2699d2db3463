"""Pictures that these tests draw are cached beside the test, not in the workbook's cache."""

from __future__ import annotations

import importlib
from functools import partial

import pytest

from erase_lib.measure import draw


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    for name in ("sensitivity", "predict"):
        module = importlib.import_module(f"erase_lib.study.{name}")
        monkeypatch.setattr(module, "draw", partial(draw, folder=tmp_path / "cache"))
