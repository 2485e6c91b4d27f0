"""Finished runs of a recipe: their figures, the promises they must keep, and what a page shows of them. quickstart.py, lab.py, reinforce.py, prefer.py and distill.py use it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import parser_for

ROOT = Path(__file__).parents[1]

Run = dict[str, Any]


def load(run: Path) -> Run:
    """Seed, timings, machine and results of a run, up to where it went."""
    manifest = json.loads((run / "manifest.json").read_text())
    return {
        "seed": manifest["seed"],
        "seconds": round(sum(stage["seconds"] for stage in manifest["stages"])),
        "stages": {stage["name"]: round(stage["seconds"], 1) for stage in manifest["stages"]},
        "peak_memory_gib": round(max(s["peak_memory_bytes"] for s in manifest["stages"]) / 2**30, 2),
        "environment": manifest["environment"],
        "rows": json.loads((run / "results.json").read_text())["rows"],
    }


def paired(run: Path, stage: str) -> dict[str, float]:
    """What a compare stage found with thinking on: the difference with its interval and p-value."""
    found = json.loads((run / stage / "comparison.json").read_text())["comparisons"]
    (one,) = (pair for pair in found if pair["mode_b"] == "on")
    return {name: one[name] for name in ("difference", "low", "high", "p_value")}


def cells(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of its results by model and mode."""
    return {(row["model"], row["mode"]): row for row in run["rows"]}


def complies_as_before(run: Run, *models: str) -> bool:
    """Whether these obey the toggle as often as the model called `before`, within a point, in both modes."""
    cell = cells(run)
    return all(
        cell[model, mode]["compliance"] >= cell["before", mode]["compliance"] - 0.01
        for model in models
        for mode in ("on", "off")
    )


def table(run: Run) -> str:
    """A line for each model and mode, and under it what they were measured with."""
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


def keep(
    description: str | None,
    read: Callable[[Path], Run],
    broken_promises: Callable[[Run], list[str]],
    results: str,
    page: str,
    shown: Callable[[list[Run]], str],
) -> None:
    """The script: say of every run on the command line which promises it breaks, and keep the runs unless --check is given.

    results: name of the file under benchmarks/results, and of the marks in `page` between which `shown` is put. Ends with 1 when a promise is
    broken in any of them.
    """
    parser = parser_for(description)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--add", action="store_true", help="keep the runs that are in the results, too")
    arguments = parser.parse_args()
    runs = [read(path) for path in arguments.runs]
    for path, run in zip(arguments.runs, runs, strict=True):
        run["broken_promises"] = broken_promises(run)
        said = "; ".join(f"NOT {promise}" for promise in run["broken_promises"]) or "every promise kept"
        print(f"{path} (seed {run['seed']}): {said}")
    if not arguments.check:
        kept = ROOT / f"benchmarks/results/{results}.json"
        seeds = {run["seed"] for run in runs}
        earlier = json.loads(kept.read_text()) if arguments.add else []
        runs += [run for run in earlier if run["seed"] not in seeds]
        kept.write_text(json.dumps(runs, indent=2) + "\n")
        begin, end = f"<!-- {results}:begin -->\n", f"<!-- {results}:end -->"
        before, _, rest = (ROOT / page).read_text(encoding="utf-8").partition(begin)
        (ROOT / page).write_text(
            before + begin + shown(runs) + end + rest.partition(end)[2], encoding="utf-8"
        )
    sys.exit(any(run["broken_promises"] for run in runs))
