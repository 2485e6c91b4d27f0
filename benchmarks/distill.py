#!/usr/bin/env python3
"""The table of what reinforcement taught one model passed on to another, from runs of the recipe `distill`.

    bethink run distill --output runs/distill
    python benchmarks/distill.py runs/distill [RUN ...] [--check]

Reads each run's results, manifest and comparisons, checks what the recipe promises, writes benchmarks/results/distill.json (every run: seed,
machine, timings, rows, promises broken) and puts the first run's table between the marks in docs/distill.md. --check only checks.
"""

from __future__ import annotations

from pathlib import Path

from recipe_runs import Run, cells, complies_as_before, keep, load, paired, table

WAYS = {
    "answers_help": "answers",
    "probabilities_help": "probabilities",
    "own_helps": "probabilities at its own tokens",
}


def load_distilled(run: Path) -> Run:
    """A run's figures, with the paired differences that each way made."""
    return {**load(run), **{stage: paired(run, stage) for stage in WAYS}}


def failures(run: Run) -> list[str]:
    """Which of the recipe's promises a run breaks."""
    cell = cells(run)
    students = {model for model, _ in cell} - {"teacher", "before"}
    promises = {
        "at least 500 problems a mode": all(row["n"] >= 500 for row in run["rows"]),
        **{f"{way} help, paired": run[stage]["low"] > 0 for stage, way in WAYS.items()},
        "every student within the teacher's interval, or above": all(
            cell[student, "on"]["high"] >= cell["teacher", "on"]["low"] for student in students
        ),
        "compliance within a point of what it was": complies_as_before(run, *students),
    }
    return [promise for promise, kept in promises.items() if not kept]


if __name__ == "__main__":
    keep(__doc__, load_distilled, failures, "distill", "docs/distill.md", lambda runs: table(runs[0]))
