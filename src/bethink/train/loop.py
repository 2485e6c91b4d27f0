"""The training loop every trainer shares.

It knows steps of one or more optimizer updates, the learning-rate schedule, clipping, metrics, checkpoints, interruption and resumption. A `Method` supplies
a step's micro-batches and the loss of each; what those are (supervised rows, rollouts, preference pairs) the loop does not know.
Randomness of a step comes from (seed, step), so a resumed run repeats an uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from bethink.core.config import StrictModel
from bethink.core.console import Progress, note
from bethink.core.errors import BethinkError
from bethink.core.seeds import derive_seed
from bethink.models.speed import of_the_floor
from bethink.train import checkpoint as checkpoints
from bethink.train.metrics import MetricsLog, memory_gb
from bethink.train.optimizer import MasterAdamW, learning_rate

Batch = TypeVar("Batch")


class Method(Protocol[Batch]):
    """What makes one trainer differ from another."""

    def updates(self, step: int) -> Iterable[Sequence[Batch]]:
        """The micro-batches of each optimizer update of step `step` (0-based). The next are asked for after an update is done."""
        ...

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float]]:
        """This micro-batch's share of the update's loss (already divided by the update's total), and sums for `summary`."""
        ...

    def summary(self, step: int, sums: Mapping[str, float]) -> dict[str, Any]:
        """The step's metrics from the sums over its micro-batches: "loss", and "tokens", which is what the rate counts.

        "floor_seconds", where it is among them, is the least time the step can take; its share of the time taken is written.
        """
        ...

    def shown(self, row: Mapping[str, Any]) -> dict[str, str]:
        """What of a step's metrics a person watches."""
        ...

    def evaluate(self, step: int) -> dict[str, Any]:
        """Metrics on held-out data after `step` steps are done."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on (JSON)."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """What of that is tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` and `tensors` gave."""
        ...


class Stateless:
    """The end of a method that keeps nothing: the step number says all that a resumed run needs."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def tensors(self) -> Mapping[str, Tensor]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """There is nothing to put back."""


class LoopConfig(StrictModel):
    """steps: of one or more optimizer updates at one learning rate; eval_every, checkpoint_every: in steps, 0 is never (the last step is always evaluated and saved)."""

    steps: int
    lr: float
    warmup: float
    min_lr_ratio: float
    weight_decay: float
    beta2: float = 0.999
    clip: float
    seed: int
    eval_every: int
    checkpoint_every: int
    keep: int


def train(
    model: torch.nn.Module,
    method: Method[Batch],
    config: LoopConfig,
    directory: Path,
    *,
    masters: Mapping[str, Tensor] | None = None,
    resume_command: str,
    on_step: Callable[[Mapping[str, Any]], None] = lambda row: None,
) -> None:
    """Train what requires a gradient in `model`, from the last checkpoint in `directory` on, if there is one.

    masters: float32 masters of parameters that compute in a narrower format (`optimizer.round_compute_copies`).
    Writes directory/metrics.jsonl and directory/checkpoints/. On Ctrl-C the step is finished and saved, `resume_command` is shown and
    KeyboardInterrupt raised; a second Ctrl-C ends at once. Raises BethinkError when the loss is no longer a number.
    """
    optimizer = MasterAdamW(
        [(name, p) for name, p in model.named_parameters() if p.requires_grad],
        weight_decay=config.weight_decay,
        clip=config.clip,
        masters=masters,
        beta2=config.beta2,
    )
    saved = directory / "checkpoints"
    done = 0
    if (found := checkpoints.latest(saved)) is not None:
        optimizer.load_state_dict(found.tensors)
        method.load_state_dict(found.state, found.of_method)
        done = found.step
        note(f"resuming after step {done} of {config.steps}")
    with (
        MetricsLog(directory, done=done) as log,
        Progress("train", config.steps, unit="steps", done=done) as progress,
        interruptible() as interrupted,
    ):
        for step in range(done, config.steps):
            row = _step(method, optimizer, config, step)
            last = step + 1 == config.steps
            if config.eval_every and ((step + 1) % config.eval_every == 0 or last):
                row |= method.evaluate(step + 1)
            log.write(row)
            on_step(row)
            rate = f"{row['tokens_per_second']:,.0f}{of_the_floor(row.get('floor_share'))}"
            progress.advance(1, **method.shown(row), **{"tokens/s": rate})
            if (
                last
                or interrupted()
                or (config.checkpoint_every and (step + 1) % config.checkpoint_every == 0)
            ):
                log.sync()
                state = checkpoints.Checkpoint(
                    step + 1, optimizer.state_dict(), method.state_dict(), method.tensors()
                )
                checkpoints.save(saved, state, keep=config.keep)
            if interrupted() and not last:
                note(f"stopped after step {step + 1}; go on with:\n  {resume_command}")
                raise KeyboardInterrupt


def _step(method: Method[Batch], optimizer: MasterAdamW, config: LoopConfig, step: int) -> dict[str, Any]:
    started = time.perf_counter()
    torch.manual_seed(derive_seed(config.seed, "step", step))
    sums: Counter[str] = Counter()
    rate = learning_rate(step, config.steps, config.lr, config.warmup, config.min_lr_ratio)
    norms: list[float] = []
    for batches in method.updates(step):
        for batch in batches:
            loss, parts = method.loss(batch)
            loss.backward()
            sums.update(parts)
        norms.append(optimizer.step(rate))
    summary = method.summary(step, sums)
    least = summary.pop("floor_seconds", None)
    if not all(map(math.isfinite, (summary["loss"], *norms))):
        shown = ", ".join(f"{norm:g}" for norm in norms)
        raise BethinkError(
            f"the loss ({summary['loss']}) or gradient norm ({shown}) is not a finite number",
            where=f"step {step + 1}",
            fix="lower --lr, or look at the rows of that step",
        )
    seconds = time.perf_counter() - started
    return {
        "step": step + 1,
        **summary,
        "lr": rate,
        "grad_norm": max(norms, default=0.0),
        "tokens_per_second": round(summary["tokens"] / seconds, 1),
        "seconds": round(seconds, 3),
        **({} if least is None else {"floor_share": round(least / seconds, 4)}),
        **memory_gb(),
    }


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C or SIGTERM only sets a flag, which the yielded function reads; the second interrupts."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        note("finishing this step, then saving (again to stop at once)")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
