#!/usr/bin/env python3
"""The guide's table of the laboratory, from finished runs of the recipe `lab`.

    python benchmarks/lab.py runs/lab [RUN ...] [--check]

Reads each run's results, manifest, comparisons and metrics, checks what its stages promise, writes benchmarks/results/lab.json (every run:
seed, machine, timings, rows, promises broken) and puts the first run's table between the marks in docs/guide.md. --check only checks.
"""

from __future__ import annotations

from pathlib import Path

from bethink.train.metrics import read_metrics
from recipe_runs import Run, cells, keep, load, paired, table


def load_lab(run: Path) -> Run:
    """A run's figures; lesson_tokens, alone_tokens: completion tokens the student learned from, by distillation and by rewards alone."""

    lessons, alone = (read_metrics(run / stage / "metrics.jsonl") for stage in ("student_sft", "student_rl"))
    return {
        **load(run),
        "zero_helps": paired(run, "zero_helps"),
        "distillation_helps": paired(run, "distillation_helps"),
        "lesson_tokens": sum(row["completion_tokens"] for row in lessons),
        "alone_tokens": sum(row["tokens"] for row in alone),
    }


def failures(run: Run) -> list[str]:
    """Which of the laboratory's promises a run breaks."""
    cell = cells(run)
    accuracy = {key: row["accuracy"] for key, row in cell.items()}
    promises = {
        "the base at most 10 %": accuracy["base", "on"] <= 0.10,
        "preferences help, intervals apart": cell["preferred", "on"]["low"] > cell["instruct", "on"]["high"],
        "R1-Zero at least 80 %": accuracy["zero", "on"] >= 0.80,
        "R1 obeys the toggle, 95 % in both modes": min(cell["r1", m]["compliance"] for m in ("on", "off"))
        >= 0.95,
        "R1 no worse than R1-Zero, within intervals": cell["r1", "on"]["high"] >= cell["zero", "on"]["low"],
        "distillation beats rewards alone, paired": run["distillation_helps"]["low"] > 0,
        "on no more tokens": run["lesson_tokens"] <= 1.1 * run["alone_tokens"],
        "at most 10 minutes": run["seconds"] <= 600,
    }
    return [promise for promise, kept in promises.items() if not kept]


if __name__ == "__main__":
    keep(__doc__, load_lab, failures, "lab", "docs/guide.md", lambda runs: table(runs[0]))
