"""Preference tuning on this machine's CPU: `bethink prefer` against TRL's DPOTrainer with PEFT, as it comes and tuned.

    python benchmarks/dpo.py [--task chain_sum:…] [--steps 12] [--warm 2] [--batch 8] [--rounds 3]

All train the same adapter (rank 32, every linear layer) on the built-in model with DPO's loss (beta 0.1) at a constant learning rate, on the
same pairs, each once: a question, its worked solution, and the working of another question as the worse one. They run in processes of
their own, in turn. What is compared is all that a pair costs, the reference's pass over it included, which one program makes before
training and another in every step: the time of a whole run of --steps steps less that of one of --warm steps, over the pairs in which they
differ. A useful token is one of a prompt, counted once a pair, or of a completion, not of padding.

That all did the same work is checked by the tokens of the pairs, the loss of the first step (ln 2 with any weights) and of the last quarter of
the steps, and by all of them having learned: at least nine in ten pairs are told apart there.

The peer has an environment of its own (under BETHINK_BENCH, ~/.cache/bethink-bench), made on the first run. dpo_trl.py lists what
its documentation offers for speed. The result is written to benchmarks/results/dpo.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness import (
    curated_rows,
    environment,
    in_turn,
    machine,
    median_of,
    parser_for,
    report_times,
    run,
    write,
)
from sft import PEER

TASK = "chain_sum:min_terms=5,max_terms=8,min_digits=1,max_digits=1"
RANK, ALPHA, LEARNING_RATE = 32, 64, 3e-4
FIRST, LAST, TOLD_APART = 1e-3, 0.1, 0.9
"""How far losses may be from ln 2 in the first step, and apart in the last ones (adapters begin at different random weights, and the orders
of pairs differ); and the share of pairs told apart there at least."""


@dataclass(frozen=True)
class Work:
    """The model's directory, and by the number of steps a file with the pairs of a run: a short one and a long one."""

    model: Path
    pairs: dict[int, Path]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default=TASK, help="generator the pairs are made from")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm", type=int, default=2, help="steps of the short run")
    parser.add_argument("--batch", type=int, default=8, help="pairs a step")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    python = environment("trl", PEER)
    with tempfile.TemporaryDirectory() as scratch:
        work = prepare(options, Path(scratch))
        programs: dict[str, Callable[[], dict[str, Any]]] = {
            "bethink": partial(measured, work, partial(ours, options, work, Path(scratch)))
        }
        for variant in ("default", "tuned", "beforehand"):
            name = f"TRL, {variant}" if variant != "beforehand" else "TRL, tuned, reference beforehand"
            programs[name] = partial(
                measured, work, partial(peer, options, python, work, Path(scratch), variant)
            )
        runs = in_turn(programs, options.rounds, shown=lambda one: one["tokens_per_second"])
    result = summary(options, runs)
    write("dpo", result)
    report(result)
    sys.exit(not result["same_work"])


def prepare(options: argparse.Namespace, scratch: Path) -> Work:
    """Pairs of curated rows that think: the worse completion is that of the row before."""
    from bethink.models.locate import locate

    needed = options.steps * options.batch
    curated = curated_rows(options.task, 2 * needed, options.seed, options.model, scratch)
    rows = [json.loads(line) for line in curated.read_text("utf-8").splitlines()]
    thinking = [row for row in rows if row["mode"] == "on"][:needed]
    lines = [
        json.dumps(
            {"input": row["input"], "chosen": row["output"], "rejected": other["output"], "mode": "on"}
        )
        for row, other in zip(thinking, thinking[-1:] + thinking[:-1], strict=True)
    ]
    files = {steps: scratch / f"pairs-{steps}.jsonl" for steps in (options.warm, options.steps)}
    for steps, path in files.items():
        path.write_text("\n".join(lines[: steps * options.batch]), "utf-8")
    return Work(locate(options.model).directory, files)


def measured(work: Work, program: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """A program's figures: its long run's, and what the steps beyond its short run's took."""
    short, long = (program(steps) for steps in sorted(work.pairs))
    seconds = long["wall"] - short["wall"]
    tokens = long["tokens"] - short["tokens"]
    last = -(-len(long["losses"]) // 4)
    return {
        "tokens_per_second": round(tokens / seconds, 1),
        "seconds": round(seconds, 2),
        "tokens": tokens,
        "first_loss": round(long["losses"][0], 4),
        "last_loss": round(statistics.fmean(long["losses"][-last:]), 4),
        "told_apart": round(statistics.fmean(long["accuracies"][-last:]), 3),
        "peak_gb": long["peak_gb"],
    }


def ours(options: argparse.Namespace, work: Work, scratch: Path, steps: int) -> dict[str, Any]:
    output = Path(tempfile.mkdtemp(dir=scratch)) / "run"
    command = [sys.executable, "-m", "bethink.cli.main", "prefer", "--model", options.model, "--data", str(work.pairs[steps]),
               "--output", str(output), "--batch-size", str(options.batch), "--rank", str(RANK), "--alpha", str(ALPHA), "--lr", str(LEARNING_RATE),
               "--warmup", "0", "--min-lr-ratio", "1", "--weight-decay", "0", "--seed", str(options.seed),
               "--held-out", "0", "--eval-every", "0", "--checkpoint-every", "0"]  # fmt: skip
    started = time.perf_counter()
    _, peak = run(command)
    wall = time.perf_counter() - started
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    tokens, losses, accuracies = ([row[name] for row in rows] for name in ("tokens", "loss", "accuracy"))
    return {
        "wall": wall,
        "tokens": sum(tokens),
        "losses": losses,
        "accuracies": accuracies,
        "peak_gb": round(peak / 1e9, 2),
    }


def peer(
    options: argparse.Namespace, python: Path, work: Work, scratch: Path, variant: str, steps: int
) -> dict[str, Any]:
    command = [str(python), str(Path(__file__).with_name("dpo_trl.py")), str(work.model), str(work.pairs[steps]), variant, str(steps),
               str(options.batch), str(RANK), str(ALPHA), str(LEARNING_RATE)]  # fmt: skip
    # A cache of its own, or what an earlier run found of the reference would be used again.
    variables = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HOME": tempfile.mkdtemp(dir=scratch),
    }
    started = time.perf_counter()
    output, peak = run(command, variables)
    wall = time.perf_counter() - started
    return json.loads(output.splitlines()[-1]) | {"wall": wall, "peak_gb": round(peak / 1e9, 2)}


def summary(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    rates = {name: round(median_of(of, "tokens_per_second"), 1) for name, of in runs.items()}
    everyone = [one for of in runs.values() for one in of]
    last = [one["last_loss"] for one in everyone]
    return {
        "machine": machine("bethink", "torch", "transformers"),
        "peer": PEER,
        "work": vars(options) | {"rank": RANK, "alpha": ALPHA, "lr": LEARNING_RATE},
        "tokens_per_second": rates,
        "peak_gb": {name: median_of(of, "peak_gb") for name, of in runs.items()},
        "times": {name: round(rates["bethink"] / rates[name], 2) for name in runs if name != "bethink"},
        "same_work": len({one["tokens"] for one in everyone}) == 1
        and all(abs(one["first_loss"] - math.log(2)) <= FIRST for one in everyone)
        and max(last) - min(last) <= LAST
        and all(one["told_apart"] >= TOLD_APART for one in everyone),
        "runs": runs,
    }


def report(result: dict[str, Any]) -> None:
    for name, rate in result["tokens_per_second"].items():
        one = result["runs"][name][-1]
        print(
            f"{name:34} {rate:7.1f} useful tokens/s   {result['peak_gb'][name]:.2f} GB   loss {one['first_loss']:.2f} → {one['last_loss']:.2f}, "
            f"{one['told_apart']:.0%} told apart"
        )
    report_times(result, "tokens, losses and told_apart")


if __name__ == "__main__":
    main()
