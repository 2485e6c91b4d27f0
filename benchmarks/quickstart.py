#!/usr/bin/env python3
"""The README's quickstart table, from finished quickstart runs.

    python benchmarks/quickstart.py runs/quickstart [RUN ...] [--check]

Reads each run's results.json and manifest.json, checks the bars a quickstart must pass, writes benchmarks/results/quickstart.json (every
run: seed, machine, versions, timings, rows) and puts the first run's table between the marks in README.md. --check only checks.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- quickstart:begin -->\n", "<!-- quickstart:end -->"


def load(run: Path) -> dict[str, Any]:
    manifest = json.loads((run / "manifest.json").read_text())
    return {
        "seed": manifest["seed"],
        "seconds": round(sum(stage["seconds"] for stage in manifest["stages"])),
        "stages": {stage["name"]: round(stage["seconds"], 1) for stage in manifest["stages"]},
        "peak_memory_gib": round(max(s["peak_memory_bytes"] for s in manifest["stages"]) / 2**30, 2),
        "environment": manifest["environment"],
        "rows": json.loads((run / "results.json").read_text())["rows"],
    }


def failures(run: dict[str, Any]) -> list[str]:
    """Which of the quickstart's promises a run breaks."""
    cell = {(row["model"], row["mode"]): row for row in run["rows"]}
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


def table(run: dict[str, Any]) -> str:
    lines = [
        "| model | thinking | accuracy (95 % interval) | complies | cut off | thinking + answer tokens |",
        "|---|---|---|---|---|---|",
    ]
    for row in run["rows"]:
        lines.append(
            f"| {row['model']} | {row['mode']} | {100 * row['accuracy']:.1f} % ({100 * row['low']:.1f} – {100 * row['high']:.1f}) "
            f"| {100 * row['compliance']:.1f} % | {100 * row['truncated']:.1f} % "
            f"| {row['thinking_tokens']:.0f} + {row['answer_tokens']:.0f} |"
        )
    environment = run["environment"]
    n = min(row["n"] for row in run["rows"])
    lines += [
        "",
        (
            f"{n} held-out problems a cell, seed {run['seed']}; {run['seconds'] // 60} min {run['seconds'] % 60:02d} s after downloads, "
            f"peak memory {run['peak_memory_gib']:.1f} GiB, on {environment['cores']} cores of an {environment['processor']} without GPU."
        ),
        "",
    ]
    return "\n".join(lines)


def others(runs: list[dict[str, Any]]) -> str:
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    runs = [load(path) for path in arguments.runs]
    broken = 0
    for path, run in zip(arguments.runs, runs, strict=True):
        found = failures(run)
        broken += bool(found)
        print(
            f"{path} (seed {run['seed']}): {'; '.join(f'NOT {promise}' for promise in found) or 'every promise kept'}"
        )
    if not arguments.check:
        kept = [{**run, "broken_promises": failures(run)} for run in runs]
        (ROOT / "benchmarks/results/quickstart.json").write_text(json.dumps(kept, indent=2) + "\n")
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
        readme.write_text(
            before + BEGIN + table(runs[0]) + others(runs) + END + rest.partition(END)[2], encoding="utf-8"
        )
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
