"""A sweep that is killed: a file of its own, for whole files go to the workers of a test run."""

import kills
import pytest


@pytest.mark.slow
def test_a_sweep_killed_twice_ends_as_if_it_had_not_been():
    kills.main(2, each=2, seed=1)
