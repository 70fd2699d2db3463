"""The ranks of what a search chose, against an order known by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from erase_lib import EraseConfig, erase
from erase_lib.study.audit import Audit


def smoke(**values):
    given = {"targets": ["church"], "steps": 4, "nearest": 6, "candidates": 6, "lr": 1e-2} | values
    return EraseConfig.from_profile("smoke", **given).settled(True)


@pytest.fixture
def measured(tiny):
    """An audit that has seen six candidates: the later, the more moved."""
    audit = Audit(tiny, smoke(steps=20), [0, 20])
    order = torch.arange(6.0)
    audit.probe = lambda student: order
    for step in range(21):
        audit(SimpleNamespace(history=[{}] * step, student={}))
    return audit


def test_the_order_of_the_movements(measured):
    table = measured.movements()
    assert list(table["step"].unique()) == [0, 20] and len(table) == 12
    assert list(table["rank"][:6]) == [5, 4, 3, 2, 1, 0]
    assert list(table["percentile"][:6]) == pytest.approx([0, 20, 40, 60, 80, 100])


def test_ranks_of_what_was_chosen(measured):
    w = measured.words
    # at first the least moved, in the end half the most moved and half the least but one
    chosen = [f"{w[0]}|{w[0]}"] * 10 + [f"{w[5]}|{w[1]}"] * 10
    ranks = measured.ranks(pd.DataFrame({"step": range(20), "target": "church", "chosen": chosen}))
    first, last = ranks.to_dict("records")
    assert first == {"step": 0, "top1": 0, "top5": 0, "percentile": 0, "n": 20}
    assert last == {"step": 20, "top1": 0.5, "top5": 1, "percentile": 60, "n": 20}


def test_an_exhaustive_search_preserves_what_is_moved_most(tiny):
    ranks = {}
    for search in ("exhaustive", "random"):
        config = smoke(search=search, steps=13, preserve_batch=1)
        audit = Audit(tiny, config, [10])
        erasure = erase(tiny, config, [audit])
        ranks[search] = audit.ranks(pd.DataFrame(erasure.history)[10:], window=3)
    # measured on other latents: near the top, not always the very first
    assert ranks["exhaustive"]["percentile"][0] >= 80 > ranks["random"]["percentile"][0]


def test_an_audit_changes_nothing_and_sees_the_student_at_its_moments(tiny):
    config = smoke(search="random")
    audit = Audit(tiny, config, [0, 4])
    plain, audited = (erase(tiny, config, callbacks) for callbacks in ([], [audit]))
    assert plain.history == audited.history
    assert all(torch.equal(t, plain.tensors[name]) for name, t in audited.tensors.items())
    moved = audit.movements().groupby("step")["moved"].max()
    assert moved.index.tolist() == [0, 4] and moved[0] == 0 < moved[4] and audit.seconds > 0
