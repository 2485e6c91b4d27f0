"""A majority vote in place of a reference answer, for problems that have none.

As in the data of Llama-Nemotron (arXiv 2505.00949, section 3.1): many answers are drawn to a problem, and what most of them come to is
taken for right. Which answers are the same is `verify`'s business, as it is when there is a reference: 1/2 and 0.5 are one answer.

The vote is over the answers with thinking where there are any, since those are the better ones; afterwards the answers of every mode are
judged by what was voted for. A tie decides nothing, nor does a majority of fewer than the share asked for of all answers that were
drawn, those that were cut or committed to nothing included.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from bethink.chat.toggle import Mode, ThinkFormat
from bethink.evaluate.plan import Key
from bethink.evaluate.samples import Row, key_of
from bethink.tasks.problem import Problem
from bethink.verify import choice, exact, math
from bethink.verify.extract import answer_text
from bethink.verify.pool import WorkerPool
from bethink.verify.verdict import Outcome

GRADERS = ("math", "numeric", "exact", "choice")
"""Whose answers can be compared with each other."""

ProblemKey = tuple[str, str]
"""(task, problem id)."""


@dataclass(frozen=True, slots=True)
class Vote:
    """answer: as most of those who gave it wrote it; share: theirs of all answers drawn."""

    answer: str
    share: float


@dataclass(frozen=True, slots=True)
class Election:
    """problems: all, with the answers that were voted for. votes: by problem. right: of each answer that said something to a problem that
    was decided, whether it is what was voted for."""

    problems: dict[ProblemKey, Problem]
    votes: dict[ProblemKey, Vote] = field(default_factory=dict)
    right: dict[Key, bool] = field(default_factory=dict)

    def judged(self, row: Row) -> Row:
        """The row with the vote's verdict, where there is one."""
        right = self.right.get(key_of(row)) if self.right else None
        if right is None:
            return row
        answer = self.votes[row["task"], row["id"]].answer
        verdict = Outcome.CORRECT if right else Outcome.WRONG
        return {**row, "answer": answer, "verdict": str(verdict), "detail": "by majority vote"}


class _Ballot(NamedTuple):
    """What an answer committed to; None where that is nothing that could be right."""

    key: Key
    mode: str
    said: str | None


def needs_vote(problem: Problem) -> bool:
    """Whether nothing says which answer is right."""
    return problem.grader in GRADERS and not problem.answer.strip()


def elect(
    problems: dict[ProblemKey, Problem],
    answers: Iterable[Row],
    least: float,
    *,
    think: ThinkFormat,
    workers: int | None = None,
) -> Election:
    """Vote on every problem that has no answer. least: the share of a problem's answers that must agree; workers: processes for what is
    hard to compare. The same rows give the same votes; they are read once, and their texts not kept."""
    open_ones = {key: problem for key, problem in problems.items() if needs_vote(problem)}
    if not open_ones:
        return Election(problems)
    ballots: dict[ProblemKey, list[_Ballot]] = {key: [] for key in open_ones}
    for row in answers:
        if problem := open_ones.get((row["task"], row["id"])):
            ballots[problem.task, problem.id].append(
                _Ballot(key_of(row), row["mode"], _said(problem, row, think))
            )
    votes: dict[ProblemKey, Vote] = {}
    right: dict[Key, bool] = {}
    with WorkerPool(workers) as pool, ThreadPoolExecutor(pool.workers) as threads:
        found = threads.map(lambda key: _settle(open_ones[key], ballots[key], least, pool), list(open_ones))
        for key, (vote, judged) in zip(open_ones, found, strict=True):
            right |= judged
            if vote is not None:
                votes[key] = vote
    voted = {key: dataclasses.replace(problems[key], answer=vote.answer) for key, vote in votes.items()}
    return Election({**problems, **voted}, votes, right)


def majority(texts: Iterable[str], drawn: int, least: float, same: Callable[[str, str], bool]) -> Vote | None:
    """What most of the texts say. drawn: how many answers there are, with those that say nothing; same(reference, answer).

    Texts are put to the more common ones first, so that a group goes by its commonest spelling.
    """
    groups: dict[str, int] = {}
    for text, count in Counter(texts).most_common():
        known = next((reference for reference in groups if same(reference, text)), text)
        groups[known] = groups.get(known, 0) + count
    ranked = sorted(groups.values(), reverse=True)
    if not ranked or ranked[0] / drawn < least or (len(ranked) > 1 and ranked[0] == ranked[1]):
        return None
    return Vote(max(groups, key=groups.__getitem__), ranked[0] / drawn)


def _settle(
    problem: Problem, ballots: Sequence[_Ballot], least: float, pool: WorkerPool
) -> tuple[Vote | None, dict[Key, bool]]:
    """The vote on one problem, and which of its answers it takes for right; without a majority none is judged."""

    def same(reference: str, text: str) -> bool:
        return _same(problem, reference, text, pool)

    thought = any(ballot.mode == Mode.ON for ballot in ballots)
    voters = [ballot.said for ballot in ballots if not thought or ballot.mode == Mode.ON]
    vote = majority([text for text in voters if text is not None], len(voters), least, same)
    if vote is None:
        return None, {}
    texts = dict.fromkeys(ballot.said for ballot in ballots if ballot.said is not None)
    right = {text: same(vote.answer, text) for text in texts}
    return vote, {ballot.key: right[ballot.said] for ballot in ballots if ballot.said is not None}


def _said(problem: Problem, row: Row, think: ThinkFormat) -> str | None:
    """The answer that a completion committed to; None where it is none that could be right."""
    if problem.grader == "choice":
        text, _ = answer_text(row["output"], think=think, opened=row["opened"])
        texts = choice.choice_texts(problem.meta)
        known = choice.labels(problem.meta, texts)
        return choice.committed_letter(text, known, texts, truncated=row["finish_reason"] == "length")
    found: str | None = row["extracted"]
    if found is None or (problem.grader == "numeric" and exact.number(found) is None):
        return None
    return found


def _same(problem: Problem, reference: str, text: str, pool: WorkerPool) -> bool:
    if reference == text:
        return True
    match problem.grader:
        case "math":
            verdict = math.decide(reference, text)
            if verdict is None:
                verdict = math.conclude(text, pool.submit(math.JOB, reference, text).result())
        case "numeric":
            verdict = exact.judge_numeric(reference, text, problem.meta)
        case "exact":
            verdict = exact.judge_exact(reference, (text,), problem.meta)
        case _:
            return False
    return verdict.correct
