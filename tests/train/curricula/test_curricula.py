"""What holds for every curriculum: the same state draws the same, and a step draws no problem twice while there are others."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from bethink.core.errors import ConfigError
from bethink.train.curricula.api import Curriculum
from bethink.train.curricula.mastery import Mastery
from bethink.train.curricula.progressive import Progressive
from bethink.train.curricula.shuffled import Shuffled

STEPS, PER_STEP = 24, 7
SIZE = 60


def _shuffled(seed: int) -> Curriculum:
    return Shuffled(SIZE, seed)


def _progressive(seed: int) -> Curriculum:
    rng = random.Random(seed)
    return Progressive([rng.randrange(6) / 8 for _ in range(SIZE)], STEPS, PER_STEP, seed)


def _mastery(seed: int) -> Curriculum:
    rng = random.Random(seed)
    return Mastery([rng.randrange(4) for _ in range(SIZE)], seed, window=10)


every = pytest.mark.parametrize("make", [_shuffled, _progressive, _mastery])
Make = Callable[[int], Curriculum]


def _step(curriculum: Curriculum, step: int, seed: int) -> tuple[list[list[int]], dict[str, float | int]]:
    """One step with up to three refills of other sizes, solved at random but the same for equal arguments."""
    rng = random.Random(seed * 1000 + step)
    drawn = [curriculum.draw(step, PER_STEP)]
    for refill in range(1, rng.randrange(1, 5)):
        drawn.append(curriculum.draw(step, rng.randrange(1, PER_STEP), refill))
    curriculum.observe(step, {index: rng.random() ** 0.5 for draw in drawn for index in draw})
    return drawn, curriculum.metrics()


@every
def test_a_resumed_run_draws_what_it_would_have_drawn(make: Make, seed: int, rng: random.Random) -> None:
    whole, first = make(seed), make(seed)
    uninterrupted = [_step(whole, step, seed) for step in range(STEPS)]
    stop = rng.randrange(1, STEPS)
    parts = [_step(first, step, seed) for step in range(stop)]
    saved = json.dumps(first.state_dict())
    _step(first, stop, seed)  # a step that was begun and lost
    second = make(seed)
    second.load_state_dict(json.loads(saved))
    parts += [_step(second, step, seed) for step in range(stop, STEPS)]
    assert parts == uninterrupted
    assert second.state_dict() == whole.state_dict()


@every
def test_saving_changes_nothing_and_a_saved_state_stays_as_it_is(make: Make, seed: int) -> None:
    saving, other = make(seed), make(seed)
    saved = []
    for step in range(STEPS):
        assert _step(saving, step, seed) == _step(other, step, seed)
        state = saving.state_dict()
        saved.append((state, json.dumps(state)))
    assert all(json.dumps(state) == text for state, text in saved)


@every
def test_drawing_again_gives_the_same(make: Make, seed: int) -> None:
    curriculum = make(seed)
    for step in range(STEPS):
        first = [curriculum.draw(step, PER_STEP, refill) for refill in range(3)]
        assert [curriculum.draw(step, PER_STEP, refill) for refill in range(3)] == first
        assert curriculum.draw(step, PER_STEP, 1) == first[1]


@every
def test_another_seed_draws_otherwise(make: Make, seed: int) -> None:
    one, other = make(seed), make(seed + 1)
    assert [one.draw(s, PER_STEP) for s in range(8)] != [other.draw(s, PER_STEP) for s in range(8)]


@every
def test_a_step_draws_no_problem_twice_while_there_are_others(make: Make, seed: int) -> None:
    curriculum = make(seed)
    reachable = {index for step in range(STEPS) for index in curriculum.draw(step, SIZE)}
    for step in range(STEPS):
        drawn: list[int] = []
        for refill in range(14):
            draw = curriculum.draw(step, PER_STEP, refill)
            assert len(draw) == PER_STEP
            drawn += draw
            if not isinstance(curriculum, Mastery):
                assert len(set(drawn)) == min(len(drawn), len(reachable))
        once = next((place for place, index in enumerate(drawn) if index in drawn[:place]), len(drawn))
        # The first to come again comes when all that can be drawn have come.
        assert set(drawn[:once]) == set(drawn)


@every
def test_a_step_larger_than_the_problems_holds_all_of_them(make: Make, seed: int) -> None:
    curriculum = make(seed)
    draw = curriculum.draw(0, 3 * SIZE)
    assert len(draw) == 3 * SIZE
    if isinstance(curriculum, Shuffled):
        assert {draw.count(index) for index in range(SIZE)} == {3}


@every
def test_the_state_of_another_curriculum_is_refused(make: Make, seed: int) -> None:
    curriculum = make(seed)
    for other in (
        Shuffled(SIZE + 1, seed),
        Progressive([0.5] * 9, 3, 2, seed),
        Mastery([1, 2], seed),
        make(seed + 1),
    ):
        with pytest.raises(ConfigError, match="another curriculum"):
            curriculum.load_state_dict(other.state_dict())


@every
def test_metrics_are_numbers_from_the_first_moment(make: Make, seed: int) -> None:
    curriculum = make(seed)
    before = curriculum.metrics()
    _, after = _step(curriculum, 0, seed)
    for metrics in (before, after):
        assert all(type(value) in (int, float) for value in metrics.values())
        assert json.loads(json.dumps(metrics)) == metrics
    assert 0 <= after["rate"] <= 1
