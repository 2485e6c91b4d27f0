"""A control group around all sandboxes of a pool: the memory and processes they may have together.

Where this process may make one (as root in most containers, or in a delegated subtree), it bounds what per-process limits do not see.
Knows both of the kernel's layouts (man 7 cgroups): one tree, or one a controller.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "bethink-code-"
_MOUNTS = Path("/proc/self/mounts")
_OWN = Path("/proc/self/cgroup")


class ControlGroups:
    """Groups that hold the limits they could be given. directories: empty where nothing is allowed."""

    def __init__(self, *, memory: int, processes: int) -> None:
        self.directories: list[Path] = []
        self.limits: set[str] = set()
        for name, files, limit in (
            ("memory", ("memory.max", "memory.limit_in_bytes"), memory),
            ("pids", ("pids.max",), processes),
        ):
            for parent in _parents(name):
                if self._limit(parent, files, limit):
                    self.limits.add(name)
                    break

    @property
    def entrances(self) -> list[str]:
        """The files a process writes itself into to join."""
        return [str(directory / "cgroup.procs") for directory in self.directories]

    def out_of_memory(self) -> int:
        """How often the kernel ended a process of these groups for lack of memory."""
        count = 0
        for directory in self.directories:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    found = re.search(r"^oom_kill (\d+)", (directory / name).read_text(), re.MULTILINE)
                    count += int(found[1]) if found else 0
        return count

    def close(self) -> None:
        """Remove the groups; their processes must have ended, or do so within a moment."""
        for directory in self.directories:
            for _ in range(50):
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)
                else:
                    break
        self.directories.clear()

    def _limit(self, parent: Path, files: tuple[str, ...], limit: int) -> bool:
        _sweep(parent)
        directory = parent / f"{_PREFIX}{os.getpid()}-{id(self):x}"
        try:
            directory.mkdir(exist_ok=True)
        except OSError:
            return False
        for name in files:
            # Writing must not create the file: where the controller is off it is not there.
            with contextlib.suppress(OSError), open(directory / name, "r+", encoding="ascii") as file:
                file.write(str(limit))
                file.flush()
                if directory not in self.directories:
                    self.directories.append(directory)
                return True
        if directory not in self.directories:
            with contextlib.suppress(OSError):
                directory.rmdir()
        return False


def _parents(controller: str) -> Iterator[Path]:
    """The directories in which a group with this controller could be made: below this process's own group first."""
    try:
        mounts = [line.split() for line in _MOUNTS.read_text().splitlines()]
        own = [line.split(":", 2) for line in _OWN.read_text().splitlines()]
    except OSError:
        return
    for _, place, kind, options, *_ in mounts:
        if kind == "cgroup" and controller in options.split(","):
            for _, controllers, path in own:
                if controller in controllers.split(","):
                    yield Path(place + path)
            yield Path(place)
        elif kind == "cgroup2":
            for _, controllers, path in own:
                if not controllers:
                    yield Path(place + path)


def _sweep(parent: Path) -> None:
    """Remove groups that processes left which were killed."""
    with contextlib.suppress(OSError):
        for left in parent.glob(f"{_PREFIX}*"):
            number = left.name.removeprefix(_PREFIX).partition("-")[0]
            if number.isdecimal() and not Path(f"/proc/{number}").exists():
                with contextlib.suppress(OSError):
                    left.rmdir()
