#!/usr/bin/env python3
"""The guide's table of the laboratory, from finished runs of the recipe `lab`.

    python benchmarks/lab.py runs/lab [RUN ...] [--check]

Reads each run's results, manifest, comparisons and metrics, checks what its stages promise, writes benchmarks/results/lab.json (every run:
seed, machine, timings, rows, promises broken) and puts the first run's table between the marks in docs/guide.md. --check only checks.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from quickstart import ROOT, load, table

BEGIN, END = "<!-- lab:begin -->\n", "<!-- lab:end -->"
_GUIDE = ROOT / "docs/guide.md"


def load_lab(run: Path) -> dict[str, Any]:
    """A run's figures; lesson_tokens, alone_tokens: completion tokens the student learned from, by distillation and by rewards alone."""

    def metrics(stage: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]

    def paired(stage: str) -> dict[str, float]:
        (one,) = json.loads((run / stage / "comparison.json").read_text())["comparisons"]
        return {name: one[name] for name in ("difference", "low", "high", "p_value")}

    return {
        **load(run),
        "zero_helps": paired("zero_helps"),
        "distillation_helps": paired("distillation_helps"),
        "lesson_tokens": sum(row["completion_tokens"] for row in metrics("student_sft")),
        "alone_tokens": sum(row["tokens"] for row in metrics("student_rl")),
    }


def failures(run: dict[str, Any]) -> list[str]:
    """Which of the laboratory's promises a run breaks."""
    cell = {(row["model"], row["mode"]): row for row in run["rows"]}
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    runs = [load_lab(path) for path in arguments.runs]
    broken = [failures(run) for run in runs]
    for path, run, found in zip(arguments.runs, runs, broken, strict=True):
        said = "; ".join(f"NOT {promise}" for promise in found) or "every promise kept"
        print(f"{path} (seed {run['seed']}): {said}")
    if not arguments.check:
        kept = [{**run, "broken_promises": found} for run, found in zip(runs, broken, strict=True)]
        (ROOT / "benchmarks/results/lab.json").write_text(json.dumps(kept, indent=2) + "\n")
        before, _, rest = _GUIDE.read_text(encoding="utf-8").partition(BEGIN)
        _GUIDE.write_text(before + BEGIN + table(runs[0]) + END + rest.partition(END)[2], encoding="utf-8")
    sys.exit(1 if any(broken) else 0)


if __name__ == "__main__":
    main()
