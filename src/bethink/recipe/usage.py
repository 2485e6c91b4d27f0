"""How much memory a run takes: this process and all its children together, sampled while a stage works.

Linux tells each process's proportional share (shared pages counted once over all who share them); elsewhere the peak of this
process alone is what can be told.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

_PERIOD_SECONDS = 1.0
_SECOND_LOOK_SECONDS = 0.2
_PROC = Path("/proc")


def tree_memory_bytes() -> int:
    """Memory of this process and its descendants now; 0 where the system does not tell."""
    total = 0
    waiting = ["self"]
    while waiting:
        process = waiting.pop()
        try:
            total += _proportional_kib(process) * 1024
            waiting += _children(process)
        except (OSError, ValueError):
            continue  # it has ended, or it is not ours to read
    return total


def _children(process: str) -> list[str]:
    children: list[str] = []
    for thread in (_PROC / process / "task").iterdir():
        with contextlib.suppress(
            FileNotFoundError, ProcessLookupError
        ):  # a thread that has just ended has none
            children += (thread / "children").read_text().split()
    return children


def _proportional_kib(process: str) -> int:
    for line in (_PROC / process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def gpu_peak_bytes(*, reset: bool = False) -> int:
    """The most CUDA memory torch has held since the last reset; 0 without torch or a GPU. Never imports torch itself."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    peak = int(torch.cuda.max_memory_allocated())
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return peak


class MemoryWatch:
    """Context manager: `peak_bytes` is the most memory seen while it was open."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        if self.peak_bytes == 0:
            unit = 1 if sys.platform == "darwin" else 1024
            self.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _watch(self) -> None:
        while not self._stop.wait(_PERIOD_SECONDS):
            self._look()

    def _look(self) -> None:
        # A child being started has, for an instant, its parent's memory and would count twice: one look may see that, two do not.
        first = tree_memory_bytes()
        if first > self.peak_bytes:
            time.sleep(_SECOND_LOOK_SECONDS)
            self.peak_bytes = max(self.peak_bytes, min(first, tree_memory_bytes()))
