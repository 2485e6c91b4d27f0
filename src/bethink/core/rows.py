"""The rows of JSON Lines and Parquet files, each with its place.

For whoever reads a file from its beginning to its end in one process. Knows how to say where a row stands and why there is none; what
the columns mean is left to others.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from bethink.core.errors import DataError
from bethink.core.packed import DAMAGED, file_format, known_formats, seekable, unpacked


class Unreadable(str):
    """What stands in a row's place when it is no JSON: what is wrong with it."""


def read_rows(path: Path, *, columns: Collection[str] | None = None) -> Iterator[tuple[str, Any]]:
    """(where it stands, the row) of every row of a file; empty lines are passed over. A row may be any JSON value, or Unreadable.

    columns: read only these of a Parquet file, those of them that it has. Raises DataError for a file that is missing, of no known
    format, or damaged.
    """
    if not path.is_file():
        raise DataError("is a directory, not a file" if path.is_dir() else "file not found", where=str(path))
    kind, compression = file_format(path)
    if kind == "unknown":
        raise DataError("not a file of rows", where=str(path), fix=f"known kinds of file: {known_formats()}")
    yield from _json_rows(path, compression) if kind == "jsonl" else _parquet_rows(path, compression, columns)


def _json_rows(path: Path, compression: str | None) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with open(path, "rb") as raw, unpacked(raw, compression) as handle:
            for line in handle:
                number += 1
                if line.strip():
                    yield f"{path}:{number}", _parsed(line)
    except DAMAGED as error:
        raise DataError(f"cannot be read after line {number:,}: {error}", where=str(path)) from error


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except RecursionError:
        return Unreadable("not valid JSON (nested too deeply)")
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        return Unreadable(f"not valid JSON ({error})")


def _parquet_rows(
    path: Path, compression: str | None, columns: Collection[str] | None
) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with open(path, "rb") as raw, seekable(raw, compression) as handle:
            file = pyarrow.parquet.ParquetFile(handle)
            wanted = [name for name in file.schema_arrow.names if columns is None or name in columns]
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, UnicodeDecodeError, *DAMAGED) as error:
        raise DataError(
            f"not a readable Parquet file (after row {number:,}): {error}", where=str(path)
        ) from error
