"""Intervals and tests for accuracies, one model alone and two models paired by problem.

Pure functions of counts and arrays; nothing of models or files. Sources:

- Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927): the score interval of a proportion.
- Kish, "Survey Sampling" (1965): the design effect. Several samples of one problem are a cluster; the score interval is taken at
  the effective sample size, so that it stays inside [0, 1] and is not empty when everything is right.
- McNemar (Psychometrika 1947), in its exact binomial form: two-sided test of two paired proportions.
- Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design" (Statistics in
  Medicine 1998): the score interval of that difference.
- Efron's percentile bootstrap over problems, and a sign-flip permutation test, where problems have several samples each.
- Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data" (Journal of
  Educational and Behavioral Statistics 2012): one pair more for each side before the variance is taken. The bootstrap draws from the
  problems and those two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    estimate: float
    low: float
    high: float


def wilson(correct: float, n: float) -> Interval:
    """A proportion `correct`/`n` and its score interval. n may be an effective (fractional) size; (nan, 0, 1) when n is 0."""
    if n <= 0:
        return Interval(math.nan, 0.0, 1.0)
    p = correct / n
    shrink = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / shrink
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n)) / shrink
    return Interval(p, max(0.0, centre - half) if p > 0 else 0.0, min(1.0, centre + half) if p < 1 else 1.0)


def accuracy(outcomes: Sequence[Sequence[bool]]) -> Interval:
    """Accuracy over problems, each with its samples' outcomes; every problem weighs the same. Problems without outcomes are left out.

    One sample a problem: Wilson. Several: Wilson at n_effective = p(1-p)/Var, where Var is the variance of the mean of the
    problems' own accuracies, kept between the number of problems and the number of samples.
    """
    means = np.array([sum(problem) / len(problem) for problem in outcomes if problem], dtype=np.float64)
    problems, samples = len(means), sum(len(problem) for problem in outcomes)
    if problems == 0:
        return wilson(0, 0)
    p = float(means.mean())
    if samples == problems:
        return wilson(p * problems, problems)
    variance = float(means.var(ddof=1)) / problems if problems > 1 else math.inf
    spread = p * (1 - p)
    effective = spread / variance if variance > 0 else spread * math.inf if spread > 0 else 0.0
    effective = min(max(effective, problems), samples)
    return wilson(p * effective, effective)


def mcnemar(broken: int, fixed: int) -> float:
    """Two-sided exact p-value that `broken` (right before, wrong after) and `fixed` (the other way) are equally likely.

    1.0 when nothing changed.
    """
    changed = broken + fixed
    if changed == 0:
        return 1.0
    tail = ways = 1
    for k in range(min(broken, fixed)):
        ways = ways * (changed - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << changed))


def paired_difference(broken: int, fixed: int, n: int) -> Interval:
    """(fixed - broken)/n over n pairs and its score interval (Tango 1998)."""
    if n == 0:
        return Interval(math.nan, -1.0, 1.0)
    difference = (fixed - broken) / n

    def score(delta: float) -> float:
        a = 2 * n
        b = -fixed - broken + (2 * n - fixed + broken) * delta
        c = -broken * delta * (1 - delta)
        q = max(0.0, (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a))
        variance = n * (2 * q + delta * (1 - delta))
        gap = fixed - broken - n * delta
        return (
            math.inf * gap
            if variance <= 0 and gap != 0
            else gap / math.sqrt(variance)
            if variance > 0
            else 0.0
        )

    low = _bisect(lambda delta: score(delta) - Z95, -1.0, difference)
    high = _bisect(lambda delta: score(delta) + Z95, difference, 1.0)
    return Interval(difference, low, high)


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero in [low, high]; an end when it does not."""
    low, high = low + 1e-12, high - 1e-12
    if function(low) <= 0:
        return max(-1.0, low - 1e-12)
    if function(high) >= 0:
        return min(1.0, high + 1e-12)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def bootstrap_difference(difference_P: Sequence[float], *, seed: int, resamples: int = 10_000) -> Interval:
    """The mean of the problems' differences and its percentile bootstrap interval, problems drawn with replacement.

    The draws are from the problems and two more, one that only A solves and one that only B solves. Without them equal differences
    have an interval of no width, and few or rare ones one that misses the truth far too often.

    difference_P: accuracy of B minus accuracy of A on each of P problems.
    """
    values_P = np.asarray(difference_P, dtype=np.float64)
    if len(values_P) == 0:
        return Interval(math.nan, -1.0, 1.0)
    drawn_from = np.concatenate([values_P, [-1.0, 1.0]])
    means = np.concatenate(
        [block_RP.mean(axis=1) for block_RP in _blocks(drawn_from, seed, resamples, _resample)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values_P.mean()), float(low), float(high))


def sign_flip_test(difference_P: Sequence[float], *, seed: int, resamples: int = 10_000) -> float:
    """Two-sided p-value that the problems' differences are as likely negative as positive (permutation of signs)."""
    values_P = np.asarray(difference_P, dtype=np.float64)
    values_P = values_P[values_P != 0]
    if len(values_P) == 0:
        return 1.0
    observed = abs(values_P.sum()) - 1e-9
    blocks = _blocks(values_P, seed, resamples, _flip)
    hits = sum(int((np.abs(block_RP.sum(axis=1)) >= observed).sum()) for block_RP in blocks)
    return (hits + 1) / (resamples + 1)


Floats = npt.NDArray[np.float64]
Draw = Callable[[Floats, int, np.random.Generator], Floats]


def _blocks(values_P: Floats, seed: int, resamples: int, draw: Draw) -> Iterator[Floats]:
    """`resamples` draws of `values_P` in blocks of about a million numbers, so that memory stays small."""
    generator = np.random.default_rng(seed)
    rows = max(1, min(resamples, 1_000_000 // len(values_P)))
    for start in range(0, resamples, rows):
        yield draw(values_P, min(rows, resamples - start), generator)


def _resample(values_P: Floats, rows: int, generator: np.random.Generator) -> Floats:
    return values_P[generator.integers(0, len(values_P), size=(rows, len(values_P)))]


def _flip(values_P: Floats, rows: int, generator: np.random.Generator) -> Floats:
    return values_P * np.where(generator.random((rows, len(values_P))) < 0.5, -1.0, 1.0)
