"""An atlas of δ whose parts are known."""

from __future__ import annotations

import numpy as np

from erase_lib.study import Delta

TARGETS, CONCEPTS = 30, 60


def simulated(erased=1.0, harmed=1.0, pair=1.0, noise=1.0, seed=0, targets=TARGETS):
    """A table of known parts: standard deviations of what is erased, who is harmed, the pair, and
    of one picture; the targets are the first concepts."""
    rng = np.random.default_rng(seed)
    values = (
        5
        + erased * rng.normal(size=(targets, 1, 1))
        + harmed * rng.normal(size=(1, CONCEPTS, 1))
        + pair * rng.normal(size=(targets, CONCEPTS, 1))
        + noise * rng.normal(size=(targets, CONCEPTS, 2))
    )
    values[np.arange(targets), np.arange(targets)] = np.nan
    names = [f"c{i}" for i in range(CONCEPTS)]
    return Delta(values, names[:targets], names)
