"""Grading a JSON Lines file: rows in, the same rows with their verdicts out, in the same order.

A row that cannot be graded (not JSON, a column missing or of the wrong type, an unknown grader) never ends the run: it is left out of
the output and written to the rejects file with its line number and the reason. Memory does not grow with the file. The output appears
when it is whole.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bethink.core.config import nearest
from bethink.core.console import Progress
from bethink.core.errors import ConfigError, DataError, OutputError
from bethink.core.files import atomic_path, dump_line, explain_os_errors
from bethink.verify import gym
from bethink.verify.grade import KNOWN_GRADERS, GradeItem, grade_many
from bethink.verify.pool import DEFAULT_TIMEOUT, WorkerPool
from bethink.verify.verdict import Outcome, Verdict

_KINDS: dict[type[Any], str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
_META_COLUMNS = ("choices", "tolerance", "relative_tolerance", "case_sensitive", "entry", "config")


@dataclass
class Summary:
    """What was graded: how many rows of each grader got each outcome, and how many lines were rejected."""

    outcomes: dict[str, Counter[Outcome]] = field(default_factory=dict)
    rejected: int = 0

    @property
    def graded(self) -> int:
        return sum(counts.total() for counts in self.outcomes.values())

    def add(self, grader: str, verdict: Verdict) -> None:
        self.outcomes.setdefault(grader, Counter())[verdict.outcome] += 1


class _RowError(Exception):
    """A row that cannot be graded; the message says why."""


def rejects_path(output: Path) -> Path:
    """Where the rejected lines of `output` go."""
    return output.with_name(f"{output.stem}.rejects.jsonl")


def grade_file(
    source: Path,
    output: Path,
    *,
    grader: str | None = None,
    workers: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    overwrite: bool = False,
) -> Summary:
    """Grade `source` into `output`. grader: for rows that name none; timeout: seconds one answer may take.

    Raises ConfigError for an unknown `grader`, DataError for a source that cannot be read, OutputError for an output that exists (without `overwrite`) or cannot be
    written.
    """
    _check_paths(source, output, overwrite)
    summary = Summary()
    with ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(workers, timeout=timeout))
        lines = stack.enter_context(open(source, "rb"))
        written = stack.enter_context(open(stack.enter_context(atomic_path(output)), "w", encoding="utf-8"))
        rejects = _Rejects(rejects_path(output), stack)
        progress = stack.enter_context(Progress("grade", None))
        reader = _Reader(grader, pool)
        if grader is not None:
            try:
                reader.check_grader(grader)
            except _RowError as error:
                raise ConfigError(str(error), where="--grader") from None
        rows: deque[dict[str, Any]] = deque()

        def items() -> Iterator[GradeItem]:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row, item = reader.read(line)
                except _RowError as error:
                    summary.rejected += 1
                    rejects.write(number, str(error), line)
                    progress.advance(rejected=summary.rejected)
                    continue
                rows.append(row)
                yield item

        for verdict in grade_many(items(), pool=pool):
            row = rows.popleft()
            summary.add(row["grader"], verdict)
            found = {"verdict": verdict.outcome, "extracted": verdict.extracted, "detail": verdict.detail}
            with explain_os_errors(output):
                written.write(dump_line(row | found))
            progress.advance()
    if not summary.rejected:
        rejects_path(output).unlink(missing_ok=True)  # of an earlier run
    return summary


def _check_paths(source: Path, output: Path, overwrite: bool) -> None:
    if not source.exists():
        raise DataError("file not found", where=str(source))
    if not source.is_file():
        raise DataError("not a file", where=str(source), fix="name one JSON Lines file")
    if output.exists() and output.samefile(source):
        raise OutputError(
            "the output would replace the input", where=str(output), fix="choose another --output"
        )
    if output.is_dir():
        raise OutputError("the output is a directory", where=str(output), fix="name a file")
    if output.exists() and not overwrite:
        raise OutputError(
            "the output exists already", where=str(output), fix="choose another --output, or pass --overwrite"
        )


class _Rejects:
    """The rejects file, made when the first line goes into it and kept when all has gone well."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self._file: IO[str] | None = None

    def write(self, number: int, reason: str, line: bytes) -> None:
        if self._file is None:
            temporary = self._stack.enter_context(atomic_path(self._path))
            self._file = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
        excerpt = line[:200].decode("utf-8", errors="replace").strip()
        self._file.write(dump_line({"line": number, "reason": reason, "text": excerpt}))


class _Reader:
    """Turns lines into rows and items. Holds the generators' names once they have been asked for."""

    def __init__(self, grader: str | None, pool: WorkerPool) -> None:
        self._grader = grader
        self._pool = pool
        self._generators: list[str] | None = None

    def read(self, line: bytes) -> tuple[dict[str, Any], GradeItem]:
        """The row and what is to be graded. Raises _RowError."""
        row = _parse(line)
        row.setdefault("grader", self._grader)
        name = row["grader"]
        if not isinstance(name, str) or not name:
            raise _RowError("no `grader`: add the column, or pass --grader")
        self.check_grader(name)
        output = _column(row, "output", str)
        return row, GradeItem(
            answer=_answer(row),
            output=output,
            grader=name,
            meta=_meta(row),
            truncated=_flag(row, "truncated"),
            opened=_flag(row, "opened"),
        )

    def check_grader(self, name: str) -> None:
        """Raises _RowError for a name that is no grader and no reasoning-gym generator."""
        if name in KNOWN_GRADERS:
            return
        if self._generators is None:
            done = self._pool.submit(gym.NAMES_JOB).result()
            if done.error:
                raise _RowError(f"unknown grader `{name}` (and reasoning-gym cannot be asked: {done.error})")
            self._generators = done.value
        if name not in self._generators:
            guess = nearest(name, [*KNOWN_GRADERS, *self._generators])
            raise _RowError(f"unknown grader `{name}`" + (f", did you mean `{guess}`?" if guess else ""))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise _RowError(f"not valid UTF-8: {error.reason} at byte {error.start}") from None
    except UnicodeEncodeError:
        raise _RowError("a lone surrogate, which is no character") from None
    except (ValueError, RecursionError) as error:
        raise _RowError(f"not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise _RowError(f"expected an object, found {_kind(row)}")
    return row


def _kind(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    return "null" if value is None else _KINDS[type(value)]


def _column(row: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    if name not in row:
        raise _RowError(f"no `{name}`")
    if not isinstance(row[name], kind):
        raise _RowError(f"`{name}` must be {_KINDS[kind]}, found {_kind(row[name])}")
    return row[name]


def _answer(row: Mapping[str, Any]) -> str:
    answer = _column(row, "answer", object)
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise _RowError(f"`answer` must be text or a number, found {_kind(answer)}")
    if not str(answer).strip():
        raise _RowError("`answer` is empty")
    return str(answer)


def _flag(row: Mapping[str, Any], name: str) -> bool:
    return bool(_column(row, name, bool)) if row.get(name) is not None else False


def _meta(row: Mapping[str, Any]) -> dict[str, Any]:
    """The `meta` column and the columns that may stand beside it."""
    meta = dict(_column(row, "meta", dict)) if row.get("meta") is not None else {}
    return meta | {name: row[name] for name in _META_COLUMNS if row.get(name) is not None}
