"""Pictures that these tests draw are cached beside the test, not in the workbook's cache."""

from __future__ import annotations

from functools import partial

import pytest

from erase_lib import measure


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "draw", partial(measure.draw, folder=tmp_path / "cache"))
