"""The same problem with working and a committed answer asked for: the baseline that a gain must beat to be more than formatting."""

from __future__ import annotations

import dataclasses

from bethink.tasks.problem import Problem

_ASK = {
    "choice": "Reason step by step. Then write only the letter of the correct choice in \\boxed{}.",
    "code": "Reason step by step. Then write the complete solution in one code block.",
}
_ASK_VALUE = "Reason step by step. Then write only the final answer in \\boxed{}."
"""No example of an answer: a small model copies it, and is then a weaker baseline than it need be."""


def prompted(problem: Problem) -> Problem:
    """`problem` with the request appended to its last user message; id, answer and grader stay. One without a grader is asked as it is:
    nobody looks for its answer."""
    if not problem.judged:
        return problem
    ask = _ASK.get(problem.grader, _ASK_VALUE)
    last = max(i for i, message in enumerate(problem.messages) if message["role"] == "user")
    messages = tuple(
        {**message, "content": f"{message['content']}\n\n{ask}"} if i == last else message
        for i, message in enumerate(problem.messages)
    )
    return dataclasses.replace(problem, messages=messages)
