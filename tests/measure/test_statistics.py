"""Intervals and tests against formulas, known truths and hand calculations; tables of runs."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from erase_lib.measure import (
    bootstrap,
    delta_summary,
    flipped,
    holm,
    long,
    matched_differences,
    means,
    worst,
)
from erase_lib.measure.statistics import jackknife, row_intervals

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
    # of groups of one size it is that of their means
    values, groups = rng.normal(size=(6, 4)), np.repeat(list("abcdef"), 4)
    expected = stats.t.interval(0.95, 5, values.mean(), stats.sem(values.mean(1)))
    assert jackknife(mean_of(values.ravel()), 24, groups)[1:] == pytest.approx(expected)
    assert jackknife(lambda rows: 2.5, 8, list("aabbccdd")) == (2.5, 2.5, 2.5)


def test_folds_of_several_groups_by_hand():
    values = np.random.default_rng(2).normal(size=60)

    def spread(rows):  # not linear, so the parts' mean is not the whole's value
        return float(values[rows].std())

    value, *ends = jackknife(spread, 60, np.arange(60), folds=7)
    parts = np.array([spread(rows) for rows in asked(60, np.arange(60), folds=7)[1:]])
    wide = 2.4469118511 * np.sqrt(6 / 7 * sum((parts - parts.mean()) ** 2))  # t of 6 degrees
    assert value == values.std() and ends == pytest.approx([value - wide, value + wide])


def asked(n, groups, **options):
    """The rows that it asks the estimate of."""
    seen = []
    jackknife(lambda rows: seen.append(rows) or 0.0, n, groups, **options)
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


def test_the_order_of_rows_only_chooses_the_folds():
    values, groups = np.random.default_rng(5).normal(size=20), np.repeat(np.arange(10), 2)
    order = np.random.default_rng(6).permutation(20)
    given = jackknife(mean_of(values), 20, groups)
    for seed in (0, 1):  # a fold for each group: nothing is left to chance
        found = jackknife(mean_of(values[order]), 20, groups[order], seed=seed)
        assert found == pytest.approx(given)
    few = jackknife(mean_of(values), 20, groups, folds=3)
    for same in (groups, [f"a prompt {i}" for i in groups]):
        assert few == jackknife(mean_of(values), 20, same, folds=3)
    other = jackknife(mean_of(values), 20, groups, folds=3, seed=1)
    assert other[0] == few[0] and other[2] != few[2]


def test_too_few_groups_or_a_wrong_number_of_them(refused):
    for n, groups in ((3, "aaa"), (1, "a"), (0, ""), (3, "ab"), (2, "abc")):
        refused(jackknife, lambda rows: 0.0, n, list(groups), says=[f"of {n} pictures"])


def test_bootstrap_covers_the_true_share(refused):
    rng, inside = np.random.default_rng(0), 0
    for trial in range(200):
        low, high = bootstrap(rng.random(100) < 0.6, n=400, seed=trial)
        inside += low <= 0.6 <= high
    assert 0.89 <= inside / 200 <= 0.99
    assert bootstrap(np.arange(10.0), seed=4) == bootstrap(np.arange(10.0), seed=4)
    assert bootstrap(np.ones(5)) == (1.0, 1.0)
    refused(bootstrap, np.array([]), says="values")
    for n in (0, 4, 6):
        refused(bootstrap, np.ones(5), ["a"] * n, says=f"{n} groups of 5 values")


@pytest.mark.parametrize(
    "call", [bootstrap, flipped, lambda v, seed: row_intervals(v[None], 9, seed)]
)
def test_a_seed_is_never_below_zero(refused, call):
    refused(call, np.arange(4.0), seed=-1, says="seed is -1")
    refused(jackknife, mean_of(VALUES), 10, np.arange(10), seed=-1, says="seed is -1")


def test_bootstrap_draws_whole_prompts():
    values = np.repeat(np.arange(20) % 2, 10)  # ten pictures of a prompt always agree
    low, high = bootstrap(values, np.repeat(np.arange(20), 10))
    narrow_low, narrow_high = bootstrap(values)
    assert high - low > 2 * (narrow_high - narrow_low)
    # twenty prompts: the interval of 20 coins, whose deviation is .5 / √20
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(20), rel=0.15)


@pytest.mark.parametrize(
    ("n", "normal", "skewed"), [(8, (0.90, 0.99), (0.85, 0.97)), (4, (0.92, 0.99), (0.82, 0.97))]
)
def test_intervals_cover_the_true_mean(n, normal, skewed):
    rng = np.random.default_rng(0)
    for draw, mean, bounds in ((rng.normal, 0, normal), (rng.exponential, 1, skewed)):
        low, high = row_intervals(draw(size=(2000, n)))
        assert bounds[0] <= ((low <= mean) & (mean <= high)).mean() <= bounds[1]


def test_an_interval_is_repeatable_and_moves_with_its_values():
    values = np.random.default_rng(0).normal(size=(3, 6))
    low, high = row_intervals(values)
    # a row's interval is its own, whatever stands beside it
    np.testing.assert_array_equal(row_intervals(values[1:2]), (low[1:2], high[1:2]))
    shifted = row_intervals(2 * values + 5)
    np.testing.assert_allclose(shifted, (2 * low + 5, 2 * high + 5))
    assert (low < values.mean(1)).all() and (values.mean(1) < high).all()
    assert np.isnan(row_intervals(values[:, :1])).all()


def test_p_is_that_of_all_flips_and_holm_by_hand():
    gaps = np.array([0.3, 0.1, -0.2, 0.4, 0.0, 0.25, -0.05, 0.3])
    sums = [abs(np.dot(signs, gaps)) for signs in itertools.product([-1, 1], repeat=8)]
    exact = np.mean(np.array(sums) >= gaps.sum() - 1e-9)
    assert flipped(gaps, 20_000) == pytest.approx(exact, abs=0.01)
    assert flipped(np.full(12, 0.2)) < 0.003 and flipped(np.zeros(5)) == 1
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1] and holm([]) == []


def runs_table():
    """Two targets, two seeds, two methods; eap is better by .1, .2, .3, .4."""
    rows = [
        {"targets": t, "seed": s, "method": m, "metric": "PSR-1", "value": 0.1 * i + better}
        for i, (t, s) in enumerate([("church", 0), ("church", 1), ("dog", 0), ("dog", 1)])
        for m, better in (("esd", 0.0), ("eap", 0.1 * (i + 1)))
    ]
    return pd.DataFrame(rows)


def test_means_of_runs_by_hand():
    found = means(runs_table(), ["metric", "method"]).set_index("method")
    # two targets, of mean .05 and .25: their standard error is .1, t of one degree 12.706
    expected = pytest.approx([0.15, 0.15 - 1.2706205, 0.15 + 1.2706205])
    assert found.loc["esd", ["value", "low", "high"]].tolist() == expected
    assert found.loc["eap", "runs"] == 4 and found.loc["eap", "groups"] == 2


def test_t_holds_the_true_mean_of_few_targets_where_a_bootstrap_does_not():
    rng, share = np.random.default_rng(8), {}
    for n in (5, 10, 24):
        values = rng.normal(size=(600, n))
        table = pd.DataFrame({"run": np.repeat(np.arange(600), n), "value": values.ravel()})
        found = means(table.assign(targets=np.tile(np.arange(n), 600)), ["run"])
        ends = np.array([bootstrap(row, n=300) for row in values[:200]])
        share[n] = ((found["low"] <= 0) & (0 <= found["high"])).mean()
        share[-n] = ((ends[:, 0] <= 0) & (0 <= ends[:, 1])).mean()
    assert all(0.92 < share[n] < 0.98 for n in (5, 10, 24))
    assert share[-5] < 0.88 and share[-10] < 0.93 and share[-24] < share[24]


def test_the_worst_of_a_few_are_three_and_of_many_a_twentieth(refused):
    assert worst([0.1, 0.5, -0.2, 0.3, 0.0]) == pytest.approx(0.3)
    assert worst(list(range(200))) == pytest.approx(194.5)  # ten of them
    assert worst([0.25]) == 0.25
    refused(worst, [], says="values 0")


def test_delta_is_summed_up_by_group_and_by_concept():
    rows = [("church", "target", 0.9), ("house", "near", 0.4), ("house", "near", 0.2)]
    rows += [
        (name, "far", delta) for name, delta in zip("abcd", (0.0, 0.1, 0.2, -0.1), strict=True)
    ]
    prompts = pd.DataFrame(rows, columns=["concept", "group", "delta"])
    found = delta_summary(prompts, prompts["delta"])
    expected = {"delta target": 0.9, "delta near": 0.3, "delta far": 0.05, "delta mean": 0.1}
    assert found == pytest.approx(expected | {"delta worst": 0.2})


def test_matched_differences_are_of_runs_that_differ_in_nothing_else(refused):
    (row,) = matched_differences(runs_table(), "method", "esd").to_dict("records")
    assert row["method"] == "eap" and row["runs"] == 4
    assert [row["value"], row["low"], row["high"]] == pytest.approx(
        [0.25, 0.25 - 1.2706205, 0.25 + 1.2706205]
    )
    by_truth = runs_table().assign(hard=lambda runs: (runs["method"] == "esd").astype(object))
    # True and False are names here
    (again,) = matched_differences(by_truth, "hard", True).to_dict("records")
    assert again | {"method": "eap"} == row | {"hard": False}
    lost = runs_table().drop(index=1)  # eap on (church, 0) failed: its esd has no match
    assert matched_differences(lost, "method", "esd")["value"].tolist() == pytest.approx([0.3])
    refused(matched_differences, runs_table(), "method", "uce", says="'uce' 'esd'")
    refused(matched_differences, runs_table().iloc[[0, 3]], "method", "esd", says="'eap' match")


def test_a_table_of_runs_becomes_long():
    table = pd.DataFrame({"id": ["a", "b"], "status": ["done", "failed"]})
    for end, value in (("", 0.5), (" low", 0), (" high", 1), (" n", 8)):
        table[f"ESR-1 erased{end}"] = [value, None]
    (row,) = long(table).to_dict("records")
    expected = {"id": "a", "status": "done", "metric": "ESR-1", "model": "erased"}
    assert row == expected | {"value": 0.5, "low": 0, "high": 1, "n": 8}
