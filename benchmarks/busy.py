#!/usr/bin/env python3
"""Training and sampling on a machine that other programs keep busy, as it is and with the OpenMP library's own busy waiting.

    python benchmarks/busy.py [--busy 0 1 2] [--seconds 90] [--check]

Beside so many programs that only count, `bethink sft` takes steps on the same rows with both settings in turn, for so many seconds at most; the rate is
that of the steps done, the first left out. Ends with 1 where the command's own setting is slower than nine tenths of the other, on a quiet machine or
a busy one; unless --check is given, the figures are kept in benchmarks/results/busy.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import RESULTS, machine, parser_for

SETTINGS = {"own": {}, "library": {"GOMP_SPINCOUNT": "300000"}}
"""What the environment says; nothing: what the command sets by itself."""

BETHINK = [sys.executable, "-m", "bethink.cli.main"]


@contextlib.contextmanager
def busy(programs: int) -> Iterator[None]:
    """Inside, so many programs count."""
    counting = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in counting:
            program.kill()
            program.wait()


def rows(directory: Path) -> Path:
    """Curated rows to train on."""
    task = "chain_sum:min_terms=4,max_terms=7,min_digits=1,max_digits=1"
    recipe = directory / "rows.yaml"
    recipe.write_text(
        "name: rows\nstages:\n"
        f"  - {{name: worked, uses: synthesize, with: {{task: '{task}', problems: 400, defects: 0}}}}\n"
        "  - {name: rows, uses: curate, with: {input: ['${stages.worked}'], tokenizer: smollm2-135m, order: random}}\n"
    )
    subprocess.run([*BETHINK, "run", recipe, "--output", directory / "run"], check=True, capture_output=True)
    return directory / "run" / "rows"


def rate(data: Path, output: Path, setting: str, seconds: float) -> float:
    """Tokens a second of the steps done within the time, without the first; 0 where none was."""
    command = [
        *BETHINK,
        "sft",
        "--model",
        "smollm2-135m",
        "--data",
        data,
        "--output",
        output,
        "--eval-every",
        "0",
    ]
    command += ["--steps", "8", "--batch-size", "16", "--tokens-per-microbatch", "1024", "--held-out", "0"]
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    run = subprocess.Popen(
        command,
        env=environment | SETTINGS[setting],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    metrics = output / "metrics.jsonl"
    steps = [json.loads(line) for line in metrics.read_text().splitlines()][1:] if metrics.exists() else []
    if not steps:
        return 0.0
    return sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps)


def measure(counts: Sequence[int], seconds: float) -> list[dict[str, float]]:
    """A row for each number of busy programs: the rates of both settings."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        data = rows(Path(directory))
        for count in counts:
            row: dict[str, float] = {"busy": count}
            for setting in SETTINGS:
                with busy(count):
                    row[setting] = round(
                        rate(data, Path(directory) / f"{count}-{setting}", setting, seconds), 1
                    )
            print(
                f"beside {count} busy programs: {row['own']:,.0f} tokens/s, with the library's waiting {row['library']:,.0f}"
            )
            found.append(row)
    return found


def main() -> int:
    """Measure, judge, keep."""
    parser = parser_for(__doc__)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    found = measure(options.busy, options.seconds)
    if not options.check:
        result = {"machine": machine("torch"), "seconds": options.seconds, "tokens_per_second": found}
        (RESULTS / "busy.json").write_text(json.dumps(result, indent=2) + "\n")
    return int(any(row["own"] < 0.9 * row["library"] for row in found))


if __name__ == "__main__":
    sys.exit(main())
