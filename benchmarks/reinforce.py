#!/usr/bin/env python3
"""The table of reinforcement learning after the quickstart, from runs of the recipe `reinforce`.

    bethink run reinforce --output runs/reinforce
    python benchmarks/reinforce.py runs/reinforce [RUN ...] [--check]

Reads each run's results, manifest, comparisons and curves, checks what the recipe promises, writes benchmarks/results/reinforce.json (every run:
seed, machine, timings, rows, promises broken) and puts tables of them between the marks in docs/grpo.md. --check only checks. A run
up to its stage reinforcement_helps will do; what comes after it is then left out.
"""

from __future__ import annotations

import math
from itertools import accumulate
from pathlib import Path

from bethink.train.metrics import read_metrics
from recipe_runs import Run, complies_as_before, keep, load, paired, table

Curve = list[tuple[int, float]]
"""Completion tokens sampled so far, and the share of held-out problems solved."""

HARDER = "eval_on_level_1"


def load_reinforced(run: Path) -> Run:
    """A run's figures, with the paired differences that reinforcement and gating made, and both curves of the harder level."""
    found = {**load(run), "reinforcement_helps": paired(run, "reinforcement_helps")}
    if (run / "gating_helps").exists():
        found["gating_helps"] = paired(run, "gating_helps")
        found["curves"] = {stage: curve(run / stage) for stage in ("gated", "mixed")}
    return found


def curve(stage: Path) -> Curve:
    """Held-out accuracy on the harder level while a stage learned."""
    rows = read_metrics(stage / "metrics.jsonl")
    sampled = accumulate(row["tokens"] for row in rows)
    return [(tokens, row[HARDER]) for tokens, row in zip(sampled, rows, strict=True) if HARDER in row]


def tokens_to(accuracy: float, points: Curve) -> float:
    """Tokens sampled until this accuracy was first measured."""
    return next((tokens for tokens, measured in points if measured >= accuracy), math.inf)


def shown(runs: list[Run]) -> str:
    """The first run's table, a line for each run, and both curves of those that have them."""
    return table(runs[0]) + runs_table(runs) + curves_table([run for run in runs if "curves" in run])


def runs_table(runs: list[Run]) -> str:
    """What reinforcement and gating changed, run by run; accuracies thinking on."""
    lines = []
    for run in runs:
        on = {row["model"]: f"{100 * row['accuracy']:.1f} %" for row in run["rows"] if row["mode"] == "on"}
        shown_helps = {
            stage: f"{100 * run[stage]['difference']:+.1f} ({100 * run[stage]['low']:+.1f} to {100 * run[stage]['high']:+.1f})"
            for stage in ("reinforcement_helps", "gating_helps")
            if stage in run
        }
        cells = [
            str(run["seed"]),
            on["before"],
            on["after"],
            shown_helps["reinforcement_helps"],
            f"{run['stages']['longer'] / 60:.0f} min",
            on.get("after_gated", ""),
            on.get("after_mixed", ""),
            shown_helps.get("gating_helps", ""),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    head = "| seed | before | after | difference (95 % interval) | learned in | gated | mixed | gated less mixed |"
    return "\n".join(["", head, "|---" * 8 + "|", *lines, ""])


def curves_table(runs: list[Run]) -> str:
    """A line for each stage: accuracy by tokens sampled."""
    lines = [
        f"| {run['seed']} | {stage} | "
        + " | ".join(f"{100 * accuracy:.0f} % at {tokens / 1000:.0f}k" for tokens, accuracy in points)
        + " |"
        for run in runs
        for stage, points in run["curves"].items()
    ]
    if not lines:
        return ""
    places = max(len(points) for run in runs for points in run["curves"].values())
    head = "| seed | levels | held-out accuracy on nine and ten numbers, by completion tokens sampled |"
    return "\n".join(["", head + " |" * (places - 1), "|---" * (places + 2) + "|", *lines, ""])


def failures(run: Run) -> list[str]:
    """Which of the recipe's promises a run breaks."""
    helps = run["reinforcement_helps"]
    promises = {
        "at least 500 problems a mode": all(row["n"] >= 500 for row in run["rows"]),
        "at least 10 points, thinking on": helps["difference"] >= 0.10,
        "a paired interval that excludes 0": helps["low"] > 0,
        "compliance within a point of what it was": complies_as_before(run, "after"),
        "at most 20 minutes of learning": run["stages"]["longer"] <= 20 * 60,
    }
    if "curves" in run:
        gated, mixed = run["curves"]["gated"], run["curves"]["mixed"]
        best = max(accuracy for _, accuracy in mixed)
        promises |= {
            "gated, what mixed reaches is reached sooner": tokens_to(best, gated) < tokens_to(best, mixed),
            "gated, more of the harder level is learned": run["gating_helps"]["low"] > 0,
        }
    return [promise for promise, kept in promises.items() if not kept]


if __name__ == "__main__":
    keep(__doc__, load_reinforced, failures, "reinforce", "docs/grpo.md", shown)
