"""What a recipe will do, before it does it: rows, tokens, hours and memory of each stage, where they can be told.

Rows and tokens follow from the stages' options and the recipe's `assume`; how fast they are worked off, and in how much memory, is
forecast.py's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bethink.chat.toggle import Mode
from bethink.curate.mix import ANY, by_input, shares
from bethink.recipe.forecast import (
    Rate,
    memory,
    policy_rate,
    pretraining_memory,
    pretraining_rate,
    sampling_memory,
    sampling_rate,
    training_rate,
    weight_bytes,
)
from bethink.recipe.questions import problems_asked
from bethink.recipe.schema import Assume, Recipe, references, stage_references
from bethink.recipe.stages import Prepared
from bethink.train.prefer.settings import SETTINGS, base_of

if TYPE_CHECKING:
    from bethink.curate.config import CurateConfig


@dataclass(frozen=True, slots=True)
class Estimate:
    """One stage's plan.

    rows: what it makes or reads; None where nothing can be told. at_most: rows and tokens are upper bounds. good: how many of the rows
    made with thinking on and off are known to pass curation; makes: how many a later stage can read at most, where that is not `rows`. memory
    in bytes. rate: what the hours rest on. judge: bytes of the reward model it makes, if that is what it makes and they are known. cost: of the
    answers of an endpoint that has a price, at most.
    """

    stage: str
    uses: str
    what: str
    rows: int | None = None
    tokens: int | None = None
    at_most: bool = False
    hours: float | None = None
    memory: int | None = None
    good: tuple[int, int] | None = None
    makes: int | None = None
    rate: Rate | None = None
    judge: int | None = None
    cost: float | None = None


_ROWS_FROM = {"curate": "input", "pretrain": "data", "sft": "data", "distill": "data", "prefer": "data"}
"""Of stages that read rows, the option that names them: what else a stage refers to (a model, a tokenizer) is none of its rows."""


def estimate(recipe: Recipe, stages: Sequence[Prepared]) -> list[Estimate]:
    """The plan, stage by stage. Raises ConfigError for a model's shape that no model has."""
    done: dict[str, Estimate] = {}
    for one in stages:
        before = [done[name] for name in stage_references(one.stage, _ROWS_FROM.get(one.stage.uses))]
        done[one.stage.name] = _ESTIMATES[one.stage.uses](one, recipe.assume, before)
    return list(done.values())


def _synthesize(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    on, off = (config.problems if mode in config.modes else 0 for mode in Mode)
    rows = round(len(config.modes) * config.problems / (1 - config.defects))
    return Estimate(
        one.stage.name,
        "synthesize",
        f"{config.problems:,} problems of {_task(config.task)}",
        rows,
        good=(on, off),
    )


def _curate(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    what = f"at most {config.max_samples:,} rows" if config.max_samples else "every good row"
    inputs = _inputs(one, before)
    rows = _known(config, inputs)
    known = rows is not None
    if not known:
        rows = min(filter(None, (_at_most(config, inputs), config.max_samples)), default=None)
    tokens = round(rows * assume.tokens_per_sample) if rows and assume.tokens_per_sample else None
    return Estimate(one.stage.name, "curate", what, rows, tokens, at_most=not known)


def _inputs(one: Prepared, before: list[Estimate]) -> list[list[Estimate | None]]:
    """The stages that make the inputs of each source of the mix; None for an input that no stage makes. One list where sources are categories."""
    config: Any = one.config
    made = {f"stages.{stage.stage}": stage for stage in before}
    by_place = {path[:1]: made.get(name) for path, name in references(one.stage.options["input"])}
    sources = [source.name for source in config.sources] if by_input(config.sources) else [ANY]
    found: dict[str, list[Estimate | None]] = {name: [] for name in sources}
    for place in range(len(config.input)):
        number = str(place + 1)
        found[number if number in found else ANY].append(by_place.get((place,), by_place.get(())))
    return list(found.values())


def _known(config: CurateConfig, inputs: list[list[Estimate | None]]) -> int | None:
    """Rows that are kept, where all inputs are of stages whose good rows are known."""
    good = [[stage.good if stage else None for stage in stages] for stages in inputs]
    if len(inputs) != len(config.sources) or any(None in rows for rows in good):
        return None
    counts = [(sum(r[0] for r in rows if r), sum(r[1] for r in rows if r)) for rows in good]
    taken = shares(counts, config.sources, config.on_per_off, config.max_samples)
    return sum(share.taken for pair in taken for share in pair)


def _at_most(config: CurateConfig, inputs: list[list[Estimate | None]]) -> int | None:
    """The most rows that can be kept: all that the inputs have, or what the scarcest source with a fixed share allows."""
    most = [_read(stages) for stages in inputs]
    if len(inputs) != len(config.sources):
        return most[0]
    having = list(zip(most, config.sources, strict=True))
    bounds = [rows / source.parts for rows, source in having if rows is not None and not source.fills]
    if not bounds:
        return None
    each = [math.floor(source.parts * min(bounds)) for _, source in having]
    return sum(count if rows is None else min(rows, count) for count, rows in zip(each, most, strict=True))


def _read(stages: Sequence[Estimate | None]) -> int | None:
    """The most rows that can be read of what these stages make, where it is known of all."""
    counts = [stage and (stage.rows if stage.makes is None else stage.makes) for stage in stages]
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if len(known) == len(counts) else None


def _corpus(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    return Estimate(one.stage.name, "corpus", f"texts of {_task(config.task)}", config.texts, at_most=True)


def _pretrain(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    texts = (_read(before) if len(before) == len(config.data) else None) or 0
    passes = texts * config.epochs * (1 - config.held_out)
    tokens = config.steps * config.tokens_per_step if config.steps else None
    if tokens is None and texts and assume.tokens_per_sample:
        tokens = round(passes * assume.tokens_per_sample)
    what = "all weights from random ones"
    if tokens:
        what += f", {-(-tokens // config.tokens_per_step):,} steps of {config.tokens_per_step:,} tokens"
    rate = pretraining_rate(config, assume) if tokens else None
    return Estimate(
        one.stage.name,
        "pretrain",
        what,
        None if config.steps else round(passes) or None,
        tokens,
        at_most=not config.steps,
        hours=_time(tokens, rate),
        memory=pretraining_memory(config, assume),
        rate=rate,
    )


def _sft(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    return _on_rows(one, assume, before)


def _distill(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    """The student's training, the teacher's reading where it has not been asked before, and what the student writes itself."""
    config: Any = one.config
    teacher = None if config.store_whole else config.teacher
    line = _on_rows(one, assume, before, f"taught by {_model(config.teacher)}, ", teacher=teacher)
    if config.store_only:
        asks = f"asks {_model(config.teacher)}, and keeps its {config.store_teacher} likeliest tokens"
        return replace(line, what=asks, hours=None, memory=teacher and weight_bytes(teacher), rate=None)
    if not line.rows or not line.hours or not config.own_share:
        return line
    own = line.rows * config.own_share
    sampled = sampling_rate(config, assume, round(config.batch_size * config.own_share))
    written = own * min(assume.tokens_per_completion or math.inf, config.completion_tokens)
    hours = line.hours + written / sampled.tokens_per_second / 3600 if sampled else None
    return replace(line, hours=hours)


def _prefer(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    """A sample is a pair: two rows, which the reference reads as well."""
    config: Any = one.config
    reward = config.reward_model
    what = "reward model, " if reward else f"{config.algorithm}, "
    further = 0 if reward or not config.objective.reference else 1
    line = _on_rows(one, assume, before, what, of="pairs", rows_each=2, further=further)
    return replace(line, judge=weight_bytes(config.model, assume) if reward else None)


def _on_rows(
    one: Prepared,
    assume: Assume,
    before: list[Estimate],
    what: str = "",
    *,
    of: str = "",
    rows_each: int = 1,
    further: int = 0,
    teacher: str | None = None,
) -> Estimate:
    """A stage that learns from rows. of: what its samples are called, each of `rows_each` rows; the rest is as for `training_rate`."""
    config: Any = one.config
    curated = next((stage for stage in before if stage.uses == "curate" and stage.rows), None)
    available = curated.rows if curated else None
    samples = (
        config.steps * config.batch_size if config.steps else available and round(available * config.epochs)
    )
    what += "all weights" if config.full else f"LoRA rank {config.rank}"
    if samples:
        what += f", {-(-samples // config.batch_size):,} steps of {config.batch_size}" + (of and f" {of}")
    mean = assume.tokens_per_sample
    tokens = round(samples * rows_each * mean) if samples and mean else None
    rate = training_rate(config, assume, further=further, teacher=teacher) if tokens else None
    taught_by = weight_bytes(teacher) if teacher else 0
    return Estimate(
        one.stage.name,
        one.stage.uses,
        what,
        samples,
        tokens,
        at_most=not config.steps and not (curated and not curated.at_most),
        hours=_time(tokens, rate),
        memory=None if taught_by is None else _with_teacher(config, assume, taught_by),
        rate=rate,
    )


def _with_teacher(config: Any, assume: Assume, weights: int) -> int | None:
    """Bytes at the peak; a teacher of so many that is asked beforehand has gone when the student comes, or is read layer by layer."""
    if not weights or config.store_teacher is None:
        return memory(config, assume, beside=weights)
    alone, by_layer = memory(config, assume), config.layer_by_layer
    if by_layer is None and assume.memory_gib:
        by_layer = weights > assume.memory_gib * 2**30
    return alone and max(alone, 0 if by_layer else weights)


def _time(tokens: float | None, rate: Rate | None) -> float | None:
    """Hours for so many tokens."""
    return tokens / rate.tokens_per_second / 3600 if tokens and rate else None


def _eval(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    tasks = ", ".join(dict.fromkeys(_task(spec) for spec in config.tasks))
    what = f"{tasks}, {' and '.join(config.modes)}" + (", prompted" if config.prompted else "")
    if config.endpoint:
        what += f", asked of {config.endpoint_model or config.endpoint}"
    problems = problems_asked(config, once=one.stage.uses == "sample")
    rows = problems * sum(config.samples_of(mode) for mode in config.modes) if problems else None
    tokens = rows * config.max_tokens if rows else None
    cost = config.cost(0, tokens) if tokens and config.endpoint else None
    hours, rate = None, sampling_rate(config, assume, rows) if rows else None
    if rows and rate and assume.tokens_per_completion:
        hours = rows * assume.tokens_per_completion / rate.tokens_per_second / 3600
    return Estimate(
        one.stage.name, one.stage.uses, what, rows, tokens, at_most=True, hours=hours, rate=rate, cost=cost
    )


def _sample(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    """What an evaluation of the same size takes; of the rows only the most there can be is known."""
    config: Any = one.config
    line = _eval(one, assume, before)
    problems = problems_asked(config, once=True)
    makes = problems * len(config.modes) * config.keep if problems and config.keep else line.rows
    return replace(line, makes=makes)


def _grpo(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    rollouts = config.steps * config.batch_size
    what = f"{config.algorithm}, {config.steps:,} steps of {config.problems_per_step} problems × {config.group_size} completions"
    hours = None
    # The policy that sampled is asked again where it is not the one that learns, and a reference where there is a KL term.
    further = (config.updates_per_step > 1) + bool(config.objective.kl)
    sampled = sampling_rate(config, assume, config.batch_size, config.group_size)
    trained = policy_rate(config, assume, further=further)
    if sampled and trained and assume.tokens_per_completion:
        tokens = rollouts * assume.tokens_per_completion
        hours = tokens * (1 / sampled.tokens_per_second + 1 / trained.tokens_per_second) / 3600
    judge = _judge(config.reward_model, before)
    beside = None if judge is None else judge + (sampling_memory(config, assume) or 0)
    return Estimate(
        one.stage.name,
        "grpo",
        what,
        rollouts,
        rollouts * config.max_tokens,
        at_most=True,
        hours=hours,
        memory=None if beside is None else memory(config, assume, longest=config.max_tokens, beside=beside),
        rate=sampled,
    )


def _judge(directory: Path | None, before: list[Estimate]) -> int | None:
    """Bytes of the reward model in `directory`, if one is asked for: as the stage says that makes it, else as it is there; None for one
    that is nowhere yet."""
    if directory is None:
        return 0
    made = next((stage.judge for stage in before if stage.judge), None)
    if made is None and (directory / SETTINGS).is_file():
        return weight_bytes(base_of(directory))
    return made


def _task(spec: str) -> str:
    """A task's short name: the generator's, the file's, or of a hub data set its layout's or its own."""
    head, _, rest = spec.partition(":")
    identity, _, layout = rest.partition(":")
    return (Path(identity).name if "=" in layout else layout) if head == "hub" else Path(head).name


def _model(spec: str) -> str:
    """A model's short name."""
    return Path(spec.partition("+")[0]).name


def _compare(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    config: Any = one.config
    names = [stage.stage for stage in before]
    what = (
        " against ".join(names) if len(names) > 1 else f"{names[0]}, {config.mode} against {config.against}"
    )
    return Estimate(one.stage.name, "compare", what)


def _report(one: Prepared, assume: Assume, before: list[Estimate]) -> Estimate:
    return Estimate(one.stage.name, "report", one.product.name)


_ESTIMATES = {
    "synthesize": _synthesize,
    "corpus": _corpus,
    "curate": _curate,
    "pretrain": _pretrain,
    "sft": _sft,
    "distill": _distill,
    "prefer": _prefer,
    "grpo": _grpo,
    "sample": _sample,
    "eval": _eval,
    "compare": _compare,
    "report": _report,
}
