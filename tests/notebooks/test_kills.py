"""A sweep that is killed, by tests/kills.py."""

import kills
import pytest


@pytest.mark.slow
def test_a_sweep_killed_ends_as_if_it_had_not_been():
    kills.main(1, each=1, seed=1)
