"""All problems alike."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bethink.core.errors import ConfigError
from bethink.train.curricula.shuffled import Shuffled


def test_every_problem_comes_once_before_any_comes_twice(seed: int, rng: random.Random) -> None:
    size = rng.randrange(1, 80)
    per_step = rng.randrange(1, size + 1)
    curriculum = Shuffled(size, seed)
    stream: list[int] = []
    for step in range(5 * size // per_step + 1):
        draw = curriculum.draw(step, per_step)
        assert len(set(draw)) == per_step
        stream += draw
    for start in range(0, len(stream) - size + 1, size):
        assert sorted(stream[start : start + size]) == list(range(size))


def test_each_pass_has_an_order_of_its_own(seed: int) -> None:
    curriculum = Shuffled(50, seed)
    passes = [curriculum.draw(step, 50) for step in range(4)]
    assert len({tuple(order) for order in passes}) == 4


def test_refills_do_not_disturb_later_steps(seed: int, rng: random.Random) -> None:
    size, per_step = 40, 6
    plain, refilled = Shuffled(size, seed), Shuffled(size, seed)
    for step in range(30):
        own = refilled.draw(step, per_step)
        for refill in range(1, rng.randrange(1, 9)):
            refilled.draw(step, rng.randrange(1, 9), refill)
        assert own == plain.draw(step, per_step)


def test_refills_spread_over_all_problems(seed: int) -> None:
    size, per_step, passes = 60, 5, 30
    curriculum = Shuffled(size, seed)
    refills: list[int] = []
    for step in range(passes * size // per_step):
        own = curriculum.draw(step, per_step)
        refills += curriculum.draw(step, per_step, 1)
        assert not set(own) & set(refills[-per_step:])
    # While steps and their refills are in the same pass, none comes twice.
    assert len(set(refills[: size // 2])) == size // 2
    times = Counter(refills)
    assert len(times) == size
    assert max(times.values()) <= 2 * passes


def test_a_refill_takes_nothing_that_is_due_soon(seed: int) -> None:
    curriculum = Shuffled(60, seed)
    curriculum.draw(0, 5)
    refill = curriculum.draw(0, 5, 1)
    soon = [index for step in range(1, 6) for index in curriculum.draw(step, 5)]
    assert not set(refill) & set(soon)


def test_a_pass_is_counted(seed: int) -> None:
    curriculum = Shuffled(20, seed)
    for step in range(6):
        curriculum.draw(step, 5)
    assert curriculum.metrics() == {"passes": 1.5}


def test_no_problems_are_refused() -> None:
    with pytest.raises(ConfigError, match="no problems"):
        Shuffled(0, 1)
