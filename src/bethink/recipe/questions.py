"""How many problems a stage will ask, where that can be told without running it: by its options, or by small files that are here.

Nothing is fetched and nothing generated. What `exclude` takes away is not told.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from bethink.core.errors import BethinkError
from bethink.evaluate.config import EvalConfig
from bethink.tasks.sources import file_of, load_each

_LARGEST = 16 << 20
"""Bytes of a stage's files together, past which they are not read for a plan: some seconds' work."""


def problems_asked(config: EvalConfig, *, once: bool) -> int | None:
    """The most problems that its tasks hold together; None where it cannot be told. once: as for `evaluate.plan.make_plan`."""
    if config.size is not None:
        return config.size * len(config.tasks)
    files = [Path(path) for spec in config.tasks if (path := file_of(spec)) is not None]
    if len(files) < len(config.tasks):
        return None
    try:
        stamps = tuple(_stamp(path) for path in files)
        if sum(size for size, _ in stamps) > _LARGEST:
            return None
        return _count(config.tasks, config.split, once, stamps)
    except (BethinkError, OSError):
        return None  # what is wrong with a file its stage says


def _stamp(path: Path) -> tuple[int, int]:
    """Bytes, and when they were last changed."""
    found = [os.stat(file) for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(one.st_size for one in found), max((one.st_mtime_ns for one in found), default=0)


@lru_cache(maxsize=64)
def _count(tasks: tuple[str, ...], split: str, once: bool, stamps: tuple[tuple[int, int], ...]) -> int:
    """stamps: so that a file that has changed is read again, and one that several stages ask is not."""
    return sum(map(len, load_each(tasks, size=None, seed=0, split=split, skip_bad=True, once=once)))
