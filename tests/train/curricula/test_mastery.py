"""Levels that open one after the other."""

from __future__ import annotations

import math
import random
from collections import Counter
from statistics import fmean

import pytest

from bethink.core.errors import ConfigError
from bethink.train.curricula.api import Curriculum
from bethink.train.curricula.mastery import Mastery
from bethink.train.curricula.shuffled import Shuffled

LEVELS = [level for level in (2, 5, 9) for _ in range(40)]


def _run(curriculum: Mastery, rates: dict[int, float], steps: int, *, first: int = 0) -> list[int]:
    """Steps of eight problems, each level solved at a fixed rate; gives the newest level after each."""
    seen = []
    for step in range(first, first + steps):
        drawn = curriculum.draw(step, 8)
        curriculum.observe(step, {index: rates[LEVELS[index]] for index in drawn})
        seen.append(curriculum.level)
    return seen


def test_only_the_lowest_level_is_open_at_first(seed: int) -> None:
    curriculum = Mastery(LEVELS, seed)
    drawn = [index for step in range(5) for index in curriculum.draw(step, 8)]
    assert sorted(drawn) == list(range(40))  # and each once before any twice


def test_a_level_opens_when_the_one_before_is_mastered(seed: int) -> None:
    assert _run(Mastery(LEVELS, seed, window=16), {2: 0.7, 5: 0.69, 9: 0.0}, 20)[0] == 2
    assert _run(Mastery(LEVELS, seed, window=16), {2: 0.7, 5: 0.69, 9: 0.0}, 20)[1:] == [5] * 19
    assert _run(Mastery(LEVELS, seed, window=16), {2: 0.69, 5: 1.0, 9: 1.0}, 20) == [2] * 20
    assert _run(Mastery(LEVELS, seed, window=16), {2: 0.9, 5: 0.9, 9: 0.1}, 20)[-1] == 9


def test_a_level_is_judged_by_its_own_problems_only(seed: int) -> None:
    # Rehearsal of a mastered level opens nothing: 0.9 · 0.5 + 0.65 · 0.5 is more than 0.7.
    levels = _run(Mastery(LEVELS, seed, window=16, rehearsal=0.5), {2: 0.9, 5: 0.65, 9: 1.0}, 40)
    assert max(levels) == 5


def test_what_was_solved_of_a_closed_level_opens_nothing(seed: int) -> None:
    curriculum = Mastery(LEVELS, seed, window=16)
    curriculum.observe(0, {index: 1.0 for index, level in enumerate(LEVELS) if level == 5})
    curriculum.observe(1, dict.fromkeys(curriculum.draw(1, 16), 0.8))
    assert curriculum.metrics() == {"level": 5, "rate": 0.8, "rate_level_2": 0.8}


def test_it_falls_back_when_what_was_mastered_is_lost(seed: int) -> None:
    curriculum = Mastery(LEVELS, seed, window=16)
    assert _run(curriculum, {2: 0.9, 5: 0.9, 9: 0.5}, 20)[-1] == 9
    assert _run(curriculum, {2: 0.1, 5: 0.5, 9: 0.5}, 60, first=20)[-1] == 2
    # And opens again when it is mastered again.
    assert _run(curriculum, {2: 0.9, 5: 0.5, 9: 0.5}, 20, first=80)[-1] == 5


def test_it_falls_back_one_level_when_the_newest_drops(seed: int) -> None:
    curriculum = Mastery(LEVELS, seed, window=16)
    assert _run(curriculum, {2: 0.9, 5: 0.9, 9: 0.5}, 20)[-1] == 9
    levels = _run(curriculum, {2: 0.6, 5: 0.6, 9: 0.2}, 20, first=20)
    assert levels[-1] == 5
    assert 2 not in levels


def test_a_hard_beginning_is_no_drop_but_hopelessness_is(seed: int) -> None:
    assert _run(Mastery(LEVELS, seed, window=16), {2: 0.9, 5: 0.05, 9: 0.0}, 60)[5:] == [5] * 55
    hopeless = _run(Mastery(LEVELS, seed, window=16), {2: 0.9, 5: 0.0, 9: 0.0}, 60)
    assert set(hopeless[5:]) == {2, 5}


def test_the_lowest_level_stays_open(seed: int) -> None:
    assert _run(Mastery(LEVELS, seed, window=16), {2: 0.0, 5: 0.0, 9: 0.0}, 20) == [2] * 20


def test_a_quarter_of_the_problems_rehearse(seed: int) -> None:
    curriculum = Mastery(LEVELS, seed, window=16)
    _run(curriculum, {2: 0.9, 5: 0.9, 9: 0.5}, 20)
    drawn = Counter(LEVELS[index] for step in range(20, 420) for index in curriculum.draw(step, 6))
    assert drawn[9] / 2400 == pytest.approx(0.75, abs=0.04)
    assert drawn[2] / 2400 == pytest.approx(0.125, abs=0.04)
    assert drawn[5] / 2400 == pytest.approx(0.125, abs=0.04)


def test_a_small_level_is_helped_out_by_those_below(seed: int) -> None:
    levels = [0] * 10 + [1] * 2
    curriculum = Mastery(levels, seed, window=4)
    curriculum.observe(0, dict.fromkeys(curriculum.draw(0, 4), 1.0))
    assert curriculum.level == 1
    drawn = curriculum.draw(1, 8)
    assert Counter(levels[index] for index in drawn) == {0: 6, 1: 2}
    assert len(set(drawn)) == 8


def test_every_problem_of_a_level_comes_once_before_any_comes_twice(seed: int) -> None:
    curriculum = Mastery(LEVELS, seed, window=16)
    _run(curriculum, {2: 0.9, 5: 0.9, 9: 0.5}, 20)
    times = Counter(index for step in range(20, 200) for index in curriculum.draw(step, 8))
    for level in (2, 5, 9):
        turns = [times[index] for index in range(120) if LEVELS[index] == level]
        assert max(turns) - min(turns) <= 1


def test_metrics_hold_what_the_picture_shows(seed: int) -> None:
    curriculum = Mastery(LEVELS, seed, window=8)
    assert curriculum.metrics() == {"level": 2}
    _run(curriculum, {2: 0.75, 5: 0.5, 9: 0.5}, 1)
    assert curriculum.metrics() == {"level": 5, "rate": 0.75, "rate_level_2": 0.75}
    _run(curriculum, {2: 0.75, 5: 0.5, 9: 0.5}, 4, first=1)
    assert curriculum.metrics()["rate_level_5"] == 0.5


@pytest.mark.parametrize(
    ("levels", "changes", "words"),
    [
        ([], {}, "no problems"),
        ([0], {"threshold": 0.2}, "cannot open"),
        ([0], {"threshold": 1.2}, "cannot open"),
        ([0], {"window": 0}, "window"),
        ([0], {"rehearsal": 1.0}, "rehearsal"),
    ],
)
def test_what_makes_no_sense_is_refused(levels: list[int], changes: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Mastery(levels, 1, **changes)  # type: ignore[arg-type]


class Learner:
    """Learns from what it solves sometimes: a group of completions all right or all wrong has no signal, and what one level teaches
    helps a little with its neighbours. Level n begins at a pass rate of logistic(2 − 2 n)."""

    def __init__(self, rng: random.Random, levels: int) -> None:
        self._rng = rng
        self.skill = [2.0 - 2.0 * level for level in range(levels)]

    def rate(self, level: int) -> float:
        return 1 / (1 + math.exp(-self.skill[level]))

    def learn(self, level: int) -> float:
        """One problem with eight completions; gives its pass rate."""
        right = fmean(self._rng.random() < self.rate(level) for _ in range(8))
        signal = right * (1 - right)
        for neighbour, share in ((level - 1, 0.3), (level, 1.0), (level + 1, 0.5)):
            if 0 <= neighbour < len(self.skill):
                self.skill[neighbour] += 0.3 * share * signal
        return right


def _steps_to_learn(curriculum: Curriculum, levels: list[int], rng: random.Random) -> int:
    """Steps of eight problems until half of the hardest level is solved."""
    learner = Learner(rng, max(levels) + 1)
    for step in range(5000):
        if learner.rate(max(levels)) >= 0.5:
            return step
        drawn = curriculum.draw(step, 8)
        curriculum.observe(step, {index: learner.learn(levels[index]) for index in drawn})
    return 5000


def test_a_learner_reaches_the_hardest_level_sooner_than_with_all_levels_mixed(
    seed: int, rng: random.Random
) -> None:
    levels = [level for level in range(6) for _ in range(200)]
    gated = _steps_to_learn(Mastery(levels, seed), levels, rng)
    mixed = _steps_to_learn(Shuffled(len(levels), seed), levels, rng)
    print(f"gated {gated}, mixed {mixed}")
    assert gated < 0.6 * mixed < 3000
