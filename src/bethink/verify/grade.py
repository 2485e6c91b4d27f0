"""One completion against one reference answer: the verdict.

Takes the answer out of the completion (`extract`), hands it to the grader the problem names, and keeps the model's failures apart from
ours. Exact comparison happens in this process; what may hang or crash goes to a `WorkerPool`,
programs to `Sandboxes`.

truncated or not: a completion cut at the token limit is judged when it had committed to an answer by then, else it is `truncated`; one
that ended by itself without an answer is `no_answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from bethink.chat.parse import Status
from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat
from bethink.tasks.problem import NO_GRADER, Problem
from bethink.verify import choice, exact, gym, math
from bethink.verify.code import grader as code
from bethink.verify.code.pool import Sandboxes, shared_sandboxes
from bethink.verify.extract import Commitment, answer_text, committed
from bethink.verify.pool import DEFAULT_TIMEOUT, Done, WorkerPool, in_order, shared_pool
from bethink.verify.verdict import Outcome, Verdict

KNOWN_GRADERS = ("math", "choice", "exact", "numeric", "reasoning_gym", "code", NO_GRADER)
"""The graders by name; any other name is a reasoning-gym generator's."""

_AHEAD_PER_WORKER = 64


@dataclass(frozen=True, slots=True)
class GradeItem:
    """One completion to grade.

    answer: the reference answer (of a coding problem nothing is made of it); output: the completion's text without its end-of-turn token; grader: one of KNOWN_GRADERS or a
    generator's name; meta: what the grader wants beside (choices, tolerance, the reasoning-gym entry, the tests); truncated: the completion was
    cut at the token limit; opened: the prompt opened the think block.
    """

    answer: str
    output: str
    grader: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    truncated: bool = False
    opened: bool = False


def grade(
    problem: Problem,
    output: str,
    *,
    truncated: bool = False,
    opened: bool = False,
    pool: WorkerPool | None = None,
    sandboxes: Sandboxes | None = None,
    think: ThinkFormat = DEFAULT_FORMAT,
) -> Verdict:
    """The verdict on one completion of a problem. pool: where slow graders run, sandboxes: where programs run; by default one of each
    shared by the whole process. Raises PreflightError for a program where there is no sandbox."""
    item = as_item(problem, output, truncated=truncated, opened=opened)
    return grade_item(item, pool=pool, sandboxes=sandboxes, think=think)


def as_item(problem: Problem, output: str, *, truncated: bool = False, opened: bool = False) -> GradeItem:
    """A problem and a completion of it, as an item for `grade_many`."""
    meta = problem.meta
    if problem.grader == "reasoning_gym" and "generator" not in meta:
        meta = {**meta, "generator": gym.generator(meta, problem.task)}
    return GradeItem(problem.answer, output, problem.grader, meta, truncated, opened)


def grade_item(
    item: GradeItem,
    *,
    pool: WorkerPool | None = None,
    sandboxes: Sandboxes | None = None,
    think: ThinkFormat = DEFAULT_FORMAT,
) -> Verdict:
    """The verdict on one item."""
    started = _start(item, think, lambda: pool or shared_pool(), lambda: sandboxes or shared_sandboxes())
    return started.result() if isinstance(started, Future) else started


def grade_many(
    items: Iterable[GradeItem],
    workers: int | None = None,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    pool: WorkerPool | None = None,
    sandboxes: Callable[[], Sandboxes] = shared_sandboxes,
    think: ThinkFormat = DEFAULT_FORMAT,
) -> Iterator[Verdict]:
    """The verdicts in the items' order; items are read as they are needed. workers: default all cores; timeout: seconds for one item
    that needs a worker. pool: used instead of one of its own, and left open; sandboxes: gives those for programs, asked when
    the first program is to be run."""
    with nullcontext(pool) if pool else WorkerPool(workers, timeout=timeout) as workers_pool:
        ahead = _AHEAD_PER_WORKER * workers_pool.workers
        yield from in_order(
            items, lambda item: _start(item, think, lambda: workers_pool, sandboxes), ahead=ahead
        )


def _start(
    item: GradeItem,
    think: ThinkFormat,
    pool: Callable[[], WorkerPool],
    sandboxes: Callable[[], Sandboxes],
) -> Verdict | Future[Verdict]:
    """The verdict, or the future of one where a worker has to be asked."""
    if item.grader == NO_GRADER:
        return Verdict(Outcome.NOT_JUDGED, None, "the problem has no grader")
    text, status = answer_text(item.output, think=think, opened=item.opened)
    if status is Status.UNCLOSED:
        return _missing(item, "the thinking never ended")
    if item.grader == "code":
        return code.judge(text, item.meta, sandboxes, truncated=item.truncated)
    if item.grader == "choice":
        return choice.judge(item.answer, text, item.meta, truncated=item.truncated) or _missing(
            item, "no letter committed"
        )
    like = "" if item.grader in ("math", "numeric") else item.answer
    found = committed(text, truncated=item.truncated, like=like) or _whole_block(item, text)
    if found is None:
        return _missing(item, "no answer committed")
    match item.grader:
        case "exact":
            return exact.judge_exact(item.answer, (found.text, found.block), item.meta)
        case "numeric":
            return exact.judge_numeric(item.answer, found.text, item.meta)
        case "math":
            verdict = math.decide(item.answer, found.text)
            if verdict is not None:
                return verdict
            return _later(
                pool().submit(math.JOB, item.answer, found.text), lambda done: math.conclude(found.text, done)
            )
        case _:
            return _by_generator(item, found, pool)


def _by_generator(
    item: GradeItem, found: Commitment, pool: Callable[[], WorkerPool]
) -> Verdict | Future[Verdict]:
    name = gym.generator(item.meta, "" if item.grader == "reasoning_gym" else item.grader)
    if not name:
        return Verdict(Outcome.GRADER_ERROR, found.text, "the problem does not name its generator")
    answers = (found.text, found.block)
    if verdict := gym.decide(item.answer, answers):
        return verdict
    entry = gym.entry(item.meta, item.answer)
    job = pool().submit(gym.JOB, name, item.meta.get("config"), entry, gym.spellings(answers))
    return _later(job, lambda done: gym.conclude(found.text, done))


def _missing(item: GradeItem, why: str) -> Verdict:
    return Verdict(Outcome.TRUNCATED if item.truncated else Outcome.NO_ANSWER, None, why)


def _whole_block(item: GradeItem, text: str) -> Commitment | None:
    """A text of several lines that is nothing but the answer: it has as many lines as the reference."""
    block = text.strip()
    lines = item.answer.strip().count("\n")
    if item.truncated or item.grader in ("math", "numeric") or not lines or block.count("\n") != lines:
        return None
    return Commitment(block, block, strong=False, closed=True, start=0)


def _later(job: Future[Done], conclude: Callable[[Done], Verdict]) -> Future[Verdict]:
    """The future of `conclude` on the job's result."""
    verdict: Future[Verdict] = Future()

    def finish(done: Future[Done]) -> None:
        if not verdict.set_running_or_notify_cancel():
            return
        if not done.cancelled() and (error := done.exception()):
            verdict.set_exception(error)
        else:
            verdict.set_result(conclude(Done(error="cancelled") if done.cancelled() else done.result()))

    job.add_done_callback(finish)
    return verdict
