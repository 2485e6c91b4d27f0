"""Killed at any moment and resumed, a run writes the bytes it would have written."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from bethink.core.files import read_jsonl
from bethink.train import checkpoint
from bethink.train.metrics import read_metrics
from bethink.train.rl.config import GRPOConfig
from bethink.train.rl.run import run_grpo
from train.runs import ended_well, kill, said, start, untimed, warm_up

Make = Callable[..., GRPOConfig]
Moment = Callable[[ForkServerProcess, GRPOConfig, random.Random, float], None]


@pytest.fixture(scope="module", autouse=True)
def _imports_done() -> None:
    """How long a run takes is measured: the server's own start is no part of it."""
    warm_up()


def wait_for(process: ForkServerProcess, happened: Callable[[], bool]) -> None:
    """Until it happened, or the run is over: then there is nothing to disturb, which is one of the moments."""
    while process.is_alive() and not happened():
        time.sleep(0.0002)


def written_since(begun: int, path: Path) -> bool:
    """Whether a process that began then has written there: what one that was killed left is no news."""
    try:
        return path.stat().st_mtime_ns > begun
    except FileNotFoundError:
        return False


def at_any_time(process: ForkServerProcess, config: GRPOConfig, rng: random.Random, seconds: float) -> None:
    """Of what is left of a run that takes so many seconds."""
    process.join(timeout=rng.uniform(0, seconds * (1 - done_by(config) / config.steps)))


def while_sampling(
    process: ForkServerProcess, config: GRPOConfig, rng: random.Random, seconds: float
) -> None:
    """In a step before the next checkpoint, which follows its last line at once and samples for about as long as the step of that line."""
    metrics, begun = config.output / "metrics.jsonl", time.time_ns()
    lines = done_by(config) + rng.randrange(1, config.checkpoint_every)
    wait_for(process, lambda: written_since(begun, metrics) and metrics.read_bytes().count(b"\n") >= lines)
    last = read_metrics(metrics)[-1:]
    time.sleep(rng.uniform(0, last[0]["rollout_seconds"] if last else 0))


def while_a_checkpoint_is_written(
    process: ForkServerProcess, config: GRPOConfig, rng: random.Random, seconds: float
) -> None:
    """Or the result, which is written in the same way."""
    begun, passed = time.time_ns(), rng.randrange(2)  # how many of them are left alone
    seen: set[Path] = set()

    def happened() -> bool:
        parts = [*config.output.glob("checkpoints/.step-*.part"), *config.output.glob(".*.part/")]
        seen.update(part for part in parts if written_since(begun, part))
        return len(seen) > passed

    wait_for(process, happened)
    time.sleep(rng.uniform(0, 0.01))


def kinds_of_settings(
    kind: str, sums: str, guesses: str, answers: Callable[[str, int], str], folder: Path
) -> dict[str, Any]:
    if kind == "shuffled":
        return {
            "tasks": f"{sums},held_out=0.3",
            "kl": 0.1,
            "reference_every": 3,
            "full": True,
            "updates_per_step": 2,
        }
    if kind == "progressive":
        rates = folder / "rates.jsonl"
        rows = [{"question": f"What is {n} plus {n + 2}?", "pass_rate": n / 20} for n in range(20)]
        rates.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {
            "tasks": f"{sums},held_out=0.3",
            "curriculum": "progressive",
            "pass_rates": rates,
            "max_tokens": 16,
        }
    tasks = [f"{answers(answer, 20)},held_out=0.3" for answer in ("7", "8")]
    return {
        "model": guesses, "tasks": tasks, "curriculum": "mastery", "mastery_threshold": 0.3, "mastery_fall_back": 0.25,
        "mastery_window": 4, "rewards": "accuracy=1,train.rl.conftest:digits=1",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["shuffled", "progressive", "mastery"])
def test_killed_again_and_again_it_writes_the_same_bytes(
    make_grpo: Make,
    guessing_model_dir: Path,
    answers_file: Callable[[str, int], str],
    tmp_path: Path,
    kind: str,
) -> None:
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed {seed}")
    rng = random.Random(seed)
    settings = {
        "steps": 8,
        "checkpoint_every": 3,
        "modes": "on=0.5,both=0.5",
        "refills": 1,
        "eval_every": 3,
        "eval_size": 2,
        "seed": seed,
        **kinds_of_settings(kind, make_grpo().tasks[0], str(guessing_model_dir), answers_file, tmp_path),
    }
    whole = make_grpo(output=tmp_path / "whole", **settings)
    begun = time.perf_counter()
    ended_well(start(run_grpo, whole), whole)
    seconds = time.perf_counter() - begun

    killed = make_grpo(output=tmp_path / "killed", **settings)
    aimed: list[Moment] = [while_sampling, while_a_checkpoint_is_written]
    for moment in (*rng.sample(aimed, len(aimed)), at_any_time):
        process = start(run_grpo, killed)
        moment(process, killed, rng, seconds)
        kill(process)
        assert process.exitcode in (-9, 0), said(killed)
        print(f"{moment.__name__}: {left_by(killed)}, {'done' if process.exitcode == 0 else 'killed'}")
        killed = killed.model_copy(update={"resume": True})
    ended_well(start(run_grpo, killed), killed)

    last = f"checkpoints/step-{settings['steps']:08d}"
    product = "model/model.safetensors" if killed.full else "adapter/adapter_model.safetensors"
    for name in (
        product,
        "rollouts.jsonl",
        "train-problems.jsonl",
        f"{last}/state.safetensors",
        f"{last}/state.json",
    ):
        assert (killed.output / name).read_bytes() == (whole.output / name).read_bytes(), name
    assert untimed(killed) == untimed(whole)


def done_by(config: GRPOConfig) -> int:
    """The steps that are kept."""
    return checkpoint.steps_done(config.output / "checkpoints")


def left_by(config: GRPOConfig) -> str:
    """Where a killed run stopped, for the one who reads a failure."""
    if not config.output.exists():
        return "nothing yet"
    rollouts = config.output / "rollouts.jsonl"
    sampled = [row["step"] for row in read_jsonl(rollouts, growing=True)] if rollouts.exists() else []
    learned = len(read_metrics(config.output / "metrics.jsonl"))
    parts = sorted(path.name for path in config.output.rglob(".*.part"))
    return f"sampled {max(sampled, default=0)} steps, learned {learned}, kept {done_by(config)}, half written {parts}"
