"""Training runs in processes of their own, which can be killed, and what of their metrics is the same every time.

A server imports once and forks a process for each run: real processes, without the imports of each.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from bethink.train.config import RunConfig
from bethink.train.metrics import TIMING, read_metrics

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [
        *(f"bethink.train.{verb}.run" for verb in ("sft", "rl", "distill", "prefer", "pretrain")),
        "matplotlib.figure",
    ]
)


def start(run: Callable[[Any], object], config: RunConfig) -> ForkServerProcess:
    """`run(config)` in a process with one thread; what it says is kept beside its output (`said`)."""
    process = _PROCESSES.Process(
        target=_run, args=(run, type(config), config.model_dump_json(), str(_said(config)))
    )
    process.start()
    return process


def said(config: RunConfig) -> str:
    """What the processes of the run have said so far."""
    path = _said(config)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def wait_for_steps(process: ForkServerProcess, config: RunConfig, count: int) -> None:
    """Until so many steps stand in the metrics."""
    metrics = config.output / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
        assert process.is_alive(), said(config)
        time.sleep(0.002)


def kill(process: ForkServerProcess) -> None:
    """As the kernel does it, without a word to the process."""
    process.kill()
    process.join()


def undisturbed_and_killed(
    run: Callable[[Any], object], whole: RunConfig, killed: RunConfig, *, after: int
) -> None:
    """Both runs to their end: one without a break, the other killed once so many steps stand in its metrics, and resumed."""
    straight, process = start(run, whole), start(run, killed)
    wait_for_steps(process, killed, after)
    kill(process)
    made = [
        path for path in (killed.product, killed.output / "adapter", killed.output / "model") if path.exists()
    ]
    assert not made, "it was to be killed on the way"
    resumed = start(run, killed.model_copy(update={"resume": True}))
    ended_well(straight, whole)
    ended_well(resumed, killed)


def ended_well(process: ForkServerProcess, config: RunConfig) -> None:
    """Wait for its end."""
    process.join(timeout=200)
    assert process.exitcode == 0, said(config)


def untimed(config: RunConfig) -> list[dict[str, Any]]:
    """The run's metrics without what takes another time in every run."""
    rows = read_metrics(config.output / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMING} for row in rows]


def warm_up() -> None:
    """Have the server's imports done, for who measures how long a run takes."""
    process = _PROCESSES.Process(target=int)
    process.start()
    process.join()


def _run(run: Callable[[Any], object], kind: type[RunConfig], config: str, errors: str) -> None:
    torch.set_num_threads(1)
    with open(errors, "a", encoding="utf-8") as handle:
        os.dup2(handle.fileno(), 2)
        run(kind.model_validate_json(config))


def _said(config: RunConfig) -> Path:
    return config.output.with_suffix(".err")
