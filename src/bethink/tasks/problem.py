"""A problem: what is asked, what is right, and who can tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]
"""One chat message: {"role": "system" | "user" | "assistant", "content": text}."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    id:       unique within its task and stable between runs.
    task:     the name of the source it came from ("chain_sum", "gsm8k", ...).
    messages: the conversation that asks it; no toggle in it (that is added when it is rendered).
    answer:   the reference answer as text, as the grader wants it.
    grader:   "math" | "choice" | "exact" | "numeric" | "reasoning_gym".
    meta:     what the grader or a report needs beside the answer (choices, difficulty, subject, the reasoning-gym entry).
    """

    id: str
    task: str
    messages: tuple[Message, ...]
    answer: str
    grader: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last user message's text."""
        return next(m["content"] for m in reversed(self.messages) if m["role"] == "user")
