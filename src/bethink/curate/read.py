"""Input files, and their rows in blocks that workers take.

Knows file formats and where rows begin; not what is in them. A plain JSON Lines file is cut by bytes and read by the workers
themselves; a compressed one or Parquet cannot be entered in the middle, so the caller's process unpacks it and hands out the rows.
Blocks come in the order of the rows. A file that breaks off ends with a `Fault` and the next one is read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from bethink.core.console import note
from bethink.core.errors import DataError
from bethink.core.packed import DAMAGED, file_format, known_formats, seekable, unpacked
from bethink.curate.schema import COLUMNS, Drop

LONGEST_LINE = 32 << 20
"""Bytes. A line beyond this is not held in memory but counted as unreadable."""

_SKIP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read. label: what rows of it are called, its path below the input it was found under; size: bytes on disk; input: index of
    that input, the first of several."""

    path: Path
    label: str
    format: str
    compression: str | None
    size: int
    input: int = 0


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The lines of a plain file that begin in [start, end)."""

    path: Path
    start: int
    end: int


Row = bytes | dict[str, Any] | Drop
"""A row as it is found: a line, a record, or why neither could be had."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of one file. index: its place among all blocks; file: index of its file; size: bytes of input it stands for;
    input: index of the input the file was found under."""

    index: int
    file: int
    rows: ByteRange | list[Row]
    size: int
    input: int = 0


def find_inputs(
    paths: Sequence[Path], include: Sequence[str] = (), *, exclude: Path | None = None
) -> list[InputFile]:
    """The files to read: those named, and those in the directories named, sorted within each and in the order given.

    include: keep files whose name contains one of these; exclude: a directory to stay out of. What is passed over in a directory,
    being of no known format, is noted on stderr.
    Raises DataError for a path that does not exist, cannot be read or has no known format, and when nothing is left.
    """
    found: dict[Path, tuple[Path, str, int]] = {}
    left_out: list[str] = []
    strange: list[str] = []
    for path, label, root in _files_under(paths):
        real = Path(os.path.realpath(path))
        if exclude is not None and real.is_relative_to(os.path.realpath(exclude)):
            continue
        if include and not any(text in path.name for text in include):
            left_out.append(path.name)
        elif file_format(path)[0] == "unknown" or not path.is_file():
            strange.append(path.name)
        else:
            found.setdefault(real, (path, label, root))
    if not found:
        looked = ", ".join(str(path) for path in paths)
        if left_out:
            raise DataError(
                f"no input file's name contains {' or '.join(include)}",
                where=looked,
                fix=f"change --include or leave it out; the files there are {_some(left_out)}",
            )
        there = f"; the files there are {_some(strange)}" if strange else ""
        raise DataError("no input files", where=looked, fix=f"known formats: {known_formats()}{there}")
    if strange:
        note(f"not read, being of no known format: {_some(strange)}")
    uses = Counter(label for _, label, _ in found.values())
    return [
        InputFile(
            path,
            _printable(label if uses[label] == 1 else path.as_posix()),
            *file_format(path),
            path.stat().st_size,
            root,
        )
        for path, label, root in found.values()
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return _printable(", ".join(names[:5])) + more


def _printable(name: str) -> str:
    """A file's name as UTF-8 can write it."""
    return os.fsencode(name).decode(errors="replace")


def _files_under(roots: Sequence[Path]) -> Iterator[tuple[Path, str, int]]:
    """The files that `roots` are or hold, what rows of each are called, and the root's index; in a directory hidden ones are left out."""
    try:
        for index, root in enumerate(root.expanduser() for root in roots):
            if root.is_file():
                if file_format(root)[0] == "unknown":
                    raise DataError(
                        "not a known file format", where=str(root), fix=f"known formats: {known_formats()}"
                    )
                yield root, root.name, index
            elif root.is_dir():
                yield from ((path, path.relative_to(root).as_posix(), index) for path in _walk(root))
            else:
                raise DataError("the input does not exist", where=str(root), fix="check --input")
    except OSError as error:
        raise DataError(
            f"the input cannot be read: {error.strerror}", where=str(error.filename), fix="check --input"
        ) from error
    except RuntimeError as error:
        raise DataError(f"the input does not exist: {error}", fix="check --input") from error


def _walk(root: Path) -> list[Path]:
    """All files below `root`, in the order of their paths. Links are followed; no directory is entered twice. Raises OSError."""

    def stop(error: OSError) -> None:
        raise error

    files: list[Path] = []
    entered = {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, onerror=stop, followlinks=True):
        files += (Path(folder, name) for name in names if not name.startswith("."))
        inside = sorted(name for name in folders if not name.startswith("."))
        folders.clear()
        for name in inside:
            real = os.path.realpath(Path(folder, name))
            if real not in entered:
                entered.add(real)
                folders.append(name)
    return sorted(files)


def plan_blocks(
    files: Sequence[InputFile], block_bytes: int, *, limit: int | None = None, columns: Sequence[str] = ()
) -> Iterator[Block]:
    """All rows of `files` in blocks of about `block_bytes` bytes, in order. Unpacks compressed files as it goes.

    limit: stop after this many rows; columns: what to read of Parquet files beside the columns of the schema.
    """
    index, left = 0, limit
    for number, file in enumerate(files):
        if left == 0:
            return
        if file.format == "jsonl" and file.compression is None:
            end, rows = (file.size, 0) if left is None else _end_of_line(file.path, left)
            left = None if left is None else left - rows
            for start in range(0, end, block_bytes):
                stop = min(start + block_bytes, end)
                yield Block(index, number, ByteRange(file.path, start, stop), stop - start, file.input)
                index += 1
            continue
        for found, size in _unpacked(file, block_bytes, columns):
            rows_of_block = found if left is None else found[:left]
            left = None if left is None else left - len(rows_of_block)
            yield Block(index, number, rows_of_block, size, file.input)
            index += 1
            if left == 0:
                break


def read_rows(block: Block) -> Iterable[Row]:
    """The rows of a block, in order."""
    return _lines_of(block.rows) if isinstance(block.rows, ByteRange) else block.rows


def _lines_of(part: ByteRange) -> Iterator[Row]:
    try:
        yield from _lines_between(part)
    except OSError as error:
        yield Drop("unreadable_file", _one_line(error))


def _lines_between(part: ByteRange) -> Iterator[Row]:
    with open(part.path, "rb") as handle:
        if part.start > 0:
            # The line that holds the byte before ours is another block's, unless it ends there.
            handle.seek(part.start - 1)
            while not handle.readline(_SKIP_BYTES).endswith(b"\n"):
                if handle.tell() >= part.end:
                    return
        while handle.tell() < part.end:
            line = _next_line(handle)
            if line is None:
                return
            yield line


def _next_line(handle: BinaryIO | IO[bytes]) -> bytes | Drop | None:
    """The next line without its end; None at the end of the file. Raises what a broken compressed stream raises."""
    line = handle.readline(LONGEST_LINE)
    if not line:
        return None
    if line.endswith(b"\n") or len(line) < LONGEST_LINE:
        return line.rstrip(b"\r\n")
    length = len(line)
    while not line.endswith(b"\n") and (line := handle.readline(_SKIP_BYTES)):
        length += len(line)
    return Drop("line_too_long", f"{length:,} bytes")


def _end_of_line(path: Path, lines: int) -> tuple[int, int]:
    """The byte after line number `lines` (or the end of the file), and how many lines stand before it."""
    offset = seen = 0
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            here = chunk.count(b"\n")
            if seen + here >= lines:
                position = -1
                for _ in range(lines - seen):
                    position = chunk.index(b"\n", position + 1)
                return offset + position + 1, lines
            seen, offset, last = seen + here, offset + len(chunk), chunk[-1:]
    return offset, seen + (1 if offset and last != b"\n" else 0)


def _unpacked(file: InputFile, block_bytes: int, columns: Sequence[str]) -> Iterator[tuple[list[Row], int]]:
    """The rows of a compressed or Parquet file in blocks, each with the bytes on disk it stands for."""
    rows = _compressed_lines(file) if file.format == "jsonl" else _parquet_rows(file, columns)
    block: list[Row] = []
    size, reported, position = 0, 0, 0
    try:
        for row, row_size, position in rows:
            block.append(row)
            size += row_size
            if size >= block_bytes:
                yield block, max(position - reported, 0)
                block, size, reported = [], 0, max(position, reported)
    except (*DAMAGED, ValueError) as error:
        block.append(Drop("unreadable_file", _one_line(error)))
    if block:
        yield block, max(file.size - reported, 0)


def _compressed_lines(file: InputFile) -> Iterator[tuple[Row, int, int]]:
    with open(file.path, "rb") as raw, unpacked(raw, file.compression) as stream:
        while (line := _next_line(stream)) is not None:
            yield line, len(line) if isinstance(line, bytes) else 0, raw.tell()


def _parquet_rows(file: InputFile, columns: Sequence[str]) -> Iterator[tuple[Row, int, int]]:
    import pyarrow.parquet as pq

    with open(file.path, "rb") as raw, seekable(raw, file.compression) as source:
        table = pq.ParquetFile(source)
        wanted = [name for name in table.schema_arrow.names if name in {*COLUMNS, *columns}]
        total = max(table.metadata.num_rows, 1)
        done = 0
        for batch in table.iter_batches(batch_size=64, columns=wanted):
            size = batch.nbytes // max(len(batch), 1)
            for row in _records(batch):
                done += 1
                yield row, size, file.size * done // total


def _records(batch: Any) -> list[Row]:
    try:
        return cast("list[Row]", batch.to_pylist())
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            return [Drop("bad_utf8", f"byte {error.start}: {error.reason}")]
    return [row for index in range(len(batch)) for row in _records(batch.slice(index, 1))]


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
