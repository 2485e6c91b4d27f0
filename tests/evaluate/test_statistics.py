"""Intervals and tests against published values, exact enumeration and simulated coverage."""

import math
import random

import numpy as np
import pytest

from bethink.evaluate.statistics import (
    accuracy,
    bootstrap_difference,
    mcnemar,
    paired_difference,
    sign_flip_test,
    wilson,
)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [  # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(correct, n, low, high):
    interval = wilson(correct, n)
    assert interval.estimate == correct / n
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_nothing_counted_means_nothing_known():
    interval = accuracy([])
    assert math.isnan(interval.estimate)
    assert (interval.low, interval.high) == (0.0, 1.0)


@pytest.mark.parametrize(("broken", "fixed"), [(0, 0), (1, 9), (9, 1), (5, 5), (0, 1), (12, 30), (700, 900)])
def test_mcnemar_is_the_binomial_test(broken, fixed):
    n = broken + fixed
    exact = [math.comb(n, k) / (1 << n) for k in range(n + 1)]
    expected = sum(p for k, p in enumerate(exact) if abs(2 * k - n) >= abs(broken - fixed))
    assert mcnemar(broken, fixed) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(broken, fixed) == mcnemar(fixed, broken)


def test_mcnemar_survives_large_counts():
    assert mcnemar(4900, 5100) == pytest.approx(0.0466, abs=1e-3)
    assert mcnemar(0, 5000) < 1e-300


@pytest.mark.parametrize(
    ("broken", "fixed", "n"), [(2, 12, 50), (0, 7, 100), (30, 28, 200), (0, 0, 60), (1, 1, 2)]
)
def test_the_paired_interval_holds_the_estimate_and_mirrors(broken, fixed, n):
    interval = paired_difference(broken, fixed, n)
    assert interval.estimate == (fixed - broken) / n
    assert -1 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.high - interval.low > 0
    mirrored = paired_difference(fixed, broken, n)
    assert mirrored.low == pytest.approx(-interval.high, abs=1e-9)
    assert mirrored.high == pytest.approx(-interval.low, abs=1e-9)


@pytest.mark.parametrize(("fixed", "broken", "edge"), [(50, 0, 1.0), (0, 50, -1.0)])
def test_the_paired_interval_ends_at_certainty(fixed, broken, edge):
    interval = paired_difference(broken, fixed, 50)
    assert interval.estimate == edge
    assert edge in (interval.low, interval.high)


@pytest.mark.parametrize(("n", "p"), [(200, 0.03), (200, 0.5), (100, 0.9)])
def test_wilson_covers_the_truth(n, p):
    rng = np.random.default_rng()
    covered = sum(
        i.low <= p <= i.high for i in (accuracy([[x] for x in rng.random(n) < p]) for _ in range(600))
    )
    assert 0.91 <= covered / 600 <= 0.995


@pytest.mark.parametrize(("problems", "k", "a", "b"), [(200, 8, 0.5, 0.5), (100, 4, 2, 1), (200, 4, 50, 50)])
def test_the_clustered_interval_covers_the_truth_and_the_naive_one_does_not(problems, k, a, b):
    rng = np.random.default_rng()
    truth, covered, naive, runs = a / (a + b), 0, 0, 400
    for _ in range(runs):
        outcomes = rng.random((problems, k)) < rng.beta(a, b, (problems, 1))
        interval = accuracy(outcomes.tolist())
        flat = wilson(float(outcomes.sum()), problems * k)
        covered += interval.low <= truth <= interval.high
        naive += flat.low <= truth <= flat.high
    assert 0.9 <= covered / runs <= 0.995
    if a < 1:
        assert naive / runs < 0.85, "problems differ, so samples of one problem are not independent"


def test_identical_samples_are_worth_one():
    rng = random.Random()
    single = [[rng.random() < 0.4] for _ in range(150)]
    assert accuracy([outcome * 8 for outcome in single]) == pytest.approx(accuracy(single), abs=2e-3)


def test_all_right_is_not_certainty():
    interval = accuracy([[True] * 16] * 50)
    assert interval.high == 1.0
    assert interval.low == pytest.approx(wilson(50, 50).low)


@pytest.mark.parametrize(("n", "broken", "fixed"), [(200, 0.05, 0.4), (100, 0.1, 0.12), (200, 0.3, 0.3)])
def test_the_paired_interval_covers_the_truth(n, broken, fixed):
    rng = np.random.default_rng()
    covered, runs = 0, 500
    for c, b, _ in rng.multinomial(n, [broken, fixed, 1 - broken - fixed], size=runs):
        interval = paired_difference(int(c), int(b), n)
        covered += interval.low <= fixed - broken <= interval.high
    assert 0.9 <= covered / runs <= 0.99


def test_the_bootstrap_covers_the_truth():
    rng = np.random.default_rng()
    covered, runs = 0, 300
    for _ in range(runs):
        level = rng.uniform(0, 0.8, 120)
        difference = (rng.binomial(4, level + 0.15) - rng.binomial(4, level)) / 4
        interval = bootstrap_difference(difference, seed=int(rng.integers(2**31)), resamples=1000)
        covered += interval.low <= 0.15 <= interval.high
    assert 0.9 <= covered / runs <= 0.99


@pytest.mark.parametrize(
    ("problems", "k", "before", "after"),
    [(5, 2, 0.02, 0.05), (10, 2, 0.02, 0.05), (5, 4, 0.02, 0.98), (10, 4, 0.02, 0.98), (10, 4, 0.4, 0.6)],
)
def test_the_bootstrap_covers_the_truth_of_few_problems_and_rare_differences(problems, k, before, after):
    rng = np.random.default_rng()
    covered, runs = 0, 300
    for _ in range(runs):
        difference = (rng.binomial(k, after, problems) - rng.binomial(k, before, problems)) / k
        interval = bootstrap_difference(difference, seed=int(rng.integers(2**31)), resamples=500)
        covered += interval.low <= after - before <= interval.high
    assert covered / runs >= 0.86


@pytest.mark.parametrize(("value", "n"), [(1.0, 5), (0.25, 60), (0.0, 8), (-1.0, 20), (-0.5, 1)])
def test_equal_differences_are_not_certainty(value, n):
    interval = bootstrap_difference([value] * n, seed=3)
    assert interval.estimate == value
    assert -1 <= interval.low <= value <= interval.high <= 1
    assert interval.high - interval.low > 1 / (n + 2)


def test_bootstrap_and_sign_flips_repeat_with_their_seed():
    values = [0.25, -0.5, 0.0, 0.75, 0.25, 0.5] * 10
    assert bootstrap_difference(values, seed=3) == bootstrap_difference(values, seed=3)
    assert sign_flip_test(values, seed=3) == sign_flip_test(values, seed=3)


def test_sign_flips_agree_with_mcnemar_where_both_apply():
    values = [1.0] * 14 + [-1.0] * 4 + [0.0] * 80
    assert sign_flip_test(values, seed=1, resamples=20_000) == pytest.approx(mcnemar(4, 14), abs=0.01)
    assert sign_flip_test([0.0] * 9, seed=1) == 1.0


def test_sign_flips_are_uniform_where_nothing_differs():
    rng = np.random.default_rng()
    p_values = []
    for _ in range(300):
        level = rng.uniform(0, 1, 60)
        difference = (rng.binomial(4, level) - rng.binomial(4, level)) / 4
        p_values.append(sign_flip_test(difference, seed=int(rng.integers(2**31)), resamples=500))
    assert 0.008 <= np.mean(np.array(p_values) < 0.05) <= 0.105
