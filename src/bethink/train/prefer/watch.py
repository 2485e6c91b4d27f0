"""Says when a policy unlearns what it should prefer.

The losses look at differences only: a policy can win every pair while both completions become unlikely, and say something else altogether
(Pal et al. 2024, arXiv 2402.13228; Razin et al. 2024, arXiv 2410.08847).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bethink.core.console import warn

WINDOW = 10
"""Steps that are averaged."""

FALL = 0.3
"""Nats a token: each token of a chosen completion a quarter less likely than before training."""


class Watch:
    """rows: the lines of metrics.jsonl that an earlier process left."""

    def __init__(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self._first: list[float] = []
        self._changes: list[float] = []
        for row in rows:
            self._add(row)
        self._said = self._fallen() is not None

    def see(self, step: int, row: Mapping[str, Any]) -> None:
        """One more step's metrics; warns when the chosen completions have become far less likely, once while that holds."""
        self._add(row)
        fall = self._fallen()
        if fall is not None and not self._said:
            warn(
                f"step {step}: the chosen completions are {fall:.2f} nats a token less likely than before training; "
                "add --sft 1, raise --beta, or lower --lr"
            )
        self._said = fall is not None

    def _add(self, row: Mapping[str, Any]) -> None:
        """Without a reference, what counts is the change since the first steps."""
        if "chosen_change" in row:
            self._changes.append(row["chosen_change"])
        elif len(self._first) < WINDOW:
            self._first.append(row["chosen"])
        else:
            self._changes.append(row["chosen"] - fmean(self._first))

    def _fallen(self) -> float | None:
        if len(self._changes) < WINDOW:
            return None
        mean = fmean(self._changes[-WINDOW:])
        return -mean if mean < -FALL else None
