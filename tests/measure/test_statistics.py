"""The jackknife: against the standard error of a mean, and what keeps groups together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from erase_lib.errors import EraseError
from erase_lib.measure.statistics import jackknife

VALUES = np.array([3.0, -1.0, 4.0, 1.0, 5.0, 9.0, -2.0, 6.0, 5.0, 3.0])


def mean_of(values):
    return lambda rows: float(values[rows].mean())


def test_of_a_mean_it_is_students_interval():
    # by hand: mean 3.3, s² = 98.1 / 9, t of 9 degrees of freedom 2.262
    value, low, high = jackknife(mean_of(VALUES), 10, np.arange(10))
    assert value == pytest.approx(3.3)
    half = 2.2621571628 * np.sqrt(98.1 / 9 / 10)
    assert (low, high) == pytest.approx((3.3 - half, 3.3 + half))
    rng = np.random.default_rng(0)
    for n in (2, 3, 20):
        values = rng.normal(size=n)
        expected = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
        assert jackknife(mean_of(values), n, np.arange(n))[1:] == pytest.approx(expected)


def test_of_groups_of_one_size_it_is_students_interval_of_their_means():
    values, groups = np.random.default_rng(1).normal(size=(6, 4)), np.repeat(list("abcdef"), 4)
    expected = stats.t.interval(0.95, 5, values.mean(), stats.sem(values.mean(1)))
    assert jackknife(mean_of(values.ravel()), 24, groups)[1:] == pytest.approx(expected)


def test_folds_of_several_groups_by_hand():
    values = np.random.default_rng(2).normal(size=60)

    def spread(rows):  # not linear, so the parts' mean is not the whole's value
        return float(values[rows].std())

    value, low, high = jackknife(spread, 60, np.arange(60), folds=7)
    parts = np.array([spread(rows) for rows in asked(60, np.arange(60), folds=7)[1:]])
    error = np.sqrt(6 / 7 * sum((part - parts.mean()) ** 2 for part in parts))
    assert value == values.std() and high - value == pytest.approx(value - low)
    assert high - value == pytest.approx(2.4469118511 * error)  # t of 6 degrees of freedom


def asked(n, groups, **options):
    """The rows that it asks the estimate of."""
    seen = []

    def estimate(rows):
        seen.append(rows)
        return float(len(seen))

    jackknife(estimate, n, groups, **options)
    return seen


@pytest.mark.parametrize("folds", [2, 7, 20, 99])
def test_groups_stay_together_and_each_is_left_out_once(folds):
    groups = np.random.default_rng(3).permutation(np.repeat(np.arange(30), 3))
    seen = asked(90, groups, folds=folds)
    assert np.array_equal(seen[0], np.arange(90)) and len(seen) == 1 + min(folds, 30)
    out = [np.setdiff1d(np.arange(90), rows) for rows in seen[1:]]
    assert sorted(np.concatenate(out)) == list(range(90))
    for left, kept in zip(out, seen[1:], strict=True):
        assert not set(groups[left]) & set(groups[kept])
        assert len(left) / 3 in (30 // len(out), -(-30 // len(out)))  # as even as can be


def test_an_interval_of_groups_holds_the_true_mean_as_often_as_it_says():
    rng, hits, alone = np.random.default_rng(4), 0, 0
    for _ in range(300):  # pictures of a prompt resemble each other
        values = (rng.normal(size=(40, 1)) + 0.3 * rng.normal(size=(40, 5))).ravel()
        _, low, high = jackknife(mean_of(values), 200, np.repeat(np.arange(40), 5))
        hits += low <= 0 <= high
        _, low, high = jackknife(mean_of(values), 200, np.arange(200))
        alone += low <= 0 <= high
    assert 0.91 <= hits / 300 <= 0.985 and alone / 300 < 0.75


def test_a_constant_has_an_interval_without_width():
    assert jackknife(lambda rows: 2.5, 8, list("aabbccdd")) == (2.5, 2.5, 2.5)


def test_the_order_of_rows_only_chooses_the_folds():
    groups = np.repeat(np.arange(10), 2)
    values = np.random.default_rng(5).normal(size=20)
    order = np.random.default_rng(6).permutation(20)
    given = jackknife(mean_of(values), 20, groups)
    for seed in (0, 1):  # a fold for each group: nothing is left to chance
        found = jackknife(mean_of(values[order]), 20, groups[order], seed=seed)
        assert found == pytest.approx(given)
    few = jackknife(mean_of(values), 20, groups, folds=3)
    assert few == jackknife(mean_of(values), 20, groups, folds=3)
    names = np.array([f"a prompt {i}" for i in groups])
    assert few == jackknife(mean_of(values), 20, names, folds=3)
    other = jackknife(mean_of(values), 20, groups, folds=3, seed=1)
    assert other[0] == few[0] and other[2] != few[2]


@pytest.mark.parametrize(
    ("n", "groups"),
    [(3, ["a", "a", "a"]), (1, ["a"]), (0, []), (3, ["a", "b"]), (2, ["a", "b", "c"])],
)
def test_too_few_groups_or_a_wrong_number_of_them(n, groups):
    with pytest.raises(EraseError) as error:
        jackknife(lambda rows: 0.0, n, groups)
    assert f"of {n} pictures" in str(error.value) and "\n" not in str(error.value)
