"""The reward of verified steps: is the arithmetic on the way to the answer true."""

from __future__ import annotations

from bethink.verify.rewards.attempt import Attempt, Credit, Part, Reward, each
from bethink.verify.steps import check, feedback


def steps(*, process: bool = False) -> Reward:
    """The share of the completion's equations that are right, minus 1: from 0 (all right) down to -1 (all wrong).

    No equation that can be judged is 0 as well, so that writing one is never a gain in itself; the same equation again and what
    calculates nothing (7 = 7, 7 + 0 = 7) count for nothing. process: every wrong step gets the credit -1 on what it claims, the
    characters behind its sign (what it calculates with was not the fault), at each place it stands; right ones get none. The note says
    where the first fault is. Works in both modes, on the whole completion.
    """

    def judge(attempt: Attempt) -> Part:
        checked = check(attempt.text)
        share = checked.share_right
        value = 0.0 if share is None else share - 1.0
        wrong = [step for step in checked.steps if step.right is False] if process else []
        credits = tuple(Credit(step.claim, step.end, -1.0) for step in wrong)
        return Part(value, credits, feedback(attempt.verdict, checked))

    return each(judge)
