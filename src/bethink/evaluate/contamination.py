"""Which questions a training set holds, so that none of them is held out.

Reads training rows in every form they have on the way: raw rows (`input` as a message list or text), curated rows (`input` is the
templated prompt), rows with `messages`, `question`, `problem` or `prompt`. A templated prompt is cut at the template's turn marks,
and each turn counts as a question. Lines that cannot be read are passed over: whatever trains on the file cannot read them either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bethink.core.console import warn
from bethink.core.errors import DataError
from bethink.tasks.problem import question_key

_TURN_MARK = re.compile(r"<[|｜][^<>\s]{1,40}[|｜]>|\[/?INST\]|</?(?:start|end)_of_turn>|</?s>")
_ROLE = re.compile(r"\A\s*(?:system|user|assistant|human|model)\s*\n", re.IGNORECASE)
_COLUMNS = ("input", "messages", "question", "problem", "prompt", "instruction")
_SUFFIXES = (".jsonl", ".parquet")


def training_questions(paths: Sequence[Path]) -> set[str]:
    """The `question_key` of everything a user asks in these files (of directories, the .jsonl and .parquet files named train*, or
    all of them). Raises DataError for a missing path, or a file in which no row asks anything.
    """
    found: set[str] = set()
    for path in paths:
        for file in training_files(path):
            before = len(found)
            for row in _rows(file):
                found |= {question_key(text) for text in _asked(row) if text.strip()}
            if len(found) == before and not before:
                raise DataError(
                    "no row here holds a question", where=str(file), fix=f"one of {', '.join(_COLUMNS)} must"
                )
    return found


def training_files(path: Path) -> list[Path]:
    """The files that `path` means. Raises DataError when there is none."""
    if path.is_file():
        return [path]
    found = sorted(file for file in path.glob("*") if file.suffix in _SUFFIXES) if path.is_dir() else []
    named = [file for file in found if file.name.startswith("train")]
    if not found:
        raise DataError(
            "no training rows here to exclude", where=str(path), fix="name a .jsonl or .parquet file"
        )
    return named or found


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.suffix == ".parquet":
        import pyarrow.parquet

        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=4096):
            yield from batch.to_pylist()
        return
    unreadable = 0
    with open(file, "rb") as handle:
        for line in handle:
            try:
                row = json.loads(line)
            except ValueError:
                unreadable += 1
                continue
            if isinstance(row, dict):
                yield row
    if unreadable:
        warn(f"{file}: {unreadable:,} lines could not be read and are not compared with the problems")


def _asked(row: dict[str, Any]) -> list[str]:
    value = next((row[name] for name in _COLUMNS if row.get(name)), None)
    if isinstance(value, str):
        return [value, *(_ROLE.sub("", turn) for turn in _TURN_MARK.split(value))]
    if isinstance(value, list):
        users = [m for m in value if isinstance(m, dict) and m.get("role") == "user"]
        return [m["content"] for m in users if isinstance(m.get("content"), str)]
    return []
