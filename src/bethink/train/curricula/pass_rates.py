"""Pass rates measured before training, matched with the problems they were measured on.

A file holds one row a problem: `pass_rate`, the share of its completions that were correct, and `id`, `question` or both; where `task` is
there, too, the id is one of that task. Whatever else a row holds is left to others.

Ids may be no more than places in a file (`row-7`), so an id counts only where the row's question, if it has one, is the problem's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bethink.core.errors import DataError
from bethink.core.rows import Unreadable, read_rows
from bethink.tasks.problem import Problem, question_key

_COLUMNS = ("id", "task", "question", "pass_rate")
_FIX = "write it with `bethink sample`: one row a problem with `id` and `pass_rate`"


@dataclass(frozen=True, slots=True)
class PassRates:
    """indices: of the problems that have a pass rate, in order; rates: of each of these; missing: how many problems have none."""

    indices: tuple[int, ...]
    rates: tuple[float, ...]
    missing: int


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    id: str | None
    task: str | None
    question: str | None
    rate: float


def read_pass_rates(path: Path, problems: Sequence[Problem]) -> PassRates:
    """The pass rates in a JSON Lines (or Parquet) file, by the problems' ids, else by their questions' texts.

    Rows of other problems are passed over. Raises DataError, with file and line, for a row that is none and for a problem that stands
    twice, and when no problem has a rate.
    """
    by_id: dict[tuple[str | None, str], _Row] = {}
    by_question: dict[str, _Row] = {}
    for where, value in read_rows(path, columns=_COLUMNS):
        row = _row(where, value)
        if row.id is not None:
            _once(by_id, (row.task, row.id), row, f"the problem `{row.id}`")
        if row.question is not None and row.id is None:
            _once(by_question, row.question, row, "this question")
        elif row.question is not None:
            by_question.setdefault(
                row.question, row
            )  # two tasks may share a question; their ids tell them apart
    found = []
    for index, problem in enumerate(problems):
        question = question_key(problem.question)
        named = by_id.get((problem.task, problem.id)) or by_id.get((None, problem.id))
        if named is None or named.question not in (None, question):
            named = by_question.get(question)
        if named is not None:
            found.append((index, named.rate))
    if not found:
        raise DataError(
            f"holds no pass rate of any of the {len(problems):,} problems",
            where=str(path),
            fix="sample the problems that are trained on: the same tasks, sizes and seed",
        )
    indices, rates = zip(*found, strict=True)
    return PassRates(indices, rates, missing=len(problems) - len(found))


def _row(where: str, value: Any) -> _Row:
    if not isinstance(value, dict):
        what = str(value) if isinstance(value, Unreadable) else "not an object"
        raise DataError(f"this row is no pass rate: {what}", where=where, fix=_FIX)
    rate = value.get("pass_rate")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        stated = f"`pass_rate` is {rate!r}" if "pass_rate" in value else "it has no `pass_rate`"
        raise DataError(
            f"this row is no pass rate: {stated}, not a number from 0 to 1", where=where, fix=_FIX
        )
    name, task, question = (value.get(key) for key in ("id", "task", "question"))
    if name is None and question is None:
        raise DataError("this row does not say of which problem: `id` is missing", where=where, fix=_FIX)
    return _Row(
        where,
        id=None if name is None else str(name),
        task=None if task is None else str(task),
        question=None if question is None else question_key(str(question)),
        rate=float(rate),
    )


def _once(known: dict[Any, _Row], key: Any, row: _Row, what: str) -> None:
    before = known.setdefault(key, row)
    if before is not row:
        raise DataError(
            f"{what} stands twice, with pass rates of {before.rate:g} and {row.rate:g}",
            where=f"{before.where} and {row.where}",
            fix="keep one row a problem",
        )
