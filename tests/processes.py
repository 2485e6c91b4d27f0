"""Which processes lie below one. They come and go while one looks, so a process or thread that has just ended is no error."""

from __future__ import annotations

from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started or was left, zombies included."""
    return [child for child in _all() if _stat(child)[1:2] == [str(pid)]]


def descendants(pid: int) -> list[int]:
    """The processes below ``pid`` at any depth, zombies included."""
    below = children(pid)
    return below + [lower for child in below for lower in descendants(child)]


def alive(pids: list[int]) -> list[int]:
    """Those of ``pids`` that exist and are no zombies."""
    return [pid for pid in pids if _stat(pid)[:1] not in ([], ["Z"])]


def _all() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5)); nothing for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
