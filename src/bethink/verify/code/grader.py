"""A completion of a coding problem → its verdict: find the program in the answer, run it in a sandbox, judge what it gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from bethink.verify.code.block import program
from bethink.verify.code.pool import Sandboxes
from bethink.verify.code.run import Result, run
from bethink.verify.code.sandbox import Status
from bethink.verify.code.tasks import TaskError, complete, read_task
from bethink.verify.verdict import Outcome, Verdict

_OUTCOMES = {Status.OK: Outcome.CORRECT, Status.INFRA_ERROR: Outcome.GRADER_ERROR}
"""Every other status is the program's own fault."""


def judge(
    text: str, meta: Mapping[str, Any], sandboxes: Callable[[], Sandboxes], *, truncated: bool = False
) -> Verdict | Future[Verdict]:
    """The verdict on an answer, or the future of it.

    text: the answer without its thinking; meta: the problem's, as `tasks.read_task` reads it; sandboxes: where programs run, asked for when
    there is a program to run.
    """
    block = program(text)
    if block is None:
        return Verdict(
            Outcome.TRUNCATED if truncated else Outcome.NO_ANSWER, None, "no code block in the answer"
        )
    if truncated and not block.closed:
        return Verdict(Outcome.TRUNCATED, None, "the code was cut")
    try:
        task = read_task(meta)
    except TaskError as error:
        return Verdict(Outcome.GRADER_ERROR, block.code, str(error))
    whole = complete(task, block.code)
    return sandboxes().submit(lambda pool: _verdict(run(task, whole, pool), block.code))


def _verdict(result: Result, code: str) -> Verdict:
    outcome = _OUTCOMES.get(result.status, Outcome.WRONG)
    detail = result.detail if result.status is Status.OK else f"{result.status}: {result.detail}"
    return Verdict(outcome, code, detail, float(outcome is Outcome.CORRECT))
