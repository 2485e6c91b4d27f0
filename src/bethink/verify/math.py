r"""Is the committed answer the reference answer, as mathematics?

Two steps: `decide` compares exactly in this process and settles almost everything (see `forms`, `algebra`, `compare`); what it leaves
open is a `job` for `symbolic` in a worker process (math-verify, with a time and a memory limit).
"""

from __future__ import annotations

from bethink.verify.compare import ExactJudge, same
from bethink.verify.extract import reference
from bethink.verify.forms import MAX_CHARACTERS, read
from bethink.verify.pool import Done
from bethink.verify.verdict import Outcome, Verdict

JOB = "bethink.verify.symbolic:judge"

_EXACT = ExactJudge()


def decide(gold: str, answer: str) -> Verdict | None:
    """The verdict, where exact comparison can give it; None where `JOB` must."""
    gold = reference(gold)
    if not gold.strip() or len(gold) > MAX_CHARACTERS:
        detail = "no reference answer" if not gold.strip() else "the reference answer is too long to be one"
        return Verdict(Outcome.GRADER_ERROR, answer, detail)
    if len(answer) > MAX_CHARACTERS:
        return Verdict(Outcome.WRONG, answer, "too long to be an answer")
    equal = same(read(gold), read(answer), _EXACT)
    return None if equal is None else _verdict(answer, equal, "exact")


def conclude(answer: str, done: Done) -> Verdict:
    """The verdict from what became of `JOB`."""
    if done.error is not None:
        return Verdict(Outcome.GRADER_ERROR, answer, done.error)
    if done.value == "gold unreadable":
        return Verdict(Outcome.GRADER_ERROR, answer, "the reference answer cannot be parsed")
    if done.value == "answer unreadable":
        return Verdict(Outcome.WRONG, answer, "cannot be read as mathematics")
    return _verdict(answer, done.value == "equal", "math-verify")


def _verdict(answer: str, equal: bool, how: str) -> Verdict:
    outcome = Outcome.CORRECT if equal else Outcome.WRONG
    return Verdict(outcome, answer, how, score=float(equal))
