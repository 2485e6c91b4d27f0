"""A problem: what is asked, what is right, and who can tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bethink.core.seeds import derive_seed

Message = dict[str, str]
"""One chat message: {"role": "system" | "user" | "assistant", "content": text}."""


WORKING = "working"
"""The key of `Problem.meta` with a file's own worked solution."""

NO_GRADER = "none"
"""The grader of a problem that nothing tells right from wrong, such as a general prompt: its completions are not judged."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    id:       unique within its task and stable between runs.
    task:     the name of the source it came from ("chain_sum", "gsm8k", ...).
    messages: the conversation that asks it; no toggle in it (that is added when it is rendered).
    answer:   the reference answer as text, as the grader wants it (of a coding problem a solution, or nothing; "" without a grader).
    grader:   "math" | "choice" | "exact" | "numeric" | "reasoning_gym" | "code" | "none".
    meta:     what the grader or a report needs beside the answer (choices, difficulty, subject, the reasoning-gym entry).
    """

    id: str
    task: str
    messages: tuple[Message, ...]
    answer: str
    grader: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def judged(self) -> bool:
        """Whether its completions are right or wrong."""
        return self.grader != NO_GRADER

    @property
    def question(self) -> str:
        """The last user message's text."""
        return next(m["content"] for m in reversed(self.messages) if m["role"] == "user")


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """The problems of one source, and what was left out of it.

    dropped: how many were left out, by reason ("duplicate": the same question twice; "excluded": its question is in the texts the
    caller excluded, such as training rows).
    """

    name: str
    problems: tuple[Problem, ...]
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)


def question_key(text: str) -> str:
    """What two questions have in common when they are the same question: the text without differences of white space and case."""
    return " ".join(text.split()).casefold()


def in_split(question: str, split: str, held_out: float) -> bool:
    """Whether a question belongs to `split`, where this share of all questions is held out as `test` and the others are `train`.

    Decided by a hash of its text alone (`question_key`): the same in every run, whatever its seed.
    """
    return (derive_seed("held out", question_key(question)) < held_out * 2**63) == (split == "test")
