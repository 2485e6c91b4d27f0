"""The record of a run: metrics.jsonl, one line a step, and TensorBoard when it is installed.

All fields but the timing ones (TIMING) are the same in a resumed run as in an uninterrupted one.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from bethink.core.files import dump_line, explain_os_errors, read_jsonl, write_text

TIMING = ("seconds", "rollout_seconds", "tokens_per_second", "floor_share", "peak_rss_gb", "peak_cuda_gb")


class MetricsLog:
    """Appends to `directory/metrics.jsonl`.

    done: steps that count as done; later lines, left by a run that was killed after its last checkpoint, are cut.
    """

    def __init__(self, directory: Path, *, done: int = 0) -> None:
        self.path = directory / "metrics.jsonl"
        _cut(self.path, done)
        with explain_os_errors(self.path):
            self._handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed in __exit__
        self._board = _tensorboard(directory, done)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()
        if self._board is not None:
            self._board.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """One step's line; `row` holds "step"."""
        with explain_os_errors(self.path):
            self._handle.write(dump_line(dict(row)))
            self._handle.flush()
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(f"train/{name}", value, row["step"])

    def sync(self) -> None:
        """Everything written so far is on disk: called before a checkpoint that counts on it."""
        with explain_os_errors(self.path):
            os.fsync(self._handle.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, which may be a running or a killed process's: half a line at its end is left out. None of a file that is
    not there yet."""
    return list(read_jsonl(path, growing=True)) if path.exists() else []


def _cut(path: Path, done: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        # A killed run may have left half a line; whatever follows the last step done is rewritten anyway.
        if not line.endswith(b"\n") or json.loads(line)["step"] > done:
            break
        kept.append(line.decode())
    write_text(path, "".join(kept))


def _tensorboard(directory: Path, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory / "tensorboard"), purge_step=done + 1)


def memory_gb() -> dict[str, float]:
    """Peak memory so far, in GB: of the process, and of the CUDA device when there is one."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)}
    if torch.cuda.is_available():
        peak["peak_cuda_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
    return peak
