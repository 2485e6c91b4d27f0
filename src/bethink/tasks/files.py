"""Problems from JSON Lines and Parquet files.

Knows how to say where a bad row stands; reading rows is left to `core.rows`, what the columns mean to the mapping (`layouts/`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bethink.core.config import did_you_mean, nearest
from bethink.core.errors import ConfigError, DataError
from bethink.core.packed import SUFFIXES, known_formats
from bethink.core.rows import Unreadable, read_rows
from bethink.tasks.layouts.columns import ColumnMapping, Mapped, MappingFunction, RowError
from bethink.tasks.layouts.known import LAYOUTS
from bethink.tasks.problem import WORKING, Problem, ProblemSet


def load_problems(
    path: Path | Sequence[Path],
    mapping: MappingFunction | str,
    *,
    name: str | None = None,
    skip_bad: bool = False,
) -> ProblemSet:
    """The problems of a file (of every such file under a directory, of several files), in its order.

    mapping: a name from LAYOUTS, or a function such as ColumnMapping(...). name: the task's name, by default the mapping's. A row
    without an id of its own is called `row-N` after its place among all rows, so that ids are unique over all files.
    skip_bad: leave out rows that are no problems and count them in `dropped["bad"]`; by default the first one raises DataError with
    file, line and key. Raises ConfigError for an unknown mapping.
    """
    function = find_mapping(mapping) if isinstance(mapping, str) else mapping
    layout = mapping if isinstance(mapping, str) else "given"
    paths = [path] if isinstance(path, Path) else path
    name = name or task_name(mapping) or paths[0].name.partition(".")[0]
    problems: list[Problem] = []
    places: dict[str, str] = {}
    bad, first_fault = 0, ""
    for number, (where, row) in enumerate(_rows(paths), 1):
        try:
            if not isinstance(row, dict):
                raise RowError(str(row) if isinstance(row, Unreadable) else "is not an object")
            mapped = function(row)
        except RowError as error:
            if not skip_bad:
                raise DataError(
                    f"this row is not a problem of the layout `{layout}`: {error}",
                    where=where,
                    fix="mend the row, choose another mapping, or leave bad rows out (--skip-bad)",
                ) from error
            first_fault = first_fault or f"{where}: {error}"
            bad += 1
            continue
        problem = _problem(name, mapped, number)
        if problem.id in places:
            raise DataError(f"the id `{problem.id}` stands twice", where=f"{places[problem.id]} and {where}")
        places[problem.id] = where
        problems.append(problem)
    if not problems:
        faults = f" ({bad:,} bad rows, the first {first_fault})" if bad else ""
        raise DataError(f"holds no problems{faults}", where=", ".join(map(str, paths)))
    return ProblemSet(name, tuple(problems), {"bad": bad} if skip_bad else {})


def task_name(mapping: MappingFunction | str) -> str | None:
    """The name a benchmark's layout gives to its tasks; None for a layout that is nobody's in particular."""
    return mapping if isinstance(mapping, str) and "=" not in mapping and mapping != "plain" else None


def find_mapping(name: str) -> MappingFunction:
    """The mapping a user means: a name from LAYOUTS, or columns as `question=problem,answer=gold,grader=math`.

    Raises ConfigError that names the nearest.
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    if "=" not in name:
        raise ConfigError(
            f"unknown mapping `{name}`",
            fix=f"{did_you_mean(name, LAYOUTS)} (or name the columns: question=…,answer=…,grader=math)",
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
        meta=mapped.meta if mapped.working is None else {**mapped.meta, WORKING: mapped.working},
    )


def _rows(paths: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    """(where it stands, the row) of every row. Raises DataError for a path that cannot be read."""
    for path in paths:
        if path.is_dir():
            found = sorted(
                file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file()
            )
            if not found:
                raise DataError(
                    "holds no file of rows", where=str(path), fix=f"known kinds: {known_formats()}"
                )
            yield from _rows(found)
        else:
            yield from read_rows(path)
