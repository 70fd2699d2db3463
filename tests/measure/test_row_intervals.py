"""Intervals of each row's mean: they cover the truth, and are each row's own."""

from __future__ import annotations

import numpy as np
import pytest

from erase_lib.measure import row_intervals


def coverage(draw, mean, n):
    low, high = row_intervals(draw(size=(2000, n)))
    return ((low <= mean) & (mean <= high)).mean()


@pytest.mark.parametrize(
    ("n", "normal", "skewed"), [(8, (0.90, 0.99), (0.85, 0.97)), (4, (0.92, 0.99), (0.82, 0.97))]
)
def test_intervals_cover_the_true_mean(n, normal, skewed):
    rng = np.random.default_rng(0)
    assert normal[0] <= coverage(rng.normal, 0, n) <= normal[1]
    assert skewed[0] <= coverage(rng.exponential, 1, n) <= skewed[1]


def test_a_rows_interval_is_repeatable_and_moves_with_its_values():
    values = np.random.default_rng(0).normal(size=(3, 6))
    low, high = row_intervals(values)
    again = row_intervals(values[1:2])  # a row's interval is its own, whatever stands beside it
    assert (again[0] == low[1]).all() and (again[1] == high[1]).all()
    shifted = row_intervals(2 * values + 5)
    np.testing.assert_allclose(shifted, (2 * low + 5, 2 * high + 5))
    assert (low < values.mean(1)).all() and (values.mean(1) < high).all()
    assert np.isnan(row_intervals(values[:, :1])).all()
