"""What a run directory says about itself: `manifest.json`.

It holds the recipe as it was checked, every stage's full options, input hashes, state, time and memory, and the environment. It is
written after every change of state, so a killed run knows where it stood.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from bethink.core.errors import DataError
from bethink.core.files import read_json, sha256_file, write_json

FILE = "manifest.json"
_HASHED_WHOLE = 1 << 30
"""Larger input files are known by size and modification time."""


class StageRecord(BaseModel):
    """One stage's state. fingerprint, asked: as in `stages.Prepared`. seconds and peak_memory cover all its attempts."""

    name: str
    uses: str
    state: Literal["pending", "running", "done"] = "pending"
    fingerprint: str = ""
    asked: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    product: str = ""
    attempts: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_gpu_bytes: int = 0
    finished: str | None = None


class Manifest(BaseModel):
    """One run."""

    recipe: dict[str, Any]
    recipe_hash: str
    source: str
    overrides: list[str] = Field(default_factory=list)
    seed: int = 0
    environment: dict[str, Any] = Field(default_factory=dict)
    started: str = ""
    finished: str | None = None
    stages: list[StageRecord] = Field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Time spent in all stages, over all attempts."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def peak_memory_bytes(self) -> int:
        return max((stage.peak_memory_bytes for stage in self.stages), default=0)

    def record(self, name: str) -> StageRecord | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def save(self, run_dir: Path) -> None:
        write_json(run_dir / FILE, self.model_dump(mode="json"))


def load_manifest(run_dir: Path) -> Manifest | None:
    """The manifest of a run directory; None when there is none. Raises DataError for one that cannot be read."""
    path = run_dir / FILE
    if not path.exists():
        return None
    try:
        return Manifest.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(
            f"not a manifest of this version: {error.errors()[0]['msg']}",
            where=str(path),
            fix="choose another --output",
        ) from error


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def digest(value: Any) -> str:
    """A short hash of a JSON-able value; equal values, equal hashes."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def input_hashes(options: Any) -> dict[str, str]:
    """The files and directories that are named anywhere in `options`, each with a hash of what it holds now.

    A model spec `MODEL+ADAPTER` and a task spec `FILE:LAYOUT` name files too, and `~` is the home directory. A directory, and a file past
    1 GiB, is known by its files' sizes and modification times.
    """
    found: dict[str, str] = {}
    for text in _strings(options):
        for candidate in {text, *text.split("+"), text.rpartition(":")[0]} - {""}:
            # Any text may come here; os.path, unlike Path, takes what is no path for a file that is not there.
            name = os.path.expanduser(candidate)
            if os.path.isfile(name):
                found[candidate] = _file_hash(Path(name))
            elif os.path.isdir(name):
                found[candidate] = digest(_listing(Path(name)))
    return dict(sorted(found.items()))


def _listing(directory: Path) -> list[tuple[str, int, int]]:
    return sorted(_stamp(file, directory) for file in directory.rglob("*") if file.is_file())


def _file_hash(path: Path) -> str:
    return sha256_file(path) if path.stat().st_size <= _HASHED_WHOLE else digest(_stamp(path, path.parent))


def _stamp(path: Path, base: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.relative_to(base)), status.st_size, status.st_mtime_ns


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
