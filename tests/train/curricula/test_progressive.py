"""From easy to hard, by pass rates measured before."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from statistics import fmean

import pytest

from bethink.core.errors import ConfigError
from bethink.train.curricula.progressive import Progressive, shares


def _rates(rng: random.Random, count: int, samples: int = 16) -> list[float]:
    return [rng.randrange(samples + 1) / samples for _ in range(count)]


def test_nothing_easy_is_drawn(seed: int, rng: random.Random) -> None:
    rates = _rates(rng, 300)
    curriculum = Progressive(rates, steps=20, per_step=12, seed=seed)
    drawn = {i for step in range(20) for refill in range(4) for i in curriculum.draw(step, 12, refill)}
    assert max(rates[i] for i in drawn) < 0.75
    assert curriculum.dropped == sum(rate >= 0.75 for rate in rates)
    assert {rates[i] for i in drawn} == {rate for rate in rates if rate < 0.75}


def test_where_there_are_enough_problems_none_comes_twice(seed: int, rng: random.Random) -> None:
    rates = [rng.random() * 0.74 for _ in range(400)]
    curriculum = Progressive(rates, steps=25, per_step=16, seed=seed)
    drawn = [i for step in range(25) for i in curriculum.draw(step, 16)]
    # Just as many places as problems: all are drawn.
    assert sorted(drawn) == list(range(400))


def test_where_there_are_too_few_all_have_their_turns(seed: int, rng: random.Random) -> None:
    rates = [rng.randrange(12) / 16 for _ in range(50)]
    curriculum = Progressive(rates, steps=30, per_step=8, seed=seed)  # 240 places: five passes
    times = Counter(i for step in range(30) for i in curriculum.draw(step, 8))
    assert max(times.values()) <= 5
    for rate in set(rates):
        turns = [times[i] for i in range(50) if rates[i] == rate]
        assert max(turns) - min(turns) <= 1


def test_the_centre_moves_from_easy_to_hard(seed: int, rng: random.Random) -> None:
    start, end = sorted((rng.random(), rng.random()), reverse=True)
    curriculum = Progressive([0.1, 0.5], steps=40, per_step=2, seed=seed, start=start, end=end)
    centres = [curriculum.centre(step) for step in range(40)]
    assert centres == sorted(centres, reverse=True)
    assert centres[0] == start
    assert centres[-1] == pytest.approx(end)


def test_the_pass_rates_drawn_follow_the_centre(seed: int, rng: random.Random) -> None:
    rates = [rng.random() for _ in range(20_000)]
    curriculum = Progressive(rates, steps=50, per_step=32, seed=seed, start=0.6, end=0.2, width=0.08)
    for step in range(50):
        own, refill = (fmean(rates[i] for i in curriculum.draw(step, 32, n)) for n in (0, 1))
        assert own == pytest.approx(curriculum.centre(step), abs=0.04)
        assert refill == pytest.approx(curriculum.centre(step), abs=0.08)


def test_the_share_of_a_pool_does_not_depend_on_its_size(seed: int) -> None:
    rates = [0.3] * 20 + [0.5] * 4000
    curriculum = Progressive(rates, steps=1, per_step=20, seed=seed, start=0.4, end=0.4)
    assert Counter(rates[i] for i in curriculum.draw(0, 20)) == {0.3: 10, 0.5: 10}


def test_nor_does_its_share_of_a_refill(seed: int) -> None:
    rates = [0.3] * 100 + [0.5] * 1500
    curriculum = Progressive(rates, steps=1, per_step=20, seed=seed, start=0.4, end=0.4)
    drawn = [rates[i] for refill in range(1, 41) for i in curriculum._near(0, 10, refill, avoid=())]
    assert drawn.count(0.3) / len(drawn) == pytest.approx(0.5, abs=0.12)


def test_leftover_places_are_filled_from_the_largest_pools(seed: int) -> None:
    # Nothing is where the Gaussian aims, after the first four.
    sizes = {0.7: 4, 0.0: 30, 0.1: 90, 0.2: 10}
    rates = [rate for rate, size in sizes.items() for _ in range(size)]
    curriculum = Progressive(rates, steps=3, per_step=20, seed=seed, start=0.7, end=0.7, width=0.01)
    first, second, third = (Counter(rates[i] for i in curriculum.draw(step, 20)) for step in range(3))
    assert first == {0.7: 4, 0.1: 16}
    assert second == {0.1: 20}
    assert third == {0.1: 20}
    # The largest pool is no longer the largest when it has come down to the next.
    longer = Progressive(rates, steps=6, per_step=20, seed=seed, start=0.7, end=0.7, width=0.01)
    drawn = Counter(rates[i] for step in range(6) for i in longer.draw(step, 20))
    assert drawn[0.7] == 4
    assert 90 - drawn[0.1] <= 10 + 1
    assert abs((30 - drawn[0.0]) - (90 - drawn[0.1])) <= 1


def test_a_batch_is_shuffled(seed: int) -> None:
    rates = [i / 100 for i in range(70)]
    batches = [Progressive(rates, 1, 64, seed + n).draw(0, 64) for n in range(20)]
    rising = fmean(fmean(rates[b] > rates[a] for a, b in pairwise(x)) for x in batches)
    assert 0.4 < rising < 0.6


def test_shares_are_right_in_the_mean(rng: random.Random) -> None:
    rates = sorted(rng.random() for _ in range(6))
    count, tries = 5, 4000
    found = [shares(rates, 0.5, 0.2, count, place / tries) for place in range(tries)]
    means = [fmean(one[pool] for one in found) for pool in range(6)]
    weights = [2.718281828459045 ** (-(((rate - 0.5) / 0.2) ** 2) / 2) for rate in rates]
    assert all(sum(one) == count and min(one) >= 0 for one in found)
    assert means == pytest.approx([count * weight / sum(weights) for weight in weights], abs=0.01)


def test_a_gaussian_far_from_every_pool_still_fills_the_batch(seed: int) -> None:
    curriculum = Progressive([0.0] * 8, steps=2, per_step=4, seed=seed, start=1, end=1, width=1e-3)
    assert sorted(curriculum.draw(0, 4) + curriculum.draw(1, 4)) == list(range(8))
    assert len(set(curriculum.draw(0, 4)) | set(curriculum.draw(0, 4, 1))) == 8


def test_metrics_say_where_it_aims_and_what_was_drawn(seed: int) -> None:
    curriculum = Progressive([0.15, 0.15, 0.6, 0.9], steps=1, per_step=3, seed=seed)
    curriculum.draw(0, 3)
    curriculum.observe(0, {0: 0.5, 1: 0.25})
    assert curriculum.metrics() == {
        "dropped": 1,
        "target": 0.7,
        "offline_rate": 0.3,
        "rate": 0.375,
        "pool_15": 2,
        "pool_60": 1,
    }


@pytest.mark.parametrize(
    ("rates", "changes", "words"),
    [
        ([], {}, "no problems"),
        ([0.75, 0.9, 1.0], {}, "no problem is left: all 3"),
        ([0.5, 1.5], {}, "problem 1 has a pass rate of 1.5"),
        ([float("nan")], {}, "problem 0"),
        ([0.5], {"start": 0.2, "end": 0.4}, "cannot move"),
        ([0.5], {"width": 0}, "wide"),
        ([0.5], {"drop": 75}, "cannot be dropped from a pass rate of 75 on"),
        ([0.5], {"drop": 0}, "cannot be dropped"),
        ([0.5], {"steps": 0}, "0 steps"),
    ],
)
def test_what_cannot_be_planned_is_refused(rates: list[float], changes: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Progressive(rates, **{"steps": 2, "per_step": 2, "seed": 1, **changes})  # type: ignore[arg-type]


def test_a_step_after_the_last_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match="planned for 2 steps"):
        Progressive([0.5], 2, 1, seed).draw(2, 1)
