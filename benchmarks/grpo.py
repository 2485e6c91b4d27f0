"""Reinforcement learning steps on this machine's CPU: `bethink grpo` against TRL's GRPOTrainer with PEFT and transformers' generation.

    python benchmarks/grpo.py [--steps 16] [--problems 4] [--distinct 8] [--group 8] [--tokens 112] [--rounds 1]

Both begin with the same model, which is made first: the built-in one, fine-tuned for a minute so that it solves some of the problems and
ends its answers. Both train a new adapter (rank 32) on the same few problems, which come again and again so that learning shows in a short
run, with as many completions of each, the same limit on their length, DAPO's loss without a KL term, a constant learning rate and the
accuracy reward alone, in processes of their own, in turn. The first step of a run is not counted. What is compared is the time of a step
and completion tokens a second, sampling and learning together.

That both did the same work is checked by the mean length of completions, the rewards of the first steps (sampling is random: within three
standard errors) and by both having learned: the reward of the last steps is above that of the first. TRL runs in float32 and in bfloat16.
The result is written to benchmarks/results/grpo.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness import curated_rows, environment, in_turn, machine, parser_for, report_times, run, write
from sft import PEER

TASK = "chain_sum:min_terms=4,max_terms=6,min_digits=1,max_digits=1"
RANK, ALPHA, LEARNING_RATE = 32, 64, 3e-4
GOAL = 4.0
MICROBATCH = 8
_ROWS, _SFT_STEPS = 400, 80


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--problems", type=int, default=4, help="problems a step")
    parser.add_argument("--distinct", type=int, default=8, help="problems in all, seen again and again")
    parser.add_argument("--group", type=int, default=8, help="completions of a problem")
    parser.add_argument("--tokens", type=int, default=112, help="of a completion at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    python = environment("trl", PEER)
    with tempfile.TemporaryDirectory() as scratch:
        work = prepare(options, Path(scratch))
        programs: dict[str, Callable[[], dict[str, Any]]] = {"bethink": partial(ours, work, Path(scratch))}
        for variant in ("float32", "bfloat16"):
            programs[f"TRL, {variant}"] = partial(peer, python, Path(scratch) / "work.json", variant)
        runs = in_turn(programs, options.rounds, shown=lambda one: one["tokens_per_second"])
    result = summary(options, runs)
    write("grpo", result)
    report(result)
    sys.exit(not result["same_work"])


def prepare(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The model to begin with, and the problems as prompts and answers; also in scratch/work.json for the peer."""
    from bethink.chat.render import Renderer
    from bethink.chat.toggle import Mode
    from bethink.chat.tokenizer import ChatTokenizer
    from bethink.tasks.sources import load_tasks

    model = fine_tuned(options, scratch)
    renderer = Renderer(ChatTokenizer.load(model))
    problems = load_tasks(options.task, size=options.distinct, seed=options.seed, split="train")
    work = {
        "model": str(model),
        "task": options.task,
        "prompts": [renderer.prompt(problem.messages, Mode.ON).text for problem in problems],
        "answers": [problem.answer for problem in problems],
        "problems": options.problems,
        "group": options.group,
        "tokens": options.tokens,
        "steps": options.steps,
        "microbatch": MICROBATCH,
        "rank": RANK,
        "alpha": ALPHA,
        "lr": LEARNING_RATE,
        "seed": options.seed,
    }
    (scratch / "work.json").write_text(json.dumps(work))
    return work


def fine_tuned(options: argparse.Namespace, scratch: Path) -> Path:
    """The model, with what a minute of fine-tuning on other problems of the task teaches it merged in."""
    from bethink.models.load import load_model
    from bethink.models.locate import locate
    from bethink.models.save import export

    sft = scratch / "sft"
    rows = curated_rows(options.task, _ROWS, options.seed + 1, options.model, scratch)
    run([sys.executable, "-m", "bethink.cli.main", "sft", "--model", options.model, "--data", str(rows), "--output", str(sft),
         "--rank", str(RANK), "--lr", "1e-3", "--batch-size", "5", "--steps", str(_SFT_STEPS), "--held-out", "0", "--eval-every", "0"])  # fmt: skip
    files = locate(f"{options.model}+{sft / 'adapter'}")
    directory = scratch / "model"
    directory.mkdir()
    export(load_model(files, device="cpu", merge=True), files.directory, directory)
    return directory


def ours(work: dict[str, Any], scratch: Path) -> dict[str, Any]:
    output = Path(tempfile.mkdtemp(dir=scratch)) / "run"
    command = [sys.executable, "-m", "bethink.cli.main", "grpo", "--model", work["model"], "--tasks", work["task"], "--output", str(output),
               "--steps", str(work["steps"]), "--problems-per-step", str(work["problems"]), "--group-size", str(work["group"]),
               "--problems", str(len(work["prompts"])), "--max-tokens", str(work["tokens"]), "--algorithm", "dapo", "--rewards", "accuracy=1",
               "--rank", str(work["rank"]), "--alpha", str(work["alpha"]), "--lr", str(work["lr"]), "--warmup", "0", "--seed", str(work["seed"]),
               "--checkpoint-every", "0", "--allow-no-signal", "1"]  # fmt: skip
    _, peak = run(command)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    found = figures(*([row[name] for row in rows] for name in ("seconds", "reward", "tokens")), peak)
    shares = [row["floor_share"] for row in rows[1:] if "floor_share" in row]
    return found | ({"floor_share": round(statistics.median(shares), 3)} if shares else {})


def peer(python: Path, work: Path, variant: str) -> dict[str, Any]:
    command = [str(python), str(Path(__file__).with_name("grpo_trl.py")), str(work), variant]
    output, peak = run(command, {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    found = json.loads(output.splitlines()[-1])
    return figures(found["seconds"], found["rewards"], found["tokens"], peak)


def figures(seconds: list[float], rewards: list[float], tokens: list[float], peak: int) -> dict[str, Any]:
    return {
        "tokens_per_second": round(sum(tokens[1:]) / sum(seconds[1:]), 1),
        "seconds_a_step": round(statistics.median(seconds[1:]), 2),
        "rewards": [round(reward, 4) for reward in rewards],
        "tokens": [round(count) for count in tokens],
        "peak_gb": round(peak / 1e9, 2),
    }


def summary(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    def median(name: str, key: str) -> float:
        return float(statistics.median(one[key] for one in runs[name]))

    peers = [name for name in runs if name != "bethink"]
    best = max(peers, key=lambda name: median(name, "tokens_per_second"))
    return {
        "machine": machine("bethink", "torch", "transformers"),
        "peer": PEER,
        "work": vars(options) | {"rank": RANK, "alpha": ALPHA, "lr": LEARNING_RATE},
        "tokens_per_second": {name: median(name, "tokens_per_second") for name in runs},
        "seconds_a_step": {name: median(name, "seconds_a_step") for name in runs},
        "peak_gb": {name: median(name, "peak_gb") for name in runs},
        "times": {
            name: round(median("bethink", "tokens_per_second") / median(name, "tokens_per_second"), 2)
            for name in peers
        },
        "floor_share": next((one["floor_share"] for one in runs["bethink"] if "floor_share" in one), None),
        "goal": GOAL,
        "same_work": alike(runs["bethink"][-1], runs[best][-1], options)
        and all(learned(one) for name in ("bethink", best) for one in runs[name]),
        "runs": runs,
    }


def alike(one: dict[str, Any], other: dict[str, Any], options: argparse.Namespace) -> bool:
    """Whether lengths agree within a fifth, and the first quarter's rewards within three standard errors."""
    first = max(1, options.steps // 4)
    a, b = (statistics.fmean(run["rewards"][:first]) for run in (one, other))
    # Completions of one problem are alike, so problems are what is counted.
    count, share = first * options.problems, (a + b) / 2
    error = math.sqrt(2 * max(share * (1 - share), 0.01) / count)
    lengths = [sum(run["tokens"]) for run in (one, other)]
    return abs(a - b) <= 3 * error and max(lengths) <= 1.2 * min(lengths)


def learned(one: dict[str, Any]) -> bool:
    """Whether the mean reward of the last half is above that of the first."""
    half = len(one["rewards"]) // 2
    return statistics.fmean(one["rewards"][-half:]) > statistics.fmean(one["rewards"][:half])


def report(result: dict[str, Any]) -> None:
    for name, rate in result["tokens_per_second"].items():
        shown = f"{result['seconds_a_step'][name]:6.1f} s a step   {result['peak_gb'][name]:.2f} GB"
        rewards = result["runs"][name][-1]["rewards"]
        half = len(rewards) // 2
        print(
            f"{name:16} {rate:7.1f} completion tokens/s   {shown}   "
            f"reward {statistics.fmean(rewards[:half]):.2f} → {statistics.fmean(rewards[-half:]):.2f}"
        )
    report_times(result, "rewards and tokens")


if __name__ == "__main__":
    main()
