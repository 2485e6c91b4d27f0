"""The rewards of the outcome: is the answer right, and has the completion the form that its mode asks for."""

from __future__ import annotations

from bethink.chat.parse import compliant
from bethink.chat.toggle import Mode
from bethink.verify.rewards.attempt import Attempt, Part, Reward, each


def accuracy(*, partial: bool = False) -> Reward:
    """1 for a right answer, 0 for any other completion, None where the grader failed; no part where the problem has no grader.

    Whatever grader the problem names, code included. partial: the grader's own measure in [0, 1] where it has one.
    """

    def judge(attempt: Attempt) -> Part | None:
        verdict = attempt.verdict
        if not verdict.judged:
            return None
        if not verdict.counts:
            return Part(None, note=f"not graded: {verdict.detail}")
        if verdict.correct:
            return Part(1.0)
        return Part(min(max(verdict.score, 0.0), 1.0) if partial else 0.0)

    return each(judge)


def form() -> Reward:
    """1 for a completion in the form of its mode, else 0.

    Thinking on: exactly one think block, closed, with something in it, and an answer after it. Off: no tags.
    """

    def judge(attempt: Attempt) -> Part:
        fits = compliant(attempt.text, attempt.mode, attempt.think, attempt.opened)
        empty = attempt.mode is Mode.ON and not attempt.parsed.thinking
        return Part(float(fits and not empty))

    return each(judge)
