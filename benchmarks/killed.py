#!/usr/bin/env python3
"""A recipe killed at random moments and started again leaves what an undisturbed run leaves.

    bethink run r1 --preset cpu --set seed=17 --output runs/whole
    python benchmarks/killed.py runs/whole runs/killed [--kills 2] [--check]

Repeats the run in the first directory in the second one, where its processes are killed (SIGKILL, the whole group) at moments drawn over the time
that the first one took. Then compares everything that was trained or written: weights, optimizer states and tables byte for byte, rows of
JSON but for times and the directory's name. Figures and pages are drawn from those and are not compared. Ends with 1 where something differs;
unless --check is given, the outcome is kept in benchmarks/results/killed.json.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bethink.train.metrics import TIMING
from harness import RESULTS, parser_for

TIMES = {*TIMING, "floor_seconds"}
"""What takes another time in every run."""

COMPARED = (".safetensors", ".parquet", ".jsonl")


def repeat(manifest: dict[str, Any], output: Path, moments: Sequence[float]) -> list[str]:
    """Run the manifest's recipe in `output`, killed after so many seconds of work, to its end; returns the stages that the kills met."""
    command = [
        str(Path(sys.executable).with_name("bethink")),
        "run",
        manifest["source"],
        "--output",
        str(output),
    ]
    for option in manifest["overrides"]:
        name, _, value = option.partition("=")
        command += ["--preset", value] if name == "preset" else ["--set", option]
    met = []
    for before, moment in zip([0.0, *moments], moments, strict=False):
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait(timeout=moment - before)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        met.append(under_way(output))
        print(f"killed after {moment:.0f} s, in stage {met[-1]}", flush=True)
    subprocess.run(command, check=True)
    return met


def under_way(run: Path) -> str:
    """The first stage that is not done."""
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    return next((stage["name"] for stage in stages if stage["state"] != "done"), "(all done)")


def differing(whole: Path, again: Path) -> tuple[int, list[str]]:
    """How many files were compared, and which of them differ or stand in one run only."""
    found = [{path.relative_to(run) for path in products(run)} for run in (whole, again)]
    odd = [str(path) for path in found[0] ^ found[1]]
    odd += [str(path) for path in found[0] & found[1] if content(whole, path) != content(again, path)]
    return len(found[0] | found[1]), sorted(odd)


def products(run: Path) -> Iterable[Path]:
    """What the stages of a run made, and the table of its results."""
    yield run / "results.json"
    yield from (path for path in run.rglob("*") if path.suffix in COMPARED)


def content(run: Path, path: Path) -> Any:
    """A file's bytes, or the values of its rows without times; the run's own name is the same in both."""
    data = (run / path).read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        return data
    text = data.decode().replace(str(run.absolute()), "RUN")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    return [json.loads(line, object_hook=timeless) for line in lines]


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMES}


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("whole", type=Path)
    parser.add_argument("killed", type=Path, help="a new directory, or one to compare as it is")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    whole, killed = arguments.whole, arguments.killed
    manifest = json.loads((whole / "manifest.json").read_text())
    seconds = sum(stage["seconds"] for stage in manifest["stages"])
    moments = sorted(random.uniform(0.1, 0.95) * seconds for _ in range(arguments.kills))
    met = [] if killed.exists() else repeat(manifest, killed, moments)
    compared, odd = differing(whole, killed)
    print(f"{compared} files compared: {', '.join(odd) if odd else 'all the same'}")
    if met and not arguments.check:
        outcome = {
            "recipe": manifest["recipe"]["name"],
            "overrides": manifest["overrides"],
            "seconds": round(seconds),
            "killed_after": [round(moment) for moment in moments],
            "killed_in": met,
            "compared": compared,
            "differing": odd,
            "environment": manifest["environment"],
        }
        (RESULTS / "killed.json").write_text(json.dumps(outcome, indent=2) + "\n")
    sys.exit(bool(odd))


if __name__ == "__main__":
    main()
