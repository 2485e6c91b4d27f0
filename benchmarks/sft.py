"""LoRA fine-tuning steps on this machine's CPU: `bethink sft` against TRL's SFTTrainer with PEFT, as it comes and tuned.

    python benchmarks/sft.py [--task gsm_symbolic] [--steps 6] [--warm 2] [--batch 32] [--rounds 3]

All train the same adapter (rank 32, every linear layer) on the built-in model at a constant learning rate, on the same curated rows, the
same in every step (the rows of a batch stand in order of length, which spares the peer padding), in processes of their own, in turn
(A B C A B C …). The first --warm steps of a run are not counted. A useful token is a token of a prompt or completion, not of padding.
That all did the same work is checked by the tokens of every step and the losses of the first and the last.

The peer has an environment of its own (under BETHINK_BENCH, ~/.cache/bethink-bench), made on the first run. Tuned means: what its
documentation offers for speed, as far as it made a step faster here (sft_trl.py lists it; `torch_compile` had not done its first step
after five minutes). Once more it runs with glibc told to keep freed memory, which its big temporary tensors profit from and no option
of its own does. The floor is `bethink.models.cost` at the speed measured in the same round (`bethink.models.speed`).
The result is written to benchmarks/results/sft.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness import curated_rows, environment, in_turn, machine, median_of, parser_for, run, speed_now, write

PEER = ("torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "trl==1.16.0")
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "10000000000"}
GOALS = {"times_tuned": 3.0, "floor_share": 0.65}
FIRST, LAST = 0.02, 0.05
"""How far apart the losses of the first and last steps may be: adapters begin at different random weights."""
RANK, ALPHA, LEARNING_RATE = 32, 64, 1e-3


@dataclass(frozen=True)
class Work:
    """The rows (a curated file, `steps` batches of them) and the model's directory."""

    rows: Path
    model: Path
    lengths: tuple[tuple[int, ...], ...]
    learned: tuple[int, ...]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="gsm_symbolic", help="generator the rows are made from")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warm", type=int, default=2, help="steps not counted")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    python = environment("trl", PEER)
    with tempfile.TemporaryDirectory() as scratch:
        work = prepare(options, Path(scratch))
        programs: dict[str, Callable[[], dict[str, Any]]] = {
            "floor": partial(floor, options, work),
            "bethink": partial(ours, options, work, Path(scratch)),
            "TRL, default": partial(peer, options, python, work, "default"),
            "TRL, tuned": partial(peer, options, python, work, "tuned"),
            "TRL, tuned, memory kept": partial(peer, options, python, work, "tuned", KEEP_MEMORY),
        }
        runs = in_turn(programs, options.rounds)
    result = summary(options, runs)
    write("sft", result)
    report(result)
    sys.exit(not result["same_work"])


def prepare(options: argparse.Namespace, scratch: Path) -> Work:
    """As many curated rows as the steps take, those of each batch longest first."""
    from bethink.models.locate import locate

    needed = options.steps * options.batch
    curated = curated_rows(options.task, needed, options.seed, options.model, scratch)
    rows = [json.loads(line) for line in curated.read_text("utf-8").splitlines()]
    batches = [
        sorted(rows[start : start + options.batch], key=lambda row: -row["tokens"])
        for start in range(0, needed, options.batch)
    ]
    path = scratch / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for batch in batches for row in batch), "utf-8")
    return Work(
        rows=path,
        model=locate(options.model).directory,
        lengths=tuple(tuple(row["tokens"] for row in batch) for batch in batches),
        learned=tuple(sum(row["completion_tokens"] for row in batch) for batch in batches),
    )


def floor(options: argparse.Namespace, work: Work) -> dict[str, Any]:
    """The most useful tokens a second that this machine allows now, in the steps that are counted."""
    from transformers import AutoConfig

    from bethink.models.cost import Shape, sft_step

    speed, shape = speed_now(), Shape.of(AutoConfig.from_pretrained(work.model))
    counted = list(zip(work.lengths, work.learned, strict=True))[options.warm :]
    seconds = sum(
        speed.floor(sft_step(shape, lengths, learned, rank=RANK), sum(lengths))
        for lengths, learned in counted
    )
    return {
        "tokens_per_second": round(sum(map(sum, work.lengths[options.warm :])) / seconds, 1),
        "gflops": round(max(speed.products.values()) / 1e9, 1),
    }


def ours(options: argparse.Namespace, work: Work, scratch: Path) -> dict[str, Any]:
    output = Path(tempfile.mkdtemp(dir=scratch)) / "run"
    command = [sys.executable, "-m", "bethink.cli.main", "sft", "--model", options.model, "--data", str(work.rows), "--output", str(output),
               "--steps", str(options.steps), "--batch-size", str(options.batch), "--rank", str(RANK), "--alpha", str(ALPHA),
               "--lr", str(LEARNING_RATE), "--warmup", "0", "--min-lr-ratio", "1", "--weight-decay", "0", "--seed", str(options.seed),
               "--held-out", "0", "--eval-every", "0", "--checkpoint-every", "0"]  # fmt: skip
    _, peak = run(command)
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    seconds, tokens, losses = ([step[name] for step in steps] for name in ("seconds", "tokens", "loss"))
    return figures(options, seconds, tokens, losses, peak)


def peer(
    options: argparse.Namespace, python: Path, work: Work, variant: str, variables: Mapping[str, str] = {}
) -> dict[str, Any]:
    command = [str(python), str(Path(__file__).with_name("sft_trl.py")), str(work.model), str(work.rows), variant, str(options.steps),
               str(options.batch), str(RANK), str(ALPHA), str(LEARNING_RATE)]  # fmt: skip
    output, peak = run(command, {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **variables})
    found = json.loads(output.splitlines()[-1])
    return figures(options, found["seconds"], found["tokens"], found["losses"], peak)


def figures(
    options: argparse.Namespace,
    seconds: Sequence[float],
    tokens: Sequence[int],
    losses: Sequence[float],
    peak: int,
) -> dict[str, Any]:
    """One run's figures; the first steps are left out of the rate."""
    warm = options.warm
    return {
        "tokens_per_second": round(sum(tokens[warm:]) / sum(seconds[warm:]), 1),
        "seconds_a_step": round(statistics.median(seconds[warm:]), 3),
        "tokens": list(tokens),
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
        "peak_gb": round(peak / 1e9, 2),
    }


def summary(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    rates = {name: round(median_of(of, "tokens_per_second"), 1) for name, of in runs.items()}
    trained = {name: of for name, of in runs.items() if name != "floor"}
    everyone = [one for of in trained.values() for one in of]
    shares = [
        one["tokens_per_second"] / least["tokens_per_second"]
        for one, least in zip(runs["bethink"], runs["floor"], strict=True)
    ]
    return {
        "machine": machine("bethink", "torch", "transformers"),
        "peer": PEER,
        "work": vars(options) | {"rank": RANK, "alpha": ALPHA},
        "tokens_per_second": rates,
        "peak_gb": {name: median_of(of, "peak_gb") for name, of in trained.items()},
        "times": {name: round(rates["bethink"] / rates[name], 2) for name in trained if name != "bethink"},
        "floor_share": round(statistics.median(shares), 3),
        "goals": GOALS,
        "same_work": len({tuple(one["tokens"]) for one in everyone}) == 1
        and agree([one["first_loss"] for one in everyone], FIRST)
        and agree([one["last_loss"] for one in everyone], LAST),
        "runs": runs,
    }


def agree(losses: Sequence[float], tolerance: float) -> bool:
    return max(losses) - min(losses) <= tolerance * max(losses)


def report(result: dict[str, Any]) -> None:
    for name, rate in result["tokens_per_second"].items():
        peak = f"{result['peak_gb'][name]:.2f} GB" if name in result["peak_gb"] else ""
        print(f"{name:24} {rate:7.1f} useful tokens/s   {peak}")
    for name, times in result["times"].items():
        print(f"{times} × {name}")
    print(
        f"{100 * result['floor_share']:.0f} % of the floor; goals: {GOALS['times_tuned']:g} × tuned, {GOALS['floor_share']:.0%}"
    )
    if not result["same_work"]:
        print("NOT the same work: see tokens, first_loss and last_loss of the runs")


if __name__ == "__main__":
    main()
