"""The verdict on one completion.

A crashed or timed-out grader and an unparsable gold answer are `grader_error`, never `wrong`: they earn no reward, count for no
accuracy, and their number is shown. A completion of a problem that has no grader is `not_judged`: no failure, but no accuracy either.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What a grader found."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # the completion ended by itself without committing to an answer
    TRUNCATED = "truncated"  # cut at the token limit before an answer was committed
    GRADER_ERROR = "grader_error"  # ours, not the model's
    NOT_JUDGED = "not_judged"  # the problem has no grader


UNCOUNTED = frozenset({Outcome.GRADER_ERROR, Outcome.NOT_JUDGED})
"""What says neither right nor wrong, and belongs in no accuracy's denominator."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """outcome: what was found; extracted: the answer that was judged, if any; detail: why, in a few words; score: the grader's own
    measure in [0, 1] where it has one (1.0 for correct)."""

    outcome: Outcome
    extracted: str | None = None
    detail: str = ""
    score: float = 0.0

    @property
    def correct(self) -> bool:
        return self.outcome is Outcome.CORRECT

    @property
    def counts(self) -> bool:
        """Whether this verdict belongs in an accuracy's denominator."""
        return self.outcome not in UNCOUNTED

    @property
    def failed(self) -> bool:
        """Whether the grader failed."""
        return self.outcome is Outcome.GRADER_ERROR

    @property
    def judged(self) -> bool:
        """False where the problem has no grader."""
        return self.outcome is not Outcome.NOT_JUDGED
