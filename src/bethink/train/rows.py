"""Training rows as they stand in files.

Reads what `bethink curate` wrote (train-*.jsonl or train-*.parquet with the columns input, output, mode) or one such file. Every
complaint names file and line. Knows nothing of tokens: token_store.py lays them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bethink.chat.toggle import Mode
from bethink.core.errors import DataError
from bethink.core.files import read_jsonl

COLUMNS = ("input", "output", "mode")
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One training row as it stands in its file. where: "file:line" (of a parquet file: the 1-based row)."""

    input: str
    output: str
    mode: Mode
    where: str
    prompt_ids: Sequence[int] | None = None
    completion_ids: Sequence[int] | None = None


def data_files(data: Path) -> list[Path]:
    """The files that hold the rows, in order. Raises DataError when there are none."""
    if data.is_file():
        if data.suffix not in (".jsonl", ".parquet"):
            raise DataError(
                f"cannot read `{data.suffix}` files", where=str(data), fix="give a .jsonl or .parquet file"
            )
        return [data]
    if not data.exists():
        raise DataError("no such file or directory", where=str(data), fix="give --data a DIR or FILE")
    for kind in ("jsonl", "parquet"):
        if found := sorted(data.glob(f"train-*.{kind}")):
            return found
    raise DataError(
        "no train-*.jsonl or train-*.parquet in the directory",
        where=str(data),
        fix="give --data the output directory of `bethink curate`, or one .jsonl file",
    )


def count_rows(files: Sequence[Path]) -> int:
    """How many rows the files hold, without parsing them."""
    total = 0
    for path in files:
        if path.suffix == ".parquet":
            total += _open_parquet(path).metadata.num_rows
            continue
        ends_open = False
        with open(path, "rb") as handle:
            while block := handle.read(1 << 22):
                total += block.count(b"\n")
                ends_open = not block.endswith(b"\n")
        total += ends_open
    return total


def read_rows(files: Sequence[Path]) -> Iterator[Row]:
    """The rows in file order. Raises DataError with file and line for a missing column or a value of the wrong kind."""
    for path in files:
        records = _parquet_records(path) if path.suffix == ".parquet" else read_jsonl(path)
        for number, record in enumerate(records, 1):
            yield _row(record, f"{path}:{number}")


def _open_parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"not a readable parquet file: {error}", where=str(path)) from error


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    file = _open_parquet(path)
    wanted = [*COLUMNS, "prompt_ids", "completion_ids"]
    present = [name for name in wanted if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=present):
        yield from batch.to_pylist()


def _row(record: dict[str, Any], where: str) -> Row:
    if missing := [name for name in COLUMNS if name not in record]:
        raise DataError(
            f"the row has no column {', '.join(f'`{name}`' for name in missing)} (it has: {', '.join(record)})",
            where=where,
            fix="rows need `input` (templated prompt), `output` (completion) and `mode` (on|off), as `bethink curate` writes them",
        )
    for name in COLUMNS:
        if not isinstance(record[name], str):
            raise DataError(
                f"`{name}` must be text, found {type(record[name]).__name__}",
                where=where,
                fix="`bethink curate` turns message lists into templated text",
            )
    if record["mode"] not in list(Mode):
        raise DataError(f"`mode` must be on or off, found {record['mode']!r}", where=where)
    if not record["input"]:
        raise DataError("`input` is empty: there is no prompt to answer", where=where)
    return Row(
        record["input"],
        record["output"],
        Mode(record["mode"]),
        where,
        record.get("prompt_ids"),
        record.get("completion_ids"),
    )
