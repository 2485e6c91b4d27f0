"""What a line of a file to be graded asks for: the row and the item made of it.

Knows the columns and what may stand in them. Reading the file and writing the verdicts is left to `grade_file`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from bethink.core.config import nearest
from bethink.core.numbers import decimal_text
from bethink.tasks.problem import NO_GRADER
from bethink.verify import exact, gym
from bethink.verify.code.tasks import TaskError, read_task
from bethink.verify.grade import KNOWN_GRADERS, GradeItem
from bethink.verify.pool import WorkerPool

_KINDS: dict[type[Any], str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
_META_COLUMNS = ("choices", "tolerance", "relative_tolerance", "case_sensitive", "entry", "config")


class RowError(Exception):
    """A row that cannot be graded; the message says why."""


class RowReader:
    """Turns lines into rows and items. Holds the generators' names once they have been asked for.

    grader: for rows that name none.
    """

    def __init__(self, grader: str | None, pool: WorkerPool) -> None:
        self._grader = grader
        self._pool = pool
        self._generators: list[str] | None = None

    def read(self, line: bytes) -> tuple[dict[str, Any], GradeItem]:
        """The row and what is to be graded. Raises RowError."""
        row = _parse(line)
        if row.get("grader") is None:
            row["grader"] = self._grader
        name = row["grader"]
        if not isinstance(name, str) or not name:
            raise RowError("no `grader`: add the column, or pass --grader")
        self.check_grader(name)
        return row, GradeItem(
            answer=str(row.get("answer") or "") if name in ("code", NO_GRADER) else _answer(row),
            output=_column(row, "output", str),
            grader=name,
            meta=_meta(row, name),
            truncated=_flag(row, "truncated"),
            opened=_flag(row, "opened"),
        )

    def check_grader(self, name: str) -> None:
        """Raises RowError for a name that is no grader and no reasoning-gym generator."""
        if name in KNOWN_GRADERS:
            return
        if self._generators is None:
            done = self._pool.submit(gym.NAMES_JOB).result()
            if done.error:
                raise RowError(f"unknown grader `{name}` (and reasoning-gym cannot be asked: {done.error})")
            self._generators = done.value
        if name not in self._generators:
            guess = nearest(name, [*KNOWN_GRADERS, *self._generators])
            raise RowError(f"unknown grader `{name}`" + (f", did you mean `{guess}`?" if guess else ""))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise RowError(f"not valid UTF-8: {error.reason} at byte {error.start}") from None
    except UnicodeEncodeError:
        raise RowError("a lone surrogate, which is no character") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise RowError(f"expected an object, found {_kind(row)}")
    return row


def _kind(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    return "null" if value is None else _KINDS[type(value)]


def _column(row: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    if name not in row:
        raise RowError(f"no `{name}`")
    if not isinstance(row[name], kind):
        raise RowError(f"`{name}` must be {_KINDS[kind]}, found {_kind(row[name])}")
    return row[name]


def _answer(row: Mapping[str, Any]) -> str:
    answer = _column(row, "answer", object)
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise RowError(f"`answer` must be text or a number, found {_kind(answer)}")
    if isinstance(answer, float) and not math.isfinite(answer):
        raise RowError(f"`answer` must be text or a number, found {decimal_text(answer)}")
    text = answer if isinstance(answer, str) else decimal_text(answer)
    if not text.strip():
        raise RowError("`answer` is empty")
    return text


def _flag(row: Mapping[str, Any], name: str) -> bool:
    return bool(_column(row, name, bool)) if row.get(name) is not None else False


def _meta(row: Mapping[str, Any], grader: str) -> dict[str, Any]:
    """The `meta` column and the columns that may stand beside it."""
    meta = dict(_column(row, "meta", dict)) if row.get("meta") is not None else {}
    meta |= {name: row[name] for name in _META_COLUMNS if row.get(name) is not None}
    if grader == "numeric":
        try:
            exact.tolerances(meta)
        except ValueError as error:
            raise RowError(str(error)) from None
    if grader == "code":
        try:
            read_task(meta)
        except TaskError as error:
            raise RowError(str(error)) from None
    return meta
