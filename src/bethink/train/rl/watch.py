"""Hands a run's metrics to the reward hacking watch (verify/rewards/watch.py) and says each warning once while it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bethink.chat.toggle import Mode
from bethink.core.console import warn
from bethink.verify.rewards.watch import WatchRow, warnings

_PART = "reward/"


class Watch:
    """rows: the lines of metrics.jsonl that an earlier run left."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = [_watched(row) for row in rows]
        self._said: set[tuple[str, str]] = set()

    def see(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One more step's metrics → the warnings that hold after it, as they stand in metrics.jsonl: kind, about, since, text."""
        self._rows.append(_watched({**row, "step": len(self._rows) + 1}))
        found = warnings(self._rows)
        held = {(warned.kind, warned.about): warned.text for warned in found}
        for key, text in held.items():
            if key not in self._said:
                warn(f"step {len(self._rows)}: {text}; read rollouts.html")
        self._said = set(held)
        return [asdict(warned) for warned in found]


def _watched(row: Mapping[str, Any]) -> WatchRow:
    def by_mode(name: str) -> dict[str, float]:
        return {mode.value: row[f"{name}_{mode}"] for mode in Mode if row.get(f"{name}_{mode}") is not None}

    return WatchRow(
        step=row["step"],
        accuracy=by_mode("pass"),
        compliance=by_mode("compliance"),
        tokens=by_mode("tokens"),
        parts={
            key.removeprefix(_PART): value
            for key, value in row.items()
            if key.startswith(_PART) and not _is_of_a_mode(key, row)
        },
        reward=row["reward"],
        disagreement=row["disagreement"],
    )


def _is_of_a_mode(key: str, row: Mapping[str, Any]) -> bool:
    """Whether this is a part's mean in one mode, beside the one of all."""
    return any(key.endswith(f"_{mode}") and key.removesuffix(f"_{mode}") in row for mode in Mode)
