"""Problems from JSON Lines and Parquet files.

Knows how to read rows and to say where a bad one stands; what the columns mean is the mapping's (`mappings.py`).
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bethink.core.config import nearest
from bethink.core.errors import ConfigError, DataError
from bethink.tasks.mappings import MAPPINGS, ColumnMapping, Mapped, MappingFunction, RowError
from bethink.tasks.problem import Problem, ProblemSet

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def load_problems(
    path: Path,
    mapping: MappingFunction | str,
    *,
    limit: int | None = None,
    name: str | None = None,
    skip_bad: bool = False,
) -> ProblemSet:
    """The problems of a file (or of every such file under a directory), in its order.

    mapping: a name from MAPPINGS, or a function such as ColumnMapping(...). name: the task's name, by default the mapping's.
    skip_bad: leave out rows that are no problems and count them in `dropped["bad"]`; by default the first one raises DataError with
    file, line and key. Raises ConfigError for an unknown mapping.
    """
    function = find_mapping(mapping) if isinstance(mapping, str) else mapping
    layout = mapping if isinstance(mapping, str) else "given"
    name = name or task_name(mapping) or path.name.partition(".")[0]
    problems: list[Problem] = []
    places: dict[str, str] = {}
    bad = 0
    for number, (where, row) in enumerate(_rows(path), 1):
        if len(problems) == limit:
            break
        try:
            if not isinstance(row, dict):
                raise RowError(str(row) if isinstance(row, _Unreadable) else "is not an object")
            mapped = function(row)
        except RowError as error:
            if not skip_bad:
                raise DataError(
                    f"this row is not a problem of the layout `{layout}`: {error}",
                    where=where,
                    fix="mend the row, choose another mapping, or leave bad rows out (--skip-bad)",
                ) from error
            bad += 1
            continue
        problem = _problem(name, mapped, number)
        if problem.id in places:
            raise DataError(f"the id `{problem.id}` stands twice", where=f"{places[problem.id]} and {where}")
        places[problem.id] = where
        problems.append(problem)
    if not problems:
        raise DataError(f"holds no problems{f' ({bad:,} bad rows)' if bad else ''}", where=str(path))
    return ProblemSet(name, tuple(problems), {"bad": bad} if skip_bad else {})


def task_name(mapping: MappingFunction | str) -> str | None:
    """The name a benchmark's layout gives to its tasks; None for a layout that is nobody's in particular."""
    return mapping if isinstance(mapping, str) and "=" not in mapping and mapping != "plain" else None


def find_mapping(name: str) -> MappingFunction:
    """The mapping a user means: a name from MAPPINGS, or columns as `question=problem,answer=gold,grader=math`.

    Raises ConfigError that names the nearest.
    """
    if name in MAPPINGS:
        return MAPPINGS[name]
    if "=" not in name:
        guess = nearest(name, list(MAPPINGS))
        fix = f"did you mean `{guess}`?" if guess else f"known: {', '.join(MAPPINGS)}"
        raise ConfigError(
            f"unknown mapping `{name}`", fix=f"{fix} (or name the columns: question=…,answer=…,grader=math)"
        )
    known = [f.name for f in dataclasses.fields(ColumnMapping)]
    columns: dict[str, str] = {}
    for part in name.split(","):
        key, _, column = part.partition("=")
        if key.strip() not in known or not column.strip():
            guess = nearest(key.strip(), known)
            fix = f"did you mean `{guess}=…`?" if guess else f"known: {', '.join(f'{k}=…' for k in known)}"
            raise ConfigError(f"`{part}` does not map a column", where=name, fix=fix)
        columns[key.strip()] = column.strip()
    return ColumnMapping(**columns)


def _problem(name: str, mapped: Mapped, number: int) -> Problem:
    return Problem(
        id=mapped.id or f"row-{number}",
        task=name,
        messages=({"role": "user", "content": mapped.question},),
        answer=mapped.answer,
        grader=mapped.grader,
        meta=mapped.meta,
    )


class _Unreadable(str):
    """What is wrong with a line that is no JSON."""


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(where it stands, the row) of every row. Raises DataError for a path that cannot be read."""
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        if not found:
            raise DataError(f"holds no {', '.join(SUFFIXES)} file", where=str(path))
        for file in found:
            yield from _rows(file)
        return
    if not path.is_file():
        raise DataError("file not found", where=str(path))
    if path.name.endswith(".parquet"):
        yield from _parquet_rows(path)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _json_rows(path)
    else:
        raise DataError(
            "not a file of problems", where=str(path), fix=f"known kinds of file: {', '.join(SUFFIXES)}"
        )


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as handle:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                try:
                    yield f"{path}:{number}", json.loads(line.decode("utf-8-sig"))
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    yield f"{path}:{number}", _Unreadable(f"not valid JSON ({error})")
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"cannot be unpacked: {error}", where=str(path)) from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except pyarrow.ArrowException as error:
        raise DataError(f"not a readable Parquet file: {error}", where=str(path)) from error
