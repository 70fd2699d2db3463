"""The settings that a plan takes for idle change no tensor of an erasure, and others do."""

from dataclasses import replace

import pytest
import torch

from erase_lib import EraseConfig, erase
from erase_lib.config import CLOSED_FORMS
from erase_lib.sweep.overview import idle

OTHER = {"schedule": "published", "search": "nearest", "preserve_at": "own", "train_method": "kv"}
OTHER |= {"thinning": "distance", "hard": False, "anneal": False, "gradient_checkpointing": True}
OTHER |= {"vocabulary": "english", "nearest": 9, "candidates": 5, "loss": "output"}
CASES = [("esd", "random"), ("esd_neutral", "random"), ("ca", "random"), ("eap", "random")]
CASES += [("eap", "gumbel"), ("eap", "soft"), ("eap", "pgd"), ("eap", "fixed"), ("age", "gumbel")]
CASES += [(method, "random") for method in CLOSED_FORMS]


@pytest.mark.parametrize(("method", "search"), CASES)
def test_what_is_idle_changes_nothing(tiny, method, search):
    given = {"anchors": ["house"]} if method == "ca" else {}
    given |= {"preserved": ["dog"]} if search == "fixed" else {}
    config = EraseConfig.from_profile(
        "smoke", targets=["church"], method=method, search=search, steps=2, **given
    )
    still = idle(config) - {"lam_kv", "erase_from", "minimax", "project"}  # refused there
    changed = {k: OTHER[k] if k in OTHER else getattr(config, k) + 1 for k in still}
    both = [erase(tiny, c, callbacks=[]).tensors for c in (config, replace(config, **changed))]
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0]), sorted(still)
    if "lam" not in still:
        other = erase(tiny, replace(config, lam=config.lam * 9), callbacks=[]).tensors
        assert not all(torch.equal(both[0][name], other[name]) for name in both[0])
