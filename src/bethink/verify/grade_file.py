"""Grading a JSON Lines file: rows in, the same rows with their verdicts out, in the same order.

A line that cannot be graded never ends the run: it is left out of the output and written to the rejects file with its line number and
the reason (`grade_row`). Memory does not grow with the file. The output appears when it is whole; until then what is finished is kept in
a directory beside it, so that a killed run can go on and end with the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from bethink import __version__
from bethink.core.console import Progress, warn
from bethink.core.errors import ConfigError, DataError, OutputError
from bethink.core.files import claim_output, dump_line, explain_os_errors, only_process, read_jsonl
from bethink.verify.code.options import USUAL, CodeOptions
from bethink.verify.code.pool import Sandboxes
from bethink.verify.grade import GradeItem, grade_many
from bethink.verify.grade_row import RowError, RowReader
from bethink.verify.pool import DEFAULT_TIMEOUT, WorkerPool
from bethink.verify.verdict import Outcome


@dataclass
class Summary:
    """What was graded: how many rows of each grader got each outcome, and how many lines were rejected."""

    outcomes: dict[str, Counter[Outcome]] = field(default_factory=dict)
    rejected: int = 0

    @property
    def graded(self) -> int:
        return sum(counts.total() for counts in self.outcomes.values())

    def add(self, row: dict[str, Any]) -> None:
        """Count a row that has its verdict."""
        self.outcomes.setdefault(row["grader"], Counter())[Outcome(row["verdict"])] += 1


def rejects_path(output: Path) -> Path:
    """Where the rejected lines of `output` go."""
    return output.with_name(f"{output.stem}.rejects.jsonl")


def unfinished_path(output: Path) -> Path:
    """The directory that holds what is finished of `output` until all of it is."""
    return output.with_name(f"{output.name}.part")


def grade_file(
    source: Path,
    output: Path,
    *,
    grader: str | None = None,
    workers: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    overwrite: bool = False,
    resume: bool = False,
    code: CodeOptions = USUAL,
) -> Summary:
    """Grade `source` into `output`. grader: for rows that name none; timeout: seconds one answer may take that is no program; code: how programs
    are run; overwrite: replace an output and what is left of an unfinished run; resume: go on with that run.

    Raises ConfigError for an unknown `grader`, DataError for a source that cannot be read, OutputError for an output that exists (without
    `overwrite`), a run that cannot be resumed, or a disk that cannot be written, PreflightError for programs where there is no sandbox.
    """
    _check_paths(source, output, overwrite=overwrite, resume=resume)
    survey = _survey(source)
    with WorkerPool(workers, timeout=timeout) as pool, ExitStack() as stack:

        @cache
        def sandboxes() -> Sandboxes:
            return stack.enter_context(Sandboxes(workers, limits=code.code_limits, unsafe=code.unsafe_code))

        reader = RowReader(grader, pool)
        if grader is not None:
            try:
                reader.check_grader(grader)
            except RowError as error:
                raise ConfigError(str(error), where="--grader") from None
        settings = {
            "input_sha256": survey.sha256,
            "grader": grader,
            "timeout": timeout,
            **code.model_dump(exclude={"unsafe_code"}),
            "version": __version__,
        }
        with _Unfinished(output, settings, resume=resume) as unfinished:
            summary = _grade(source, survey.lines, reader, pool, sandboxes, unfinished)
            unfinished.finish(summary.rejected > 0)
    return summary


def _grade(
    source: Path,
    lines: int,
    reader: RowReader,
    pool: WorkerPool,
    sandboxes: Callable[[], Sandboxes],
    unfinished: _Unfinished,
) -> Summary:
    """Grade what is not finished yet of the source's lines."""
    summary = Summary()
    for row in unfinished.finished_rows():
        summary.add(row)
    finished = summary.graded
    waiting: deque[dict[str, Any]] = deque()

    with Progress("grade", lines, unit="lines", done=finished) as progress:

        def items() -> Iterator[GradeItem]:
            accepted = 0
            for number, line in _lines(source):
                try:
                    row, item = reader.read(line)
                except RowError as error:
                    summary.rejected += 1
                    unfinished.reject(number, str(error), line)
                    progress.advance(rejected=summary.rejected)
                    continue
                accepted += 1
                if accepted > finished:
                    waiting.append(row)
                    yield item

        try:
            for verdict in grade_many(items(), pool=pool, sandboxes=sandboxes):
                found = {
                    "verdict": verdict.outcome,
                    "extracted": verdict.extracted,
                    "detail": verdict.detail,
                }
                row = waiting.popleft() | found
                unfinished.keep(row)
                summary.add(row)
                progress.advance()
        except KeyboardInterrupt:
            if summary.graded:
                warn(f"interrupted with {summary.graded:,} rows finished; --resume goes on from there")
            raise
    return summary


@dataclass(frozen=True)
class _Survey:
    """A source's lines that are not empty, and the hash of its bytes."""

    lines: int
    sha256: str


def _survey(source: Path) -> _Survey:
    digest, count = hashlib.sha256(), 0
    for _, line in _lines(source, empty=True):
        digest.update(line)
        count += bool(line.strip())
    return _Survey(count, digest.hexdigest())


def _lines(source: Path, *, empty: bool = False) -> Iterator[tuple[int, bytes]]:
    """(number, line) of the lines that are not empty, or of all. Raises DataError when the file cannot be read."""
    with _explained(source), open(source, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if empty or line.strip():
                yield number, line


@contextmanager
def _explained(source: Path) -> Iterator[None]:
    """Turn the operating system's refusal to read `source` into a DataError."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"cannot be read: {reason}", where=str(source)) from error


def _check_paths(source: Path, output: Path, *, overwrite: bool, resume: bool) -> None:
    with _explained(source):
        if not source.exists():
            raise DataError("file not found", where=str(source))
        if not source.is_file():
            raise DataError("not a file", where=str(source), fix="name one JSON Lines file")
    for written in (output, rejects_path(output)):
        if written.exists() and written.samefile(source):
            raise OutputError(
                "the output would replace the input", where=str(written), fix="choose another --output"
            )
    if output.is_dir():
        raise OutputError("the output is a directory", where=str(output), fix="name a file")
    if output.exists() and not overwrite:
        raise OutputError(
            "the output exists already", where=str(output), fix="choose another --output, or pass --overwrite"
        )
    if unfinished_path(output).exists() and not resume:
        if not overwrite:
            raise OutputError(
                "an unfinished run is there",
                where=str(unfinished_path(output)),
                fix="go on with --resume, or begin again with --overwrite",
            )
        shutil.rmtree(unfinished_path(output))


class _Unfinished:
    """What a run has finished: a directory with its rows, appended one by one, and its rejected lines, written anew by every run.

    Leaves nothing behind when all has gone well or nothing was graded. settings: what decides the bytes.
    """

    def __init__(self, output: Path, settings: dict[str, Any], *, resume: bool) -> None:
        self._output = output
        self._directory = unfinished_path(output)
        self._rows, self._rejects = self._directory / "rows.jsonl", self._directory / "rejects.jsonl"
        claim_output(self._directory, resume=resume, fingerprint=settings)

    def __enter__(self) -> _Unfinished:
        with explain_os_errors(self._directory), ExitStack() as stack:
            stack.enter_context(only_process(self._directory))
            self._file = stack.enter_context(open(self._rows, "a+b"))
            self._rejected = stack.enter_context(open(self._rejects, "w", encoding="utf-8"))
            self._cut_half_line()
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if kind is None or not self._rows.exists() or not self._rows.stat().st_size:
            shutil.rmtree(self._directory)

    def _cut_half_line(self) -> None:
        """Take off what a kill left of a row."""
        whole = 0
        self._file.seek(0)
        for line in self._file:
            whole += len(line) if line.endswith(b"\n") else 0
        self._file.truncate(whole)

    def finished_rows(self) -> Iterator[dict[str, Any]]:
        """The rows an earlier run has finished."""
        return read_jsonl(self._rows)

    def keep(self, row: dict[str, Any]) -> None:
        """Write one finished row and hand it to the system."""
        with explain_os_errors(self._rows):
            self._file.write(dump_line(row).encode())
            self._file.flush()

    def reject(self, number: int, reason: str, line: bytes) -> None:
        """List a line that cannot be graded."""
        excerpt = line[:200].decode("utf-8", errors="replace").strip()
        with explain_os_errors(self._rejects):
            self._rejected.write(dump_line({"line": number, "reason": reason, "text": excerpt}))

    def finish(self, any_rejected: bool) -> None:
        """Put the whole files in their places; an earlier run's rejects go where this one has none."""
        with explain_os_errors(self._output):
            for file in (self._rejected, self._file):
                file.flush()
                os.fsync(file.fileno())
            if any_rejected:
                os.replace(self._rejects, rejects_path(self._output))
            else:
                rejects_path(self._output).unlink(missing_ok=True)
            os.replace(self._rows, self._output)
