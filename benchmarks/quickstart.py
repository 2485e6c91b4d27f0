#!/usr/bin/env python3
"""The README's quickstart table, from finished quickstart runs.

    python benchmarks/quickstart.py runs/quickstart [RUN ...] [--check]

Reads each run's results.json and manifest.json, checks the bars a quickstart must pass, writes benchmarks/results/quickstart.json (every
run: seed, machine, versions, timings, rows) and puts the first run's table between the marks in README.md. --check only checks.
"""

from __future__ import annotations

from recipe_runs import Run, cells, keep, load, table


def failures(run: Run) -> list[str]:
    """Which of the quickstart's promises a run breaks."""
    cell = cells(run)
    on, off = cell["trained", "on"], cell["trained", "off"]
    promises = {
        "at least 200 problems a mode": all(row["n"] >= 200 for row in run["rows"]),
        "base at most 5 %": all(cell["base", mode]["accuracy"] <= 0.05 for mode in ("on", "off")),
        "trained, thinking on, at least 50 %": on["accuracy"] >= 0.50,
        "on minus off at least 20 points": on["accuracy"] - off["accuracy"] >= 0.20,
        "intervals apart": on["low"] > off["high"],
        "compliance at least 99 % in both modes": min(on["compliance"], off["compliance"]) >= 0.99,
        "at most 7 minutes": run["seconds"] <= 7 * 60,
        "at most 5 GB": run["peak_memory_gib"] * 2**30 <= 5e9,
    }
    return [promise for promise, kept in promises.items() if not kept]


def others(runs: list[Run]) -> str:
    """The same figures of the runs with other seeds, in words."""
    if len(runs) < 2:
        return ""
    accuracy = [
        "seed {}: on {:.1f}, off {:.1f}".format(
            run["seed"],
            *(
                100 * row["accuracy"]
                for mode in ("on", "off")
                for row in run["rows"]
                if (row["model"], row["mode"]) == ("trained", mode)
            ),
        )
        for run in runs[1:]
    ]
    compliance = min(row["compliance"] for run in runs for row in run["rows"] if row["model"] == "trained")
    slowest, largest = max(run["seconds"] for run in runs), max(run["peak_memory_gib"] for run in runs)
    return (
        f"Trained, with other seeds ({'; '.join(accuracy)} %); over all runs compliance at least {100 * compliance:.1f} %, at most "
        f"{slowest // 60} min {slowest % 60:02d} s and {largest:.1f} GiB.\n"
    )


if __name__ == "__main__":
    keep(__doc__, load, failures, "quickstart", "README.md", lambda runs: table(runs[0]) + others(runs))
