#!/usr/bin/env python3
"""The table of preference tuning after the quickstart, from runs of the recipe `prefer`.

    bethink run prefer --output runs/prefer
    python benchmarks/prefer.py runs/prefer [RUN ...] [--check]

Reads each run's results, manifest and comparison, checks what the recipe promises, writes benchmarks/results/prefer.json (every run: seed,
machine, timings, rows, promises broken) and puts the first run's table between the marks in docs/prefer.md. --check only checks.
"""

from __future__ import annotations

from pathlib import Path

from recipe_runs import Run, complies_as_before, keep, load, paired, table


def load_preferred(run: Path) -> Run:
    """A run's figures, with the paired difference that preferences made."""
    return {**load(run), "preferences_help": paired(run, "preferences_help")}


def failures(run: Run) -> list[str]:
    """Which of the recipe's promises a run breaks."""
    promises = {
        "at least 500 problems a mode": all(row["n"] >= 500 for row in run["rows"]),
        "preferences help, paired": run["preferences_help"]["low"] > 0,
        "compliance within a point of what it was": complies_as_before(run, "after"),
    }
    return [promise for promise, kept in promises.items() if not kept]


if __name__ == "__main__":
    keep(__doc__, load_preferred, failures, "prefer", "docs/prefer.md", lambda runs: table(runs[0]))
