"""LoRA fine-tuning steps on this machine's CPU: `bethink sft` against TRL's SFTTrainer with PEFT, as it comes and tuned.

    python benchmarks/sft.py [--task gsm_symbolic] [--steps 5] [--batch 32] [--rounds 3]

All train the same adapter (rank 32, every linear layer) on the built-in model, on the same curated rows in the same order, in processes of
their own, in turn (A B C A B C …). The first step of every run is not counted: it is spent on warming up. A useful token is a token of a
prompt or completion, not of padding. That all did the same work is checked by the first step's loss and the number of useful tokens.

The peer has an environment of its own (under BETHINK_BENCH, ~/.cache/bethink-bench), made on the first run. Tuned means: what its
documentation advises for speed, as far as it made a step faster here: weights in bfloat16, no gradient checkpointing, plain loss.
The result is written to benchmarks/results/sft.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import environment, in_turn, machine, median_of, run, write

PEER = ("torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "trl==1.16.0")
GOAL = 3.0
TOLERANCE = 0.02
RANK, ALPHA, LEARNING_RATE = 32, 64, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="gsm_symbolic", help="generator the rows are made from")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    python = environment("trl", PEER)
    with tempfile.TemporaryDirectory() as scratch:
        rows, model = prepare(options, Path(scratch))
        programs = {
            "bethink": lambda: ours(options, rows, Path(scratch)),
            "TRL, default": lambda: peer(options, python, rows, model, "default"),
            "TRL, tuned": lambda: peer(options, python, rows, model, "tuned"),
        }
        runs = in_turn(programs, options.rounds)
    result = summary(options, runs)
    write("sft", result)
    report(result)
    sys.exit(not result["same_work"])


def prepare(options: argparse.Namespace, scratch: Path) -> tuple[Path, Path]:
    """As many curated rows as the steps take, and the model's directory."""
    from bethink.curate.config import CurateConfig
    from bethink.curate.pipeline import curate
    from bethink.curate.synthesize import SynthesizeConfig, synthesize
    from bethink.models.locate import locate

    needed = options.steps * options.batch
    raw, curated = scratch / "raw", scratch / "curated"
    synthesize(SynthesizeConfig(output=raw, task=options.task, problems=needed, defects=0, seed=options.seed))
    curate(
        CurateConfig(input=(raw / "rows.jsonl",), output=curated, tokenizer=options.model, max_samples=needed)
    )
    return curated / "train-00000.jsonl", locate(options.model).directory


def ours(options: argparse.Namespace, rows: Path, scratch: Path) -> dict[str, Any]:
    output = Path(tempfile.mkdtemp(dir=scratch)) / "run"
    command = [sys.executable, "-m", "bethink.cli.main", "sft", "--model", options.model, "--data", str(rows), "--output", str(output),
               "--steps", str(options.steps), "--batch-size", str(options.batch), "--rank", str(RANK), "--alpha", str(ALPHA),
               "--lr", str(LEARNING_RATE), "--warmup", "0", "--seed", str(options.seed), "--held-out", "0", "--eval-every", "0",
               "--checkpoint-every", "0"]  # fmt: skip
    _, peak = run(command)
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return figures(
        [step["seconds"] for step in steps], [step["tokens"] for step in steps], steps[0]["loss"], peak
    )


def peer(options: argparse.Namespace, python: Path, rows: Path, model: Path, variant: str) -> dict[str, Any]:
    command = [str(python), str(Path(__file__).with_name("sft_trl.py")), str(model), str(rows), variant, str(options.steps),
               str(options.batch), str(RANK), str(ALPHA), str(LEARNING_RATE)]  # fmt: skip
    output, peak = run(command, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    found = json.loads(output.splitlines()[-1])
    return figures(found["seconds"], found["tokens"], found["first_loss"], peak)


def figures(seconds: list[float], tokens: list[int], first_loss: float, peak: int) -> dict[str, Any]:
    """One run's figures; the first step is left out of the rate."""
    return {
        "tokens_per_second": round(sum(tokens[1:]) / sum(seconds[1:]), 1),
        "seconds_a_step": round(statistics.median(seconds[1:]), 3),
        "tokens": sum(tokens),
        "first_loss": round(first_loss, 4),
        "peak_gb": round(peak / 1e9, 2),
    }


def summary(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    rates = {name: median_of(of, "tokens_per_second") for name, of in runs.items()}
    everyone = [one for of in runs.values() for one in of]
    losses, tokens = [one["first_loss"] for one in everyone], {one["tokens"] for one in everyone}
    return {
        "machine": machine("bethink", "torch", "transformers"),
        "peer": PEER,
        "work": vars(options) | {"rank": RANK, "alpha": ALPHA},
        "tokens_per_second": rates,
        "peak_gb": {name: median_of(of, "peak_gb") for name, of in runs.items()},
        "times_default": round(rates["bethink"] / rates["TRL, default"], 2),
        "times_tuned": round(rates["bethink"] / rates["TRL, tuned"], 2),
        "goal": GOAL,
        "same_work": len(tokens) == 1 and max(losses) - min(losses) <= TOLERANCE * max(losses),
        "runs": runs,
    }


def report(result: dict[str, Any]) -> None:
    for name, rate in result["tokens_per_second"].items():
        print(f"{name:14} {rate:7.1f} useful tokens/s   {result['peak_gb'][name]:.2f} GB")
    print(f"{result['times_tuned']} × tuned TRL (goal {GOAL:g}), {result['times_default']} × default TRL")
    if not result["same_work"]:
        print("NOT the same work: see first_loss and tokens of the runs")


if __name__ == "__main__":
    main()
