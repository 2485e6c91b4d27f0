"""Reading a row by the names of its columns, and what a layout makes of one.

A fault is said in words that name the key; reading files and naming the line is left to `tasks/files.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from bethink.core.numbers import decimal_text
from bethink.tasks.problem import NO_GRADER

Row = dict[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class RowError(Exception):
    """A row that is no problem: what is wrong with it, in words that name the key."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A row's meaning. id: the row's own identifier, if it has one; working: how the answer is come to, where the row says it."""

    question: str
    answer: str
    grader: str
    id: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    working: str | None = None


MappingFunction = Callable[[Row], Mapped]


@dataclass(frozen=True)
class ColumnMapping:
    """A user's own layout, by column names.

    question: text, or a list of chat messages whose last user message is the question; choices: a list of texts (then `answer` is
    a letter, a 0-based index or the text of one of them); grader: one for all rows, or None to read the column "grader"; working: a text
    that comes to the answer. An answer's column that ends in `?` may be missing, null or empty: such a problem has no answer ("").
    Where the grader is `none` no answer is read.
    """

    question: str = "question"
    answer: str = "answer"
    grader: str | None = None
    choices: str | None = None
    id: str | None = None
    working: str | None = None

    def __call__(self, row: Row) -> Mapped:
        question = text(row, self.question)
        own = text(row, self.id) if self.id else identifier(row, "id")
        column = self.answer.removesuffix("?")
        given = row.get(column)
        judged = (self.grader or row.get("grader")) != NO_GRADER
        unanswered = not judged or (column != self.answer and (given is None or not str(given).strip()))
        if self.choices:
            options = texts(row, self.choices)
            letter = "" if unanswered else letter_of(row, column, options)
            found = choice(question, options, letter, id=own)
            found = found if judged else replace(found, grader=NO_GRADER)
        else:
            answer = "" if unanswered else text(row, column)
            found = Mapped(question, answer, self.grader or text(row, "grader"), own)
        return replace(found, working=text(row, self.working)) if self.working else found


def value(row: Row, *names: str) -> Any:
    """The first of the named columns that the row has with a value. Raises RowError."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    wanted = f"`{names[0]}`" if len(names) == 1 else f"any of {', '.join(f'`{n}`' for n in names)}"
    null = [name for name in names if name in row]
    raise RowError(
        f"`{null[0]}` is null" if null else f"has no {wanted} (its keys: {', '.join(row) or 'none'})"
    )


def text(row: Row, *names: str) -> str:
    """Like `value`, for a non-empty text or a number, as text."""
    found = value(row, *names)
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise RowError(f"`{_name(row, names)}` must be a text, not {type(found).__name__}")
    written = _written(found)
    if not written.strip():
        raise RowError(f"`{_name(row, names)}` is empty")
    return written


def texts(row: Row, *names: str) -> list[str]:
    """Like `value`, for a list of at least two texts."""
    found = value(row, *names)
    if not isinstance(found, list | tuple) or len(found) < 2 or len(found) > len(LETTERS):
        raise RowError(f"`{_name(row, names)}` must be a list of 2 to {len(LETTERS)} texts")
    if not all(isinstance(item, str | int | float) for item in found):
        raise RowError(f"`{_name(row, names)}` holds something that is not a text")
    return [_written(item) for item in found]


def _written(item: str | int | float) -> str:
    if isinstance(item, float) and not isfinite(item):
        raise RowError(f"{item} is no number to answer with")
    return item if isinstance(item, str) else decimal_text(item)


def _name(row: Row, names: Sequence[str]) -> str:
    return next(name for name in names if row.get(name) is not None)


def identifier(row: Row, *names: str) -> str | None:
    """The first of the named columns that holds a text or a whole number, if any."""
    return next((str(row[name]) for name in names if isinstance(row.get(name), str | int)), None)


def letter_of(row: Row, name: str, options: Sequence[str]) -> str:
    """The letter of the right choice, from a letter, a 0-based index, or the text of one of the choices."""
    given = value(row, name)
    if isinstance(given, int) and not isinstance(given, bool):
        if 0 <= given < len(options):
            return LETTERS[given]
    elif isinstance(given, str):
        stripped = given.strip()
        if len(stripped) == 1 and stripped.upper() in LETTERS[: len(options)]:
            return stripped.upper()
        if list(options).count(given) == 1:
            return LETTERS[list(options).index(given)]
    raise RowError(f"`{name}` is {given!r}: not one of the {len(options)} choices")


def choice(
    question: str, options: Sequence[str], letter: str, *, id: str | None = None, **meta: Any
) -> Mapped:
    """A multiple-choice problem: the choices as lettered lines under the question."""
    lines = "\n".join(f"{mark}. {option}" for mark, option in zip(LETTERS, options, strict=False))
    return Mapped(f"{question.strip()}\n\n{lines}", letter, "choice", id, {**meta, "choices": list(options)})
