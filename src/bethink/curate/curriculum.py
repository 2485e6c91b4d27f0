"""Which survivors are taken, and in which order: the curriculum.

Works on one compact key per row, never on text. A table on disk (DuckDB, which sorts out of core) finds the repeats and puts each
mode's rows in order of difficulty, ties in the order of the input; the rest is arithmetic on a row's rank within its mode and source, so
memory stays flat however many rows there are.

The two modes are interleaved in proportion: row r of n stands at (r + 1/2) / n of the way, so that any stretch of the curriculum has
the share of each mode that the whole has, to within a row or two, and difficulty never falls within a mode. Rows that are too many
(beyond their source's share, the ratio or the number asked for: `mix` counts them) are taken out evenly over their source's ranks in the
mode, which keeps the difficulties as they were.

Source: the order is NVIDIA's recipe ("split on/off, sort each by completion tokens, interleave"), with the interleaving proportional.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bethink.curate.mix import WHOLE, Share, Source, shares
from bethink.curate.spill import KEPT, KEY_FIELDS, REASONS

MEMORY_LIMIT = "192MB"
_BATCH = 65_536
_DUPLICATE, _MIX, _RATIO, _MAX = (
    REASONS.index(name) for name in ("duplicate", "mix", "on_off_ratio", "max_samples")
)

Ints = NDArray[np.int64]


def thin(rank: Ints, of: int, keep: int) -> tuple[NDArray[np.bool_], Ints]:
    """Which ranks among `of` stay when `keep` are wanted, spread evenly; and the new rank of those that stay."""
    new = rank * keep // max(of, 1)
    return (rank + 1) * keep // max(of, 1) > new, new


def position(rank: Ints, mode: int, on: int, off: int) -> Ints:
    """The place in the interleaved curriculum of row `rank` of its mode (0 on, 1 off), of `on` and `off` rows in all.

    The rows before it in the other mode are those less far on their own way; where two are level, thinking-on comes first.
    """
    own, other = (on, off) if mode == 0 else (off, on)
    reached = (2 * rank + 1) * other
    before = -(-reached // own) // 2 if mode == 0 else (reached // own + 1) // 2
    return rank + before


class Curriculum:
    """The keys of all rows that passed the rules, on disk. Fill with `add`, `arrange` once, then ask."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._db = duckdb.connect(str(directory / "keys.duckdb"))
        self._db.execute(f"SET memory_limit='{MEMORY_LIMIT}'")
        self._db.execute(f"SET temp_directory='{_quoted(directory / 'sort')}'")
        self._db.execute("SET threads=1")
        columns = ", ".join(f"{name} {_SQL_TYPES[kind]}" for name, kind in KEY_FIELDS)
        self._db.execute(f"CREATE TABLE keys (block UINTEGER, {columns})")
        self._db.execute(
            "CREATE TABLE verdicts (block UINTEGER, row UINTEGER, verdict UTINYINT, place BIGINT, source UTINYINT, mode UTINYINT, "
            "difficulty DOUBLE, tokens UINTEGER, completion_tokens UINTEGER, size UINTEGER)"
        )
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> Curriculum:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, block: int, keys: NDArray[np.void]) -> None:
        """Take the keys of block `block`. Blocks come in order."""
        columns = {"block": np.full(len(keys), block, np.uint32)}
        columns |= {name: np.ascontiguousarray(keys[name]) for name, _ in KEY_FIELDS}
        self._waiting.append(pa.table(columns))
        if sum(len(table) for table in self._waiting) >= _BATCH:
            self._store()

    def _store(self) -> None:
        if self._waiting:
            self._insert("keys", pa.concat_tables(self._waiting))
            self._waiting = []

    def arrange(
        self,
        *,
        dedup: bool,
        sources: Sequence[Source] = WHOLE,
        on_per_off: Fraction | None,
        max_samples: int | None,
    ) -> None:
        """Give every key its verdict, and every row taken its place. sources: those of the mix, which the keys name by index."""
        self._store()
        self._db.execute("CREATE TABLE repeats (block UINTEGER, row UINTEGER)")
        if dedup:
            self._db.execute(_FIND_REPEATS)
        self._db.execute(f"INSERT INTO verdicts {_DROPPED}")
        counted = self._rows(f"SELECT source, mode, count(*) FROM ({_CANDIDATES}) GROUP BY source, mode")
        found = {(source, mode): count for source, mode, count in counted}
        pairs = [(found.get((index, 0), 0), found.get((index, 1), 0)) for index in range(len(sources))]
        by_source = shares(pairs, sources, on_per_off, max_samples)
        taken = [sum(pair[mode].taken for pair in by_source) for mode in (0, 1)]
        for mode in (0, 1):
            ranks = [_Ranks(pair[mode]) for pair in by_source]
            start = 0
            # The order is stored before it is read, so that no more than a batch of it is in memory at a time.
            self._db.execute(
                f"CREATE OR REPLACE TABLE ordered AS {_CANDIDATES} AND mode = {mode} {_IN_ORDER}"
            )
            for batch in self._stream("SELECT * FROM ordered"):
                source = batch["source"].to_numpy()
                verdict = np.empty(len(batch), np.uint8)
                for index in np.unique(source):
                    here = source == index
                    verdict[here] = ranks[index].next(int(here.sum()))
                kept = verdict == KEPT
                rank = start + np.cumsum(kept, dtype=np.int64) - 1
                start += int(kept.sum())
                place = np.where(kept, position(rank, mode, *taken), -1) if taken[mode] else -1
                self._insert("verdicts", _with_verdicts(batch, verdict, place))
        self._db.execute("DROP TABLE IF EXISTS ordered")

    def verdicts(self) -> Iterator[tuple[NDArray[np.uint8], Ints]]:
        """Verdict code and place (-1 for none) of every key, in the order of the input, in batches."""
        for batch in self._stream("SELECT verdict, place FROM verdicts ORDER BY block, row"):
            yield batch["verdict"].to_numpy(), batch["place"].to_numpy()

    def cuts(self, most_bytes: int) -> list[int]:
        """Places that cut the curriculum into stretches of about `most_bytes` of output lines, the first stretch from 0."""
        stretch = max(self.taken() // 2000, 1)
        cuts, filled = [0], 0
        for start, size in self._rows(
            f"SELECT min(place), sum(size) FROM verdicts WHERE verdict = {KEPT} GROUP BY place // {stretch} ORDER BY 1"
        ):
            if filled and filled + size > most_bytes:
                cuts.append(start)
                filled = 0
            filled += int(size)
        return cuts

    def taken(self) -> int:
        """How many rows the curriculum has."""
        return int(self._rows(f"SELECT count(*) FROM verdicts WHERE verdict = {KEPT}")[0][0])

    def counts(self) -> dict[str, int]:
        """How many keys have each verdict, by name."""
        found = dict(self._rows("SELECT verdict, count(*) FROM verdicts GROUP BY verdict"))
        return {name: found.get(code, 0) for code, name in enumerate(REASONS)}

    def by_source(self) -> dict[tuple[int, str], int]:
        """How many good rows of each source have each verdict, by the source's index and the verdict's name."""
        good = ", ".join(map(str, (KEPT, _MIX, _RATIO, _MAX)))
        return {
            (source, REASONS[verdict]): count
            for source, verdict, count in self._rows(
                f"SELECT source, verdict, count(*) FROM verdicts WHERE verdict IN ({good}) GROUP BY source, verdict"
            )
        }

    def describe(self, sql: str) -> list[tuple[Any, ...]]:
        """The answer to a question about the rows taken, which the query names `taken`."""
        return self._rows(f"WITH taken AS (SELECT * FROM verdicts WHERE verdict = {KEPT}) {sql}")

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return list(self._db.execute(sql).fetchall())

    def _stream(self, sql: str) -> Iterable[pa.Table]:
        # A cursor of its own: the connection is written to between batches.
        relation = self._db.cursor().sql(sql)
        reader = getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader
        return (pa.table(batch) for batch in reader(_BATCH))

    def _insert(self, name: str, table: pa.Table) -> None:
        self._db.register("batch", table)
        self._db.execute(f"INSERT INTO {name} SELECT * FROM batch")
        self._db.unregister("batch")


_SQL_TYPES = {"<u4": "UINTEGER", "u1": "UTINYINT", "<f8": "DOUBLE", "<u8": "UBIGINT"}
_COLUMNS = "source, mode, difficulty, tokens, completion_tokens, size"

# Only hashes that occur twice are looked at row by row. The first row of the input with a hash stays, whatever became of it later.
_FIND_REPEATS = """
INSERT INTO repeats SELECT block, row FROM (
  SELECT block, row, row_number() OVER (PARTITION BY hash_high, hash_low ORDER BY block, row) AS nth
  FROM keys SEMI JOIN (SELECT hash_high, hash_low FROM keys GROUP BY ALL HAVING count(*) > 1) USING (hash_high, hash_low)
) WHERE nth > 1"""

_DROPPED = f"""
SELECT block, row, {_DUPLICATE}, -1, {_COLUMNS} FROM keys SEMI JOIN repeats USING (block, row)
UNION ALL SELECT block, row, verdict, -1, {_COLUMNS} FROM keys ANTI JOIN repeats USING (block, row) WHERE verdict <> {KEPT}"""

_CANDIDATES = (
    f"SELECT block, row, {_COLUMNS} FROM keys ANTI JOIN repeats USING (block, row) WHERE verdict = {KEPT}"
)
_IN_ORDER = "ORDER BY difficulty, block, row"


class _Ranks:
    """The rows of one source and mode as they come by in their order: `next` tells of the next ones what becomes of them."""

    def __init__(self, share: Share) -> None:
        self._share, self._seen = share, 0

    def next(self, count: int) -> NDArray[np.uint8]:
        share = self._share
        rank = np.arange(self._seen, self._seen + count, dtype=np.int64)
        self._seen += count
        mixed, rank = thin(rank, share.found, share.mixed)
        balanced, rank = thin(rank, share.mixed, share.balanced)
        kept, _ = thin(rank, share.balanced, share.taken)
        return np.where(mixed, np.where(balanced, np.where(kept, KEPT, _MAX), _RATIO), _MIX).astype(np.uint8)


def _with_verdicts(batch: pa.Table, verdict: NDArray[np.uint8], place: Ints | int) -> pa.Table:
    places = np.broadcast_to(np.asarray(place, np.int64), verdict.shape)
    table = batch.add_column(2, "verdict", pa.array(verdict))
    return table.add_column(3, "place", pa.array(np.ascontiguousarray(places)))


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
