"""A step's metrics from completions whose verdicts and rewards are known."""

from __future__ import annotations

from collections import Counter

import pytest

from bethink.chat.parse import compose, parse
from bethink.chat.toggle import Mode
from bethink.tasks.problem import Problem
from bethink.train.rl.rollouts import Group, Rollout
from bethink.train.rl.summary import summarize
from bethink.verify.rewards.attempt import Attempt
from bethink.verify.rewards.compose import Rewards
from bethink.verify.verdict import Outcome, Verdict

PROBLEM = Problem("sum", "sums", ({"role": "user", "content": "12 + 7 = ?"},), "19", "exact")
THOUGHT, PLAIN = compose("12 + 7", "19"), "19"


def group(mode: Mode, *completions: tuple[str, Outcome]) -> Group:
    attempts = [
        Attempt(
            PROBLEM,
            mode,
            text,
            parse(text),
            Verdict(outcome, None, "", 0.0),
            tokens=5,
            truncated=outcome is Outcome.TRUNCATED,
        )
        for text, outcome in completions
    ]
    scores = Rewards.of("accuracy=1,format=2").score(attempts)
    return Group(
        0,
        PROBLEM,
        mode,
        [
            Rollout((1,), (1,) * 5, (-0.5,) * 5, attempt, scored, True, scored.total or 0.0)
            for attempt, scored in zip(attempts, scores, strict=True)
        ],
    )


def test_rewards_and_disagreement_by_mode_and_by_reward() -> None:
    right, wrong, cut = Outcome.CORRECT, Outcome.WRONG, Outcome.TRUNCATED
    on = group(Mode.ON, (THOUGHT, right), (PLAIN, right), (THOUGHT, wrong), (PLAIN, cut))
    off = group(Mode.OFF, (PLAIN, right), (PLAIN, wrong))
    row = summarize([on, off], [on, off], Counter())
    assert (row["reward/accuracy_on"], row["reward/accuracy_off"]) == (0.5, 0.5)
    assert (row["reward/format_on"], row["reward/format_off"]) == (0.5, 1.0)
    assert row["reward/format"] == pytest.approx(4 / 6, abs=1e-5)
    assert (row["truncated_on"], row["truncated_off"]) == (0.25, 0.0)
    # Five pairs of right and wrong; the right one without the form is outdone by the wrong one with it.
    assert row["disagreement"] == 1 / 5
    assert row["disagreement/format"] == 1 / 5
    assert row["disagreement/accuracy"] == 0.0
    assert on.paid_though_wrong == [False, False, True, False]
    assert off.paid_though_wrong == [False, False]
