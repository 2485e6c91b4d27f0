"""How long a training run takes: foretold from the floor, then from its own first steps, and said at its end.

A run far below its floor is warned of while there is time to stop it, with what on this machine can be the reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bethink.core.console import duration, note, warn
from bethink.models.machine import cores
from bethink.models.recompute import Recompute
from bethink.models.speed import of_the_floor
from bethink.train.floor import StepFloor
from bethink.train.sft.preflight import Preflight

_FIRST_STEPS = 4
_SLOW_SHARE = 0.2
_WORTH_A_WARNING = 120.0
"""Seconds that must be left."""


class Forecast:
    """After the first few steps, says how long the rest will take; the first step is not counted, being slower.

    found: what was found before the run; its hours are corrected, and it is written again. floor: measured again if the run beats it.
    capacity: tokens in a packed row.
    """

    def __init__(
        self,
        found: Preflight,
        floor: StepFloor | None,
        directory: Path,
        capacity: int,
        device: torch.device,
    ) -> None:
        self.found, self.floor, self.directory = found, floor, directory
        self.capacity, self.device = capacity, device
        self._rows: list[Mapping[str, Any]] = []

    def __call__(self, row: Mapping[str, Any]) -> None:
        """One step's metrics."""
        self._rows.append(row)
        if len(self._rows) != _FIRST_STEPS:
            return
        rate, share = speed_reached(self._rows[1:])
        left = self.found.planned_tokens * (1 - row["step"] / self.found.steps)
        note(
            f"expected: {left:,.0f} more tokens at {rate:,.0f} tokens/s{of_the_floor(share)}, {duration(left / rate)}"
        )
        self.found.expected_hours = round(self.found.planned_tokens / rate / 3600, 3)
        self.found.write(self.directory)
        if self.floor is not None and share is not None and share > 1:
            note(
                "that is faster than the floor: this machine was busy when it was measured; measuring it again"
            )
            self.floor.measure_again()
        if share is not None and share < _SLOW_SHARE and left / rate > _WORTH_A_WARNING:
            warn(f"that is far below what this machine can do; see whether {'; '.join(self._suspects())}")

    def _suspects(self) -> list[str]:
        """What can be the reason, the likely first; what another program does can only be guessed from the load."""
        threads, load = torch.get_num_threads(), os.getloadavg()[0]
        on_cpu = self.device.type == "cpu"
        few = self.capacity < (512 if on_cpu else 4096)
        reasons = {
            f"other programs are running: the load is {load:.1f} on {cores()} cores": load > 1.5 * cores(),
            f"{threads} threads are too many for {cores()} cores (OMP_NUM_THREADS)": threads > cores(),
            f"{threads} threads are too few for {cores()} cores (OMP_NUM_THREADS)": on_cpu
            and threads <= cores() // 2,
            f"{self.capacity:,} tokens at once are too few (--tokens-per-microbatch)": few,
            "memory is short, so that the system swaps": self.found.memory_needed > self.found.memory_free,
            "activations need to be recomputed (--no-gradient-checkpointing)": self.found.recompute
            is not Recompute.NOTHING,
        }
        seen = [reason for reason, holds in reasons.items() if holds]
        return seen or ["another program uses the device", "the model is too small to keep it busy"]


def speed_reached(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float | None]:
    """Tokens a second over these lines of metrics.jsonl, and the share of the floor where all of them tell it."""
    seconds = sum(row["seconds"] for row in rows)
    shares = [row["floor_share"] * row["seconds"] for row in rows if "floor_share" in row]
    rate = sum(row["tokens"] for row in rows) / max(seconds, 1e-9)
    return rate, sum(shares) / max(seconds, 1e-9) if len(shares) == len(rows) else None


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a finished run took, in words."""
    rate, share = speed_reached(rows)
    tokens, seconds = (sum(row[name] for row in rows) for name in ("tokens", "seconds"))
    return f"trained on {tokens:,} tokens in {duration(seconds)}: {rate:,.0f} tokens/s{of_the_floor(share)}"
