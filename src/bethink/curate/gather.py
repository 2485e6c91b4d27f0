"""From finished blocks, in the order of the input, to shards in the order of the curriculum, in two passes over the disk.

`scatter` reads every block once and appends each row to the stretch of the curriculum it belongs in; `gather` reads one stretch at a
time, puts its rows in their places and writes them on. Both read and write in long runs, so a set larger than memory costs two
copies, not a seek a row. On the way every dropped row is written to the rejects, in the order of the input.
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from bethink.core.console import Progress
from bethink.core.files import atomic_path, dump_line
from bethink.curate.curriculum import Curriculum
from bethink.curate.spill import KEPT, REASONS, Spilled, block_path, read_block

STRETCH_BYTES = 32 << 20
"""About how much of the curriculum is in memory at a time."""

_RECORD = struct.Struct("<QI")
_BUFFER_BYTES = 32 << 20


@dataclass(slots=True)
class Tally:
    """What became of the rows: how many there were and were kept in each file, and how many were dropped for each reason."""

    rows: Counter[int] = field(default_factory=Counter)
    kept: Counter[int] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    broken_files: set[int] = field(default_factory=set)


def stretch_path(work: Path, index: int) -> Path:
    """Where stretch `index` of the curriculum is collected."""
    return work / "stretches" / f"{index:06d}"


def scatter(
    work: Path,
    blocks: int,
    labels: Sequence[str],
    curriculum: Curriculum,
    *,
    rejects: IO[str] | None,
    cuts: Sequence[int],
) -> Tally:
    """Walk all blocks in order: append survivors to their stretches, write the dropped rows to `rejects`, count everything.

    labels: the name of each input file; cuts: where the stretches begin; rejects: None counts only.
    """
    tally = Tally()
    verdicts = _Feed(curriculum)
    stretches = _Stretches(work)
    with Progress("sorting", blocks, unit="blocks") as progress:
        for index in range(blocks):
            block = read_block(block_path(work, index))
            file, first_line = block.header.file, tally.rows[block.header.file] + 1
            codes, places = verdicts.take(len(block.keys))
            dropped = [(row, reason, detail) for row, reason, detail in block.header.rejects]
            found = zip(
                block.keys["row"].tolist(), block.keys["verdict"].tolist(), block.lines(), strict=True
            )
            for (row, first_code, line), code, place in zip(found, codes, places, strict=True):
                if code != KEPT:
                    # A row dropped by its block for one reason may have turned out to be a repeat: then nothing more is said of it.
                    detail = block.header.details.get(str(row), "") if code == first_code else ""
                    dropped.append((row, REASONS[code], detail))
                elif rejects is not None:
                    source = json.dumps(f"{labels[file]}:{first_line + row}", ensure_ascii=False)
                    record = line[:-2] + b',"source":' + source.encode() + b"}\n"
                    stretches.append(bisect_right(cuts, place) - 1, place, record)
            dropped.sort()
            for row, reason, detail in dropped:
                if rejects is not None:
                    where = {"file": labels[file], "line": first_line + row}
                    rejects.write(dump_line({**where, "reason": reason, "detail": detail}))
            _count(tally, block, dropped)
            progress.advance()
    stretches.flush()
    return tally


def _count(tally: Tally, block: Spilled, dropped: list[tuple[int, str, str]]) -> None:
    header = block.header
    tally.rows[header.file] += header.rows
    tally.kept[header.file] += header.rows - len(dropped)
    tally.dropped.update(reason for _, reason, _ in dropped)
    tally.skipped.update(header.skipped)
    if any(reason == "unreadable_file" for _, reason, _ in dropped):
        tally.broken_files.add(header.file)


class _Feed:
    """Verdicts and places of all keys, handed out a block at a time."""

    def __init__(self, curriculum: Curriculum) -> None:
        self._batches = curriculum.verdicts()
        self._codes: list[int] = []
        self._places: list[int] = []

    def take(self, count: int) -> tuple[list[int], list[int]]:
        while len(self._codes) < count:
            more_codes, more_places = next(self._batches)
            self._codes += more_codes.tolist()
            self._places += more_places.tolist()
        codes, self._codes = self._codes[:count], self._codes[count:]
        places, self._places = self._places[:count], self._places[count:]
        return codes, places


class _Stretches:
    """Appends to many files with few of them open: what has gathered is written when it is enough."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._waiting: dict[int, list[bytes]] = {}
        self._size = 0

    def append(self, stretch: int, place: int, record: bytes) -> None:
        self._waiting.setdefault(stretch, []).append(_RECORD.pack(place, len(record)) + record)
        self._size += len(record)
        if self._size >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        for stretch, records in self._waiting.items():
            path = stretch_path(self._work, stretch)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as handle:
                handle.writelines(records)
        self._waiting, self._size = {}, 0


def gather(work: Path, stretches: int) -> Iterator[bytes]:
    """The records of all rows taken, in the order of the curriculum. Each stretch's file is removed when it has been read."""
    for index in range(stretches):
        path = stretch_path(work, index)
        data = path.read_bytes()
        path.unlink()
        found: list[tuple[int, int, int]] = []
        offset = 0
        while offset < len(data):
            place, size = _RECORD.unpack_from(data, offset)
            offset += _RECORD.size
            found.append((place, offset, offset + size))
            offset += size
        found.sort()
        for _, start, end in found:
            yield data[start:end]


class Shard(Protocol):
    """One output file being written."""

    def write(self, record: bytes) -> None: ...

    def close(self) -> None: ...


class JsonlShard:
    """Rows as JSON Lines."""

    def __init__(self, path: Path) -> None:
        self._handle = open(path, "wb")  # noqa: SIM115 - closed by close()

    def write(self, record: bytes) -> None:
        self._handle.write(record)

    def close(self) -> None:
        self._handle.close()


class ParquetShard:
    """Rows as Parquet, with the token ids beside the texts. Row groups are small, so that a reader needs little memory."""

    rows_per_group = 512

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        text, ids = pa.string(), pa.list_(pa.int32())
        self._schema = pa.schema(
            [("input", text), ("output", text), ("mode", text), ("tokens", pa.int32()), ("completion_tokens", pa.int32()),
             ("source", text), ("prompt_ids", ids), ("completion_ids", ids)]
        )  # fmt: skip
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._table: Any = pa.Table
        self._rows: list[dict[str, Any]] = []

    def write(self, record: bytes) -> None:
        import numpy as np

        prompt, completion = struct.unpack_from("<II", record)
        ids = np.frombuffer(record, "<i4", prompt + completion, offset=8)
        row = json.loads(record[8 + ids.nbytes :])
        self._rows.append({**row, "prompt_ids": ids[:prompt], "completion_ids": ids[prompt:]})
        if len(self._rows) == self.rows_per_group:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def write_shards(
    directory: Path, records: Iterator[bytes], *, format: str, shard_rows: int, total: int
) -> list[dict[str, Any]]:
    """Write train-00000, train-00001, ... of `shard_rows` rows each; returns each one's name and number of rows."""
    shards: list[dict[str, Any]] = []
    make = JsonlShard if format == "jsonl" else ParquetShard
    record = next(records, None)
    with Progress("writing", total) as progress:
        while record is not None:
            name = f"train-{len(shards):05d}.{format}"
            rows = 0
            with atomic_path(directory / name) as temporary:
                shard: Shard = make(temporary)
                while record is not None and rows < shard_rows:
                    shard.write(record)
                    rows += 1
                    progress.advance()
                    record = next(records, None)
                shard.close()
            shards.append({"file": name, "rows": rows})
    return shards
