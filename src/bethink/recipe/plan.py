"""What a recipe will do, before it does it: rows, tokens, hours and memory of each stage, where they can be told.

Rows and tokens follow from the stages' options and the recipe's `assume`; how fast they are worked off, and in how much memory, is
forecast.py's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from bethink.core.console import duration
from bethink.recipe.forecast import Rate, memory, sampling_rate, training_rate
from bethink.recipe.schema import Assume, Recipe, stage_references
from bethink.recipe.stages import Prepared


@dataclass(frozen=True, slots=True)
class Estimate:
    """One stage's plan.

    rows: what it makes or reads; None where nothing can be told. at_most: rows and tokens are upper bounds. good: how many of the rows
    made with each mode are known to pass curation. memory in bytes. rate: what the hours rest on.
    """

    stage: str
    uses: str
    what: str
    rows: int | None = None
    tokens: int | None = None
    at_most: bool = False
    hours: float | None = None
    memory: int | None = None
    good: int | None = None
    rate: Rate | None = None


def estimate(recipe: Recipe, stages: Sequence[Prepared]) -> list[Estimate]:
    """The plan, stage by stage. Raises ConfigError for a model's shape that no model has."""
    done: dict[str, Estimate] = {}
    for one in stages:
        before = [done[name] for name in stage_references(one.stage)]
        done[one.stage.name] = _ESTIMATES[one.stage.uses](one, recipe.assume, before)
    return list(done.values())


def _synthesize(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    rows = round(2 * config.problems / (1 - config.defects))
    return Estimate(
        one.stage.name,
        "synthesize",
        f"{config.problems:,} problems of {_task(config.task)}",
        rows,
        good=config.problems,
    )


def _curate(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    read = sum(stage.rows for stage in before if stage.rows is not None) or None
    what = f"at most {config.max_samples:,} rows" if config.max_samples else "every good row"
    good = [stage.good for stage in before if stage.good is not None]
    known = len(good) == len(config.input)
    if known:
        read = _balanced(sum(good), config.on_per_off)
    rows = min(filter(None, (read, config.max_samples)), default=None)
    tokens = round(rows * assume.tokens_per_sample) if rows and assume.tokens_per_sample else None
    return Estimate(one.stage.name, "curate", what, rows, tokens, at_most=not known)


def _balanced(each: int, on_per_off: Fraction | None) -> int:
    """Rows left of `each` with thinking on and as many off when the larger side is trimmed to the ratio."""
    if on_per_off is None:
        return 2 * each
    return each + math.floor(each * min(on_per_off, 1 / on_per_off))


def _sft(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    curated = next((stage for stage in before if stage.uses == "curate" and stage.rows), None)
    available = curated.rows if curated else None
    samples = (
        config.steps * config.batch_size if config.steps else available and round(available * config.epochs)
    )
    what = "all weights" if config.full else f"LoRA rank {config.rank}"
    if samples:
        what += f", {-(-samples // config.batch_size):,} steps of {config.batch_size}"
    tokens = round(samples * assume.tokens_per_sample) if samples and assume.tokens_per_sample else None
    rate = training_rate(config, assume) if tokens else None
    return Estimate(
        one.stage.name,
        "sft",
        what,
        samples,
        tokens,
        at_most=not config.steps and not (curated and not curated.at_most),
        hours=tokens / rate.tokens_per_second / 3600 if tokens and rate else None,
        memory=memory(config, assume),
        rate=rate,
    )


def _eval(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    tasks = ", ".join(dict.fromkeys(_task(spec) for spec in config.tasks))
    what = f"{tasks}, {' and '.join(config.modes)}" + (", prompted" if config.prompted else "")
    completions = len(config.tasks) * sum(config.samples_of(mode) for mode in config.modes)
    rows = config.size * completions if config.size else None
    tokens = rows * config.max_tokens if rows else None
    hours, rate = None, sampling_rate(config, assume, rows) if rows else None
    if rows and rate and assume.tokens_per_completion:
        hours = rows * assume.tokens_per_completion / rate.tokens_per_second / 3600
    return Estimate(one.stage.name, "eval", what, rows, tokens, at_most=True, hours=hours, rate=rate)


def _sample(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    """What an evaluation of the same size takes; how many rows are left cannot be told."""
    return replace(_eval(one, assume, before), uses="sample")


def _grpo(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    rollouts = config.steps * config.batch_size
    what = f"{config.algorithm}, {config.steps:,} steps of {config.problems_per_step} problems × {config.group_size} completions"
    hours = None
    sampled, trained = sampling_rate(config, assume, config.batch_size), training_rate(config, assume)
    if sampled and trained and assume.tokens_per_completion:
        tokens = rollouts * assume.tokens_per_completion
        hours = tokens * (1 / sampled.tokens_per_second + 1 / trained.tokens_per_second) / 3600
    return Estimate(
        one.stage.name,
        "grpo",
        what,
        rollouts,
        rollouts * config.max_tokens,
        at_most=True,
        hours=hours,
        rate=sampled,
    )


def _task(spec: str) -> str:
    """A task's short name: the generator's, or the layout of a file or hub data set."""
    head, _, rest = spec.partition(":")
    return rest.rpartition(":")[2] if head == "hub" else Path(head).name


def _compare(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    names = [stage.stage for stage in before]
    what = (
        " against ".join(names) if len(names) > 1 else f"{names[0]}, {config.mode} against {config.against}"
    )
    return Estimate(one.stage.name, "compare", what)


def _report(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    return Estimate(one.stage.name, "report", one.product.name)


def missing_inputs(stages: Sequence[Prepared]) -> list[Path]:
    """What curate stages read from outside the run and is not there yet."""
    configs: list[Any] = [one.config for one in stages if one.stage.uses == "curate"]
    made = {one.product for one in stages}
    outside = [path for config in configs for path in config.input if path not in made]
    return [path for path in outside if not os.path.exists(os.path.expanduser(path))]


_ESTIMATES = {
    "synthesize": _synthesize,
    "curate": _curate,
    "sft": _sft,
    "grpo": _grpo,
    "sample": _sample,
    "eval": _eval,
    "compare": _compare,
    "report": _report,
}


def plan_table(lines: Sequence[Estimate]) -> Table:
    """The plan for a terminal."""
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    table.add_column("what", overflow="fold")
    for column in ("rows", "tokens", "hours", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(
            line.stage,
            f"{line.uses}: {line.what}" if line.what else line.uses,
            _short(line.rows, line.at_most),
            _short(line.tokens, line.at_most),
            _hours(line.hours),
            f"{line.memory / 2**30:.1f} GiB" if line.memory else "",
        )
    return table


def plan_words(recipe: Recipe, lines: Sequence[Estimate], missing: Sequence[Path] = ()) -> str:
    """What the estimates rest on, and their sum; missing: the inputs that are not there yet."""
    assume = recipe.assume
    text = f"{recipe.name}: {len(lines)} stages, every option checked, nothing run."
    if missing:
        text += f"\nNot here yet: {', '.join(map(str, missing))}."
    for uses, work, per, mean in (
        ("sft", "Training", "sample", assume.tokens_per_sample),
        ("grpo", "Reinforcement learning", "completion", assume.tokens_per_completion),
        ("sample", "Sampling", "completion", assume.tokens_per_completion),
        ("eval", "Evaluation", "completion", assume.tokens_per_completion),
    ):
        told = [line for line in lines if line.uses == uses and line.hours]
        if told:
            hours = _hours(sum(line.hours or 0.0 for line in told))
            rates = "; ".join(dict.fromkeys(line.rate.words for line in told if line.rate))
            text += f"\n{work} about {hours} on {assume.device}: {mean:,.0f} tokens a {per}, {rates}."
    needed = max((line.memory for line in lines if line.memory), default=0)
    if needed and assume.memory_gib:
        fits = "fits in" if needed <= assume.memory_gib * 2**30 else "does NOT fit in"
        text += (
            f"\nTraining memory about {needed / 2**30:.1f} GiB {fits} the device's {assume.memory_gib:g} GiB."
        )
    return text


def _short(count: int | None, at_most: bool) -> str:
    if not count:
        return ""
    sign = "≤ " if at_most else ""
    for size, unit in ((1e9, " G"), (1e6, " M")):
        if count >= size:
            return f"{sign}{count / size:.3g}{unit}"
    return f"{sign}{count:,}"


def _hours(hours: float | None) -> str:
    if not hours:
        return ""
    return duration(3600 * hours) if hours < 10 else f"{hours:.0f} h"
