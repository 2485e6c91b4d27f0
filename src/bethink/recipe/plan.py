"""What a recipe will do, before it does it: rows, tokens, hours and memory of each stage, where they can be told.

Estimates rest on the recipe's `assume`. Training costs 4 FLOPs a parameter and token with an adapter (forward, and backward through
the frozen weights) and 6 with all weights (their gradients too); the device gives `tflops` times `mfu` of them a second. Sampling
takes what `sampled_tokens_per_second` says. Memory is the sft stage's own preflight estimate for a model of the same shape that holds no weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from bethink.core.console import duration
from bethink.core.errors import ConfigError
from bethink.core.files import read_json
from bethink.recipe.schema import Assume, Recipe, stage_references
from bethink.recipe.stages import Prepared


@dataclass(frozen=True, slots=True)
class Estimate:
    """One stage's plan.

    rows: what it makes or reads; None where nothing can be told. at_most: rows and tokens are upper bounds. good: how many of the rows
    made with each mode are known to pass curation. memory in bytes.
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
    hours = None
    if tokens and assume.parameters and assume.tflops:
        flops = (6 if config.full else 4) * assume.parameters * tokens
        hours = flops / (assume.tflops * 1e12 * assume.mfu) / 3600
    return Estimate(
        one.stage.name,
        "sft",
        what,
        samples,
        tokens,
        at_most=not config.steps and not (curated and not curated.at_most),
        hours=hours,
        memory=_memory(config, assume),
    )


def _eval(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    tasks = ", ".join(dict.fromkeys(_task(spec) for spec in config.tasks))
    what = f"{tasks}, {' and '.join(config.modes)}" + (", prompted" if config.prompted else "")
    completions = len(config.tasks) * sum(config.samples_of(mode) for mode in config.modes)
    rows = config.size * completions if config.size else None
    tokens = rows * config.max_tokens if rows else None
    hours = None
    if rows and assume.tokens_per_completion and assume.sampled_tokens_per_second:
        hours = rows * assume.tokens_per_completion / assume.sampled_tokens_per_second / 3600
    return Estimate(one.stage.name, "eval", what, rows, tokens, at_most=True, hours=hours)


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
    "eval": _eval,
    "compare": _compare,
    "report": _report,
}


def _memory(config: Any, assume: Assume) -> int | None:
    """Peak bytes of the training, from the model's shape; None when the shape is not known. Raises ConfigError for a shape of nothing."""
    where, shape = ("assume.shape", assume.shape) if assume.shape is not None else _shape_of(config.model)
    if shape is None:
        return None
    import torch

    from bethink.models.lora import add_lora
    from bethink.train.preflight import memory_needed

    capacity = config.tokens_per_microbatch or assume.tokens_per_microbatch
    with torch.device("meta"):
        model = _empty_model(shape, where)
        if not config.full:
            model.requires_grad_(False)
            add_lora(model, config.lora, seed=0)
    needed = memory_needed(model, capacity, gradient_checkpointing=bool(config.gradient_checkpointing))
    if config.gradient_checkpointing is None and assume.memory_gib and needed > assume.memory_gib * 2**30:
        return memory_needed(model, capacity, gradient_checkpointing=True)
    return needed


def _empty_model(shape: dict[str, Any], where: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape), dtype=torch.bfloat16)
    except Exception as error:  # a shape can be wrong in as many ways as transformers has architectures
        raise ConfigError(
            f"no model has this shape: {' '.join(str(error).split())[:200]}",
            where=where,
            fix="give `model_type` and the sizes as the model's config.json has them",
        ) from error


def _shape_of(model: str) -> tuple[str, dict[str, Any] | None]:
    """The model's config.json, and what is in it when it is on this machine already; nothing is fetched to make a plan."""
    from bethink.models.builtin import BUILTIN, cached, pull

    directory = str(pull(model)) if model in BUILTIN and cached(model) else model
    path = os.path.join(directory, "config.json")
    if not os.path.isfile(path):
        return path, None
    shape = read_json(Path(path))
    if not isinstance(shape, dict):
        raise ConfigError("a model's config.json is a mapping", where=path)
    return path, {key: value for key, value in shape.items() if key != "quantization_config"}


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
    hours = [line.hours for line in lines if line.hours and line.uses == "sft"]
    sampling = [line.hours for line in lines if line.hours and line.uses == "eval"]
    text = f"{recipe.name}: {len(lines)} stages, every option checked, nothing run."
    if missing:
        text += f"\nNot here yet: {', '.join(map(str, missing))}."
    if hours and assume.tflops and assume.parameters:
        text += (
            f"\nTraining about {_hours(sum(hours))} on {assume.device}: {assume.parameters / 1e9:.3g} billion parameters, "
            f"{assume.tokens_per_sample:,.0f} tokens a sample, {100 * assume.mfu:.0f} % of {assume.tflops:,.4g} TFLOP/s."
        )
    if sampling:
        text += (
            f"\nEvaluation about {_hours(sum(sampling))}: {assume.tokens_per_completion:,.0f} tokens a completion, "
            f"{assume.sampled_tokens_per_second:,.0f} tokens a second."
        )
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
