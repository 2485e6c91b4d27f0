"""Input files, and their rows in blocks that workers take.

Knows file formats and where rows begin; not what is in them. A plain JSON Lines file is cut by bytes and read by the workers
themselves; a compressed one or Parquet cannot be entered in the middle, so the caller's process unpacks it and hands out the rows.
Blocks come in the order of the rows. A file that breaks off ends with a `Fault` and the next one is read.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from bethink.core.errors import DataError
from bethink.curate.schema import COLUMNS, Drop

LONGEST_LINE = 32 << 20
"""Bytes. A line beyond this is not held in memory but counted as unreadable."""

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_COMPRESSIONS = {".gz": "gz", ".zst": "zst"}
_SKIP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read. label: what rows of it are called, its path below the input it was found under; size: bytes on disk."""

    path: Path
    label: str
    format: str
    compression: str | None
    size: int


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
    """Consecutive rows of one file. index: its place among all blocks; file: index of its file; size: bytes of input it stands for."""

    index: int
    file: int
    rows: ByteRange | list[Row]
    size: int


def find_inputs(
    paths: Sequence[Path], include: Sequence[str] = (), *, exclude: Path | None = None
) -> list[InputFile]:
    """The files to read: those named, and those in the directories named, sorted within each and in the order given.

    include: keep files whose name contains one of these; exclude: a directory to stay out of.
    Raises DataError for a path that does not exist or has no known format, and when nothing is left.
    """
    found: dict[Path, tuple[Path, str]] = {}
    left_out: list[str] = []
    for root in paths:
        for path, label in _files_under(root):
            if exclude is not None and path.resolve().is_relative_to(exclude.resolve()):
                continue
            if include and not any(text in path.name for text in include):
                left_out.append(path.name)
            elif path.resolve() not in found:
                found[path.resolve()] = (path, label)
    if not found:
        looked = ", ".join(str(path) for path in paths)
        if left_out:
            names = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
            raise DataError(
                f"no input file's name contains {' or '.join(include)}",
                where=looked,
                fix=f"change --include or leave it out; the files there are {names}",
            )
        raise DataError("no input files", where=looked, fix=f"known formats: {_known_formats()}")
    uses = Counter(label for _, label in found.values())
    return [
        InputFile(path, label if uses[label] == 1 else path.as_posix(), *_format(path), path.stat().st_size)
        for path, label in found.values()
    ]


def _files_under(root: Path) -> Iterator[tuple[Path, str]]:
    root = root.expanduser()
    if root.is_file():
        if _format(root)[0] == "unknown":
            raise DataError(
                "not a known file format", where=str(root), fix=f"known formats: {_known_formats()}"
            )
        yield root, root.name
    elif root.is_dir():
        for path in sorted(root.rglob("*")):
            label = path.relative_to(root)
            hidden = any(part.startswith(".") for part in label.parts)
            if path.is_file() and not hidden and _format(path)[0] != "unknown":
                yield path, label.as_posix()
    else:
        raise DataError("the input does not exist", where=str(root), fix="check --input")


def _format(path: Path) -> tuple[str, str | None]:
    compression = _COMPRESSIONS.get(path.suffix.lower())
    inner = Path(path.stem) if compression else path
    return _SUFFIXES.get(inner.suffix.lower(), "unknown"), compression


def _known_formats() -> str:
    return f"{', '.join(_SUFFIXES)}, each plain or with {' or '.join(_COMPRESSIONS)}"


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
                yield Block(index, number, ByteRange(file.path, start, stop), stop - start)
                index += 1
            continue
        for found, size in _unpacked(file, block_bytes, columns):
            rows_of_block = found if left is None else found[:left]
            left = None if left is None else left - len(rows_of_block)
            yield Block(index, number, rows_of_block, size)
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
    except (EOFError, OSError, zlib.error, ValueError) as error:
        block.append(Drop("unreadable_file", _one_line(error)))
    if block:
        yield block, max(file.size - reported, 0)


def _compressed_lines(file: InputFile) -> Iterator[tuple[Row, int, int]]:
    with open(file.path, "rb") as raw, _decompressed(raw, file) as stream:
        while (line := _next_line(stream)) is not None:
            yield line, len(line) if isinstance(line, bytes) else 0, raw.tell()


@contextmanager
def _decompressed(raw: BinaryIO, file: InputFile) -> Iterator[IO[bytes]]:
    if file.compression == "gz":
        with gzip.open(raw, "rb") as unpacked:
            yield cast("IO[bytes]", unpacked)
        return
    yield io.BufferedReader(_ZstdStream(raw), 1 << 20)


class _ZstdStream(io.RawIOBase):
    """Unpacks a zstd file of any number of frames; raises OSError where it is damaged and EOFError where it is cut off."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self._raw = raw
        self._packed = b""
        self._error = zstandard.ZstdError
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            packed = self._packed or self._raw.read(1 << 17)
            if not packed:
                if self._frame is not None:
                    raise EOFError("the compressed file is cut off")
                return 0
            self._frame = self._frame or self._new_frame()
            try:
                self._ready = self._frame.decompress(packed)
            except self._error as error:
                raise OSError(str(error)) from error
            self._packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        size = min(len(target), len(self._ready))
        target[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


def _parquet_rows(file: InputFile, columns: Sequence[str]) -> Iterator[tuple[Row, int, int]]:
    import tempfile

    import pyarrow.parquet as pq

    with tempfile.TemporaryFile() as whole, open(file.path, "rb") as raw:
        source: IO[bytes] = raw
        if file.compression:  # Parquet is read from its end: a compressed one has to be unpacked first
            with _decompressed(raw, file) as stream:
                while chunk := stream.read(1 << 20):
                    whole.write(chunk)
            source = cast("IO[bytes]", whole)
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
