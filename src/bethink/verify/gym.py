r"""Scoring by reasoning-gym: the generator that made a problem judges the answer.

The scorers are neither 0/1 nor forgiving: wrong answers get 0.01–0.05, and "66.0" where "66" is right gets less than 1 from many.
So the answer is offered as it was written and without what models put around it (LaTeX, "x ="), only a score of 1 is correct, and
two plain numbers are compared as numbers. The scorers run in a worker (`gym_worker`): some search, some crash on odd input, and the
library takes seconds to import.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bethink.verify.exact import plain_number
from bethink.verify.pool import Done
from bethink.verify.verdict import Outcome, Verdict

JOB = "bethink.verify.gym_worker:score"
NAMES_JOB = "bethink.verify.gym_worker:names"

_NAME = re.compile(r"[A-Za-z]\w{0,20}\s*=\s*(?=\S)")
_UNTEX = (
    (re.compile(r"\\[()\[\]]|(?<!\\)\$|\\left|\\right|\\[,;!]"), ""),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\[dt]?frac\s*\{(-?[\w.]+)\}\s*\{(-?[\w.]+)\}"), r"\1/\2"),
    (re.compile(r"\s*\\(?:times|cdot)(?![A-Za-z])\s*"), " × "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([_%$&#{}])"), r"\1"),
)


def generator(meta: Mapping[str, Any], fallback: str) -> str:
    """The generator's name: meta["generator"], else the entry's own, else `fallback`."""
    source = entry(meta, "").get("metadata")
    name = meta.get("generator") or (source.get("source_dataset") if isinstance(source, Mapping) else None)
    return name if isinstance(name, str) and name else fallback


def entry(meta: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """What the scorer wants: meta["entry"], else one made of the answer and the meta itself as its metadata."""
    found = meta.get("entry")
    return (
        dict(found)
        if isinstance(found, Mapping)
        else {"question": "", "answer": answer, "metadata": dict(meta)}
    )


def spellings(answers: Sequence[str]) -> tuple[str, ...]:
    """The ways to say the one committed answer that are put to the scorer, as written first."""
    found: dict[str, None] = {}
    for answer in answers:
        plain = _without_tex(answer) if "\\" in answer or "$" in answer else answer
        for spelling in (
            answer.strip(),
            plain.strip(),
            _NAME.sub("", plain.strip(), count=1) if _NAME.match(plain.strip()) else "",
        ):
            if spelling:
                found.setdefault(spelling)
    return tuple(found)


def _without_tex(answer: str) -> str:
    for pattern, replacement in _UNTEX:
        answer = pattern.sub(replacement, answer)
    return answer


def decide(reference: str, answers: Sequence[str]) -> Verdict | None:
    """The verdict where both sides are plain numbers and equal; otherwise the scorer is asked, which may know several answers."""
    wanted = plain_number(reference)
    if wanted is not None and any(plain_number(spelling) == wanted for spelling in spellings(answers)):
        return Verdict(Outcome.CORRECT, answers[0], "the same number", score=1.0)
    return None


def conclude(answer: str, done: Done) -> Verdict:
    """The verdict from what became of `JOB`."""
    if done.error is not None:
        return Verdict(Outcome.GRADER_ERROR, answer, f"scorer: {done.error}")
    if isinstance(done.value, str):
        return Verdict(Outcome.WRONG, answer, f"the scorer cannot read it: {done.value}"[:200])
    score = float(done.value)
    outcome = Outcome.CORRECT if score >= 1.0 else Outcome.WRONG
    return Verdict(outcome, answer, f"scored {score:.3g}", score=min(max(score, 0.0), 1.0))
