"""The watch says when a reward is won without its purpose, and is silent on a run that learns."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bethink.verify.rewards.compose import Rewards, Scored
from bethink.verify.rewards.watch import Thresholds, WatchRow, disagreement, warnings
from verify.rewards.attempts import WRONG, attempt, ungraded


def rows(
    *,
    steps: int = 60,
    accuracy: tuple[float, float] = (0.3, 0.3),
    format: tuple[float, float] = (0.9, 0.9),
    tokens: tuple[float, float] = (300, 300),
    reward: tuple[float, float] = (0.5, 0.5),
    steps_part: tuple[float, float] = (-0.2, -0.2),
    disagreement: float | None = 0.05,
    noise: float = 0.03,
) -> list[WatchRow]:
    """A run in which each number goes from the first to the second value in a straight line, with noise of a batch's size."""
    drawn = random.Random()

    def at(ends: tuple[float, float], step: int, scale: float = 1.0) -> float:
        return ends[0] + (ends[1] - ends[0]) * step / (steps - 1) + drawn.uniform(-noise, noise) * scale

    return [
        WatchRow(
            step=step,
            accuracy={"on": at(accuracy, step), "off": 0.2},
            compliance={"on": at(format, step), "off": 1.0},
            tokens={"on": at(tokens, step, 200), "off": 20.0},
            parts={"steps": at(steps_part, step), "gone": None},
            reward=at(reward, step),
            disagreement=disagreement,
        )
        for step in range(steps)
    ]


def kinds(history: list[WatchRow]) -> set[tuple[str, str]]:
    return {(warned.kind, warned.about) for warned in warnings(history)}


def test_a_run_that_learns_is_left_alone() -> None:
    assert kinds(rows()) == set()
    assert kinds(rows(accuracy=(0.3, 0.8), format=(0.5, 1.0), tokens=(300, 400), reward=(0.3, 0.9))) == set()
    assert kinds(rows(accuracy=(0.8, 0.3), format=(1.0, 0.5), tokens=(300, 40), reward=(0.9, 0.3))) == set()


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({"accuracy": (0.3, 0.6), "format": (0.95, 0.6)}, {("format", "on")}),
        ({"accuracy": (0.3, 0.6), "tokens": (300, 60)}, {("collapse", "on")}),
        ({"reward": (0.3, 0.9), "tokens": (300, 60)}, {("collapse", "on")}),
        ({"accuracy": (0.3, 0.6), "tokens": (300, 1500)}, {("explosion", "on")}),
        ({"accuracy": (0.6, 0.3), "steps_part": (-0.5, 0.0)}, {("part", "steps")}),
        ({"disagreement": 0.5}, {("disagreement", "")}),
    ],
)
def test_each_trick_has_its_warning(
    run: dict[str, tuple[float, float]], expected: set[tuple[str, str]]
) -> None:
    assert kinds(rows(**run)) == expected


def test_a_fall_after_a_rise_is_measured_from_the_top() -> None:
    up = rows(accuracy=(0.2, 0.4), format=(0.5, 1.0))
    down = rows(accuracy=(0.4, 0.7), format=(1.0, 0.6))
    assert ("format", "on") in kinds([*up, *down])


def test_too_short_a_history_says_nothing() -> None:
    history = rows(accuracy=(0.3, 0.6), format=(0.95, 0.5), disagreement=0.9)
    assert warnings(history[:9]) == []
    assert warnings([]) == []
    assert warnings(history[::4], Thresholds(window=5)) != []


def test_numbers_of_the_warning_are_those_of_the_windows() -> None:
    history = rows(accuracy=(0.3, 0.6), format=(0.95, 0.5), noise=0.0)
    [warned] = warnings(history)
    assert warned.since == 9
    last = sum(row.accuracy["on"] for row in history[-10:]) / 10
    first = sum(row.accuracy["on"] for row in history[:10]) / 10
    assert f"from {first:.2f} to {last:.2f}" in warned.text


def test_disagreement_is_the_share_of_pairs_in_which_wrong_is_paid_as_well() -> None:
    rewards = Rewards.of("accuracy=1,format=1")
    plain = [attempt("a"), attempt("a", WRONG), attempt(None, WRONG)]
    assert disagreement([(plain, rewards.score(plain))]) == 0.0
    careless = [
        attempt(None, mode=attempt("a").mode),
        attempt("a", WRONG),
        attempt(None, WRONG, mode=attempt("a").mode),
    ]
    assert disagreement([(careless, rewards.score(careless))]) == 0.5
    both = [(plain, rewards.score(plain)), (careless, rewards.score(careless))]
    assert disagreement(both) == 0.25
    nobody = [ungraded(), attempt("a", WRONG)]
    assert disagreement([(nobody, rewards.score(nobody))]) is None
    assert disagreement([]) is None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.booleans(), st.sampled_from([None, 0.0, 0.5, 1.0])), max_size=6), max_size=4
    )
)
def test_disagreement_counts_as_one_would_by_hand(drawn: list[list[tuple[bool, float | None]]]) -> None:
    right, wrong = attempt("a"), attempt("a", WRONG)
    groups = [
        ([right if good else wrong for good, _ in group], [Scored(total, {}) for _, total in group])
        for group in drawn
    ]
    pairs = [
        a <= b
        for group in drawn
        for (good, a), (other, b) in itertools.product(group, group)
        if good and not other and a is not None and b is not None
    ]
    assert disagreement(groups) == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)


def test_disagreement_of_one_reward_is_where_it_values_wrong_more() -> None:
    on = attempt("a").mode
    group = [
        attempt(None, mode=on),  # right, in the wrong form
        attempt("a"),
        attempt("a", WRONG),
        attempt(None, WRONG, mode=on),
    ]
    scores = Rewards.of("accuracy=1,format=1").score(group)
    assert disagreement([(group, scores)], of="accuracy") == 0.0
    assert disagreement([(group, scores)], of="format") == 0.25, "one of four pairs; two are equal in it"
    assert disagreement([([], [])], of="format") is None
