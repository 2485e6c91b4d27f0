"""Attempts for tests, made by the package's own parser and grader."""

from __future__ import annotations

from typing import Any

from bethink.chat.parse import compose, parse
from bethink.chat.toggle import Mode
from bethink.tasks.problem import NO_GRADER, Problem
from bethink.verify.grade import grade
from bethink.verify.rewards.attempt import Attempt
from bethink.verify.verdict import Outcome, Verdict

PROBLEM = Problem("p1", "sums", ({"role": "user", "content": "What is 12 + 7 in the end?"},), "19", "numeric")


def attempt(
    thinking: str | None,
    answer: str = "The answer is 19.",
    *,
    mode: Mode | None = None,
    tokens: int | None = None,
    truncated: bool = False,
    problem: Problem = PROBLEM,
    text: str | None = None,
    opened: bool = False,
) -> Attempt:
    """A graded attempt. thinking None: no think block. text: the completion itself, instead of thinking and answer."""
    if text is None:
        text = answer if thinking is None else compose(thinking, answer)
    mode = mode or (Mode.OFF if thinking is None else Mode.ON)
    return Attempt(
        problem=problem,
        mode=mode,
        text=text,
        parsed=parse(text, opened=opened),
        verdict=grade(problem, text, truncated=truncated, opened=opened),
        tokens=len(text.split()) if tokens is None else tokens,
        truncated=truncated,
        opened=opened,
    )


def ungraded(thinking: str = "12 + 7 = 19") -> Attempt:
    """An attempt at a problem whose reference answer nobody can read."""
    problem = Problem("p2", "sums", PROBLEM.messages, "no number", "numeric")
    made = attempt(thinking, problem=problem)
    assert made.verdict.outcome is Outcome.GRADER_ERROR
    return made


def unjudged(thinking: str | None = "12 + 7 = 19", **given: Any) -> Attempt:
    """An attempt at a problem that has no grader."""
    made = attempt(thinking, problem=Problem("p3", "prompts", PROBLEM.messages, "", NO_GRADER), **given)
    assert made.verdict.outcome is Outcome.NOT_JUDGED
    return made


WRONG = "The answer is 18."
RIGHT_VERDICT = Verdict(Outcome.CORRECT, "19", score=1.0)
