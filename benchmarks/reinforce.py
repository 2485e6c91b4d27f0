#!/usr/bin/env python3
"""The table of reinforcement learning after the quickstart, from runs of the recipe `reinforce`.

    bethink run reinforce --until reinforcement_helps --output runs/reinforce
    python benchmarks/reinforce.py runs/reinforce [RUN ...] [--check]

Reads each run's results, manifest and comparison, checks what the recipe promises, writes benchmarks/results/reinforce.json (every run: seed,
machine, timings, rows, promises broken) and puts the first run's table between the marks in docs/grpo.md. --check only checks.
"""

from __future__ import annotations

from pathlib import Path

from recipe_runs import Run, keep, load, paired, table


def load_reinforced(run: Path) -> Run:
    """A run's figures, with the paired difference that reinforcement made."""
    return {**load(run), "reinforcement_helps": paired(run, "reinforcement_helps")}


def failures(run: Run) -> list[str]:
    """Which of the recipe's promises a run breaks."""
    cell = {(row["model"], row["mode"]): row for row in run["rows"]}
    helps = run["reinforcement_helps"]
    promises = {
        "at least 500 problems a mode": all(row["n"] >= 500 for row in run["rows"]),
        "at least 10 points, thinking on": helps["difference"] >= 0.10,
        "a paired interval that excludes 0": helps["low"] > 0,
        "compliance within a point of what it was": all(
            cell["after", mode]["compliance"] >= cell["before", mode]["compliance"] - 0.01
            for mode in ("on", "off")
        ),
        "at most 20 minutes of learning": run["stages"]["longer"] <= 20 * 60,
    }
    return [promise for promise, kept in promises.items() if not kept]


if __name__ == "__main__":
    keep(__doc__, load_reinforced, failures, "reinforce", "docs/grpo.md", lambda runs: table(runs[0]))
