"""What is known before the first step: how many pairs, of what kind, and how long the run is; what would waste it stops it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from bethink.core.console import err, warn
from bethink.core.errors import PreflightError
from bethink.core.files import write_json
from bethink.train.prefer.store import PairCensus
from bethink.train.prefer.verdicts import Count
from bethink.train.schedule import Schedule

_LONGER = 0.8
_REASONS = {
    "too_long": "too long",
    "same": "both completions the same",
    "empty": "empty completions",
    "unrendered": "not as the template writes them",
}


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found; written to preflight.json. answers: what the pairs were made of, where they were made here."""

    pairs: PairCensus
    schedule: Schedule
    answers: Count | None

    @property
    def dropped_share(self) -> float:
        """Pairs left out, of those read."""
        return sum(self.pairs.dropped.values()) / max(self.pairs.read, 1)

    @property
    def chosen_longer(self) -> float:
        """The share of the pairs whose chosen completion is the longer one."""
        return self.pairs.chosen_longer / max(self.pairs.kept + self.pairs.held_out, 1)

    def write(self, directory: Path) -> None:
        """Write preflight.json."""
        found: dict[str, Any] = asdict(self.pairs) | {
            "dropped_share": round(self.dropped_share, 6),
            "chosen_longer_share": round(self.chosen_longer, 6),
            "steps": self.schedule.steps,
            "samples": self.schedule.samples,
        }
        if self.answers is not None:
            found["answers"] = asdict(self.answers)
        write_json(directory / "preflight.json", found)

    def check(self, allow_dropped: float) -> None:
        """Show what was found. Raises PreflightError when more pairs than allowed cannot be learned from."""
        err.print(self._table())
        if self.dropped_share > allow_dropped:
            places = ", ".join(self.pairs.examples)
            raise PreflightError(
                f"{self.dropped_share:.1%} of the pairs cannot be learned from ({self._dropped()}), as at {places}",
                fix="mend them, or go on without them: --allow-dropped SHARE with --resume",
            )
        if self.chosen_longer > _LONGER:
            warn(
                f"in {self.chosen_longer:.0%} of the pairs the chosen completion is the longer one: the model will learn to "
                "write more; --length mean (as --algorithm simpo has it) takes the length out"
            )

    def _dropped(self) -> str:
        found = self.pairs.dropped.items()
        return ", ".join(f"{_REASONS[reason]}: {count:,}" for reason, count in found) or "none"

    def _table(self) -> Table:
        pairs, whole = self.pairs, self.pairs.kept + self.pairs.held_out
        table = Table(title="preflight", show_header=False, title_justify="left")
        rows = {
            "pairs": f"{pairs.kept:,} to train on, {pairs.held_out:,} held out, of {pairs.read:,} read",
            "left out": self._dropped(),
            "thinking on / off": f"{pairs.on / max(whole, 1):.1%} / {1 - pairs.on / max(whole, 1):.1%}",
            "tokens": f"{pairs.tokens:,}; longest pair {pairs.longest:,}",
            "chosen is the longer": f"{self.chosen_longer:.1%}",
            "plan": f"{self.schedule.steps:,} steps, {self.schedule.samples:,} pairs",
        }
        if (made := self.answers) is not None:
            kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(made.pairs.items()))
            rows["made of"] = (
                f"{made.answers:,} answers ({made.ungraded:,} ungraded) to {made.problems:,} problems, of which "
                f"{made.with_pairs:,} gave pairs; rejected: {kinds}"
            )
        for name, value in rows.items():
            table.add_row(name, value)
        return table
