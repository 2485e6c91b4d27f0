"""Whether a change made the package slower: the main ratios, measured again in a few minutes, beside the committed ones.

    python benchmarks/guard.py            exits 1 when a ratio fell more than 15 % below results/guard.json
    python benchmarks/guard.py --write    records the medians of three measurements

Ratios, because absolute times say nothing on another machine: training, sampling and curation as shares of the floor measured in the same
minute, grading beside math-verify. They need no other environment than the project's own. What disturbs a machine can make a ratio
worse; so one that fell is measured twice more, and has fallen only if it does so every time.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random

import curate
import grading
import rollouts
import sft
from harness import RESULTS, machine, parser_for, write

FALL = 0.15
MODEL, TASK = "smollm2-135m", "gsm_symbolic"
Ratios = dict[str, float]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--write", action="store_true", help="record instead of comparing")
    parser.add_argument("--only", action="append", choices=sorted(MEASURES))
    options = parser.parse_args()
    chosen = {name: MEASURES[name] for name in MEASURES if name in (options.only or MEASURES)}
    path = RESULTS / "guard.json"
    committed = json.loads(path.read_text()) if path.exists() else None
    with tempfile.TemporaryDirectory() as scratch:
        if options.write:
            found = {
                name: value
                for measure in chosen.values()
                for name, value in recorded(measure, scratch).items()
            }
            kept = committed["ratios"] if committed and options.only else {}
            write(
                "guard", {"machine": machine("bethink", "torch", "transformers"), "ratios": {**kept, **found}}
            )
            return
        if committed is None:
            sys.exit(f"{path} is not there: record it with --write")
        here = machine("torch")
        if here["processor"] != committed["machine"]["processor"]:
            print(
                f"recorded on {committed['machine']['processor']}, this is {here['processor']}: shares may differ"
            )
        fallen = [
            name for measure in chosen.values() for name in compared(measure, scratch, committed["ratios"])
        ]
    sys.exit(f"slower than recorded: {', '.join(fallen)}" if fallen else 0)


def recorded(measure: Callable[[Path], Ratios], scratch: str) -> Ratios:
    """The medians of three measurements."""
    found = [measure(Path(tempfile.mkdtemp(dir=scratch))) for _ in range(3)]
    medians = {name: round(statistics.median(one[name] for one in found), 3) for name in found[0]}
    for name in medians:
        print(
            f"{name:32} {medians[name]:7.3f}   of {', '.join(f'{one[name]:.3f}' for one in found)}",
            flush=True,
        )
    return medians


def compared(measure: Callable[[Path], Ratios], scratch: str, committed: Ratios) -> list[str]:
    """The ratios that fell, three times in a row. One that was never recorded cannot fall."""
    fallen: set[str] | None = None
    for _ in range(3):
        found = measure(Path(tempfile.mkdtemp(dir=scratch)))
        for name, value in found.items():
            before = f"recorded {committed[name]:.3f}" if name in committed else "not recorded"
            print(f"{name:32} {value:7.3f}   {before}", flush=True)
        below = {name for name, value in found.items() if value < (1 - FALL) * committed.get(name, 0.0)}
        fallen = below if fallen is None else fallen & below
        if not fallen:
            break
    return sorted(fallen or ())


def training(scratch: Path) -> Ratios:
    """Share of the floor of LoRA steps."""
    options = Namespace(model=MODEL, task=TASK, steps=4, warm=1, batch=16, seed=0)
    work = sft.prepare(options, scratch)
    least, ours = sft.floor(options, work), sft.ours(options, work, scratch)
    return {"sft, share of the floor": ours["tokens_per_second"] / least["tokens_per_second"]}


def sampling(scratch: Path) -> Ratios:
    """Shares of the floor of sampling few and many rows."""
    options = Namespace(model=MODEL, task=TASK, rows=[4, 64], tokens=64, seed=0, only=["bethink"])
    work = rollouts.prepare(options, scratch)
    path = scratch / "work.json"
    path.write_text(json.dumps(work))
    least, ours = rollouts.floor(work), rollouts.engine("bethink", path, {})
    return {
        f"sampling {rows} rows, share of the floor": rate / least["tokens_per_second"][rows]
        for rows, rate in ours["tokens_per_second"].items()
    }


def judging(scratch: Path) -> Ratios:
    """How many times as fast as math-verify called one by one."""
    items = grading.make_items(_answers(Random(0), 400), 300)
    path = scratch / "items.jsonl"
    path.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items), "utf-8")
    seconds = {}
    for name in ("bethink", "math-verify"):
        command = [sys.executable, grading.__file__, str(path), "--run", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds[name] = json.loads(done.stdout)["seconds"]
    return {"grading, times math-verify": seconds["math-verify"] / seconds["bethink"]}


def _answers(random: Random, count: int) -> list[str]:
    """Reference answers of the kinds that competition problems have."""
    kinds: tuple[Callable[[int, int], str], ...] = (
        lambda a, b: str(a * b),
        lambda a, b: rf"\frac{{{a}}}{{{b + a}}}",
        lambda a, b: f"{a}.{b}",
        lambda a, b: rf"{a}\sqrt{{{b}}}",
        lambda a, b: f"({a},{b})",
        lambda a, b: f"x^2 + {a}x + {b}",
        lambda a, b: rf"[{a},\infty)",
    )
    return [random.choice(kinds)(random.randint(2, 60), random.randint(2, 60)) for _ in range(count)]


def curating(scratch: Path) -> Ratios:
    """The floor's CPU time over that of the command, starting included: rows are few."""
    from bethink.curate.synthesize import SynthesizeConfig, synthesize

    rows = scratch / "rows"
    synthesize(SynthesizeConfig(output=scratch / "made", task=TASK, problems=1500, defects=0.1, seed=0))
    rows.mkdir()
    (scratch / "made" / "rows.jsonl").rename(rows / "rows.jsonl")
    options = Namespace(rows=rows, tokenizer=MODEL, workers=2, include=[])
    ours = curate.curate(options, rows, scratch / "curated")
    least = curate.measured_floor(options, scratch / "curated")
    return {"curate, floor over CPU time": least["cpu_s"] / ours["cpu_s"]}


MEASURES: dict[str, Callable[[Path], Ratios]] = {
    "sft": training,
    "sampling": sampling,
    "grading": judging,
    "curate": curating,
}

if __name__ == "__main__":
    main()
