"""Distillation: a teacher and a student in, an adapter or a whole model out that says what the teacher would.

This module puts the parts in order; steps and checkpoints are loop.py's, rows and the checks before are those of fine-tuning (sft/), the
loss is loss.py's, the teacher teacher.py's and store.py's, the student's own completions own.py's.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import Progress, note, warn
from bethink.core.errors import ModelError
from bethink.core.files import only_process
from bethink.core.seeds import derive_seed
from bethink.models.checkpointing import enable
from bethink.models.known_speed import speed_of
from bethink.models.locate import ModelFiles
from bethink.models.machine import resolve_device, torch_dtype
from bethink.models.speed import Speed
from bethink.tasks.problem import Problem
from bethink.train.distill.config import DistillConfig
from bethink.train.distill.divergence import divergence_named
from bethink.train.distill.loss import Objective
from bethink.train.distill.method import DistillMethod, FloorSeconds, Lessons
from bethink.train.distill.mixture import Mixture, split
from bethink.train.distill.own import Asked, Student
from bethink.train.distill.store import (
    Part,
    bytes_needed,
    claim_store,
    fill,
    require_space,
    rows_fingerprint,
)
from bethink.train.distill.teacher import Teacher, require_rows
from bethink.train.distill.vocabulary import shared_vocabulary
from bethink.train.fit import fit
from bethink.train.floor import StepFloor
from bethink.train.forward import prove_head
from bethink.train.frame import (
    TrainResult,
    capacity_of,
    claimed_output,
    finished,
    load_new,
    loop_config,
    model_identity,
    result,
)
from bethink.train.loop import interruptible, train
from bethink.train.metrics import read_metrics
from bethink.train.plot import plot_loss
from bethink.train.problems import load_problems, write_problems
from bethink.train.resume import resume_command
from bethink.train.rows import data_files
from bethink.train.schedule import Schedule
from bethink.train.sft.forecast import Forecast, summary
from bethink.train.sft.preflight import Preflight, check, survey
from bethink.train.sft.run import sample_pair, stores, thresholds
from bethink.train.sft.samples import SamplePair
from bethink.train.token_store import TokenStore

LoadTeacher = Callable[[], Teacher]


@dataclass(frozen=True, slots=True)
class _Data:
    """Rows to learn from, rows only looked at, and which of the former a step takes."""

    rows: TokenStore
    held_out: TokenStore
    schedule: Schedule


def run_distill(config: DistillConfig) -> TrainResult:
    """Train as `config` says and write everything into `config.output` (docs/distill.md lists the files).

    A finished run is left alone. Raises ConfigError, DataError, ModelError (for tokenizers that differ, too), OutputError or
    PreflightError, and KeyboardInterrupt when it was interrupted and has saved. A run whose data or models cannot be used leaves the output
    free for the next try; one that preflight stops keeps preflight.json, and goes on with --resume and the flag that allows it.
    """
    files, located = config.inputs()
    teacher = config.located_teacher()
    vocabulary = shared_vocabulary(teacher, located)
    device = torch.device(resolve_device(config.device))
    read = {"data": files}
    if config.eval_data is not None:
        read["eval_data"] = data_files(config.eval_data)
    with claimed_output(config, [located, teacher], read):
        return finished(config) or _run(config, files, located, teacher, vocabulary, device)


def _run(
    config: DistillConfig,
    files: Sequence[Path],
    located: ModelFiles,
    teacher: ModelFiles,
    vocabulary: int,
    device: torch.device,
) -> TrainResult:
    tokenizer = ChatTokenizer.load(located.directory)
    dtype = torch_dtype(config.dtype, str(device))
    # Where the speed has to be measured, the memory is still free.
    speed = speed_of(str(device), dtype)
    trained = load_new(config, located, device)
    model = trained.model
    prove_head(model)
    require_rows(model, vocabulary, located)
    data = _data(config, files, tokenizer, model, vocabulary) if files else None

    load = partial(Teacher.load, teacher, vocabulary, config.temperature, dtype=dtype, device=device)
    live = load() if config.store_teacher is None else None
    capacity = capacity_of(config, device)
    floor = StepFloor.of(model, speed) if speed else None
    # With a teacher beside it the floor of training alone says little about a step.
    own_floor = floor if live is None else None
    found = _preflight(config, files, tokenizer, model, data, capacity, own_floor)
    if live is not None:
        lessons = Lessons(live, data.rows if data else None)
        later = Lessons(live, data.held_out if data else None)
    else:
        assert data is not None  # the config asks for rows where the teacher is asked beforehand
        lessons, later = _asked_once(config, load, teacher, data, vocabulary, capacity)
    mixture = _mixture(config, tokenizer, data)
    eval_every = config.eval_every if config.eval_every is not None else -(-mixture.steps // 4)
    method = DistillMethod(
        model,
        mixture,
        lessons,
        later,
        _objective(config, vocabulary),
        student=_student(config, tokenizer, model, vocabulary) if config.own_share else None,
        capacity=capacity,
        device=device,
        samples=_samples(config, tokenizer, data) if eval_every else None,
        floor=_floor(floor, live, speed),
    )
    # How long the student's own completions get, nobody knows beforehand.
    forecast = found and not config.own_share and Forecast(found, own_floor, config.output, capacity, device)
    try:
        train(
            model,
            method,
            loop_config(config, mixture.steps, eval_every),
            config.output,
            masters=trained.masters,
            resume_command=resume_command("distill", config),
            on_step=forecast or (lambda row: None),
        )
    except KeyboardInterrupt:
        plot_loss(read_metrics(config.output / "metrics.jsonl"), config.output)
        raise
    metrics = read_metrics(config.output / "metrics.jsonl")
    note(summary(metrics))
    plot_loss(metrics, config.output)
    trained.save(config)
    shutil.rmtree(config.output / ".tokens", ignore_errors=True)
    shutil.rmtree(config.output / ".tokens-eval", ignore_errors=True)
    return result(config)


def _data(
    config: DistillConfig,
    files: Sequence[Path],
    tokenizer: ChatTokenizer,
    model: PreTrainedModel,
    vocabulary: int,
) -> _Data:
    rows, held_out = stores(config, files, tokenizer, model)
    if (largest := max(rows.largest_id, held_out.largest_id)) >= vocabulary:
        raise ModelError(
            f"the rows hold token id {largest}, the tokenizer knows {vocabulary}",
            where=str(config.data),
            fix="curate with `--tokenizer` set to this model",
        )
    batch_size = split(config.batch_size, config.own_share)[0] if config.tasks else config.batch_size
    schedule = Schedule.plan(len(rows), batch_size, config.steps, config.epochs, rows.census.pass_rows)
    if schedule.batch_size < batch_size:
        warn(f"only {len(rows)} rows: a step takes {schedule.batch_size} of them, not {batch_size}")
    return _Data(rows, held_out, schedule)


def _preflight(
    config: DistillConfig,
    files: Sequence[Path],
    tokenizer: ChatTokenizer,
    model: PreTrainedModel,
    data: _Data | None,
    capacity: int,
    floor: StepFloor | None,
) -> Preflight | None:
    """What fine-tuning finds of the rows; without rows only whether memory suffices is looked at, and nothing returned."""
    if data is not None:
        asked = config.gradient_checkpointing
        found = survey(
            files, tokenizer, model, data.rows, data.held_out, data.schedule, capacity, asked, floor
        )
        found.write(config.output)
        check(found, thresholds(config), data.rows.census)
        found.recompute = enable(model, found.recompute)
        return found
    fit(config, model, max(capacity, config.completion_tokens))
    return None


def _asked_once(
    config: DistillConfig,
    load: LoadTeacher,
    files: ModelFiles,
    data: _Data,
    vocabulary: int,
    capacity: int,
) -> tuple[Lessons, Lessons]:
    """What the teacher says of all rows, from its store; what is missing there it is asked first, and then let go of."""
    k = min(config.store_teacher or vocabulary, vocabulary)
    parts = [Part(config.store / "train", data.rows), Part(config.store / "held_out", data.held_out)]
    with only_process(config.store):
        claim_store(
            config.store,
            {
                "teacher": list(model_identity(files)),
                "rows": [rows_fingerprint(part.rows) for part in parts],
                "likeliest": k,
                "temperature": config.temperature,
                "vocabulary": vocabulary,
            },
        )
        if not all(part.whole for part in parts):
            _ask(config, load, parts, k, capacity)
    gc.collect()
    train, held_out = (Lessons(part.open(k), part.rows) for part in parts)
    return train, held_out


def _ask(config: DistillConfig, load: LoadTeacher, parts: list[Part], k: int, capacity: int) -> None:
    total, done = sum(part.tokens for part in parts), sum(part.done_tokens for part in parts)
    require_space(config.store, bytes_needed(total - done, k))
    note(f"asking the teacher about {total:,} tokens, {bytes_needed(total, k) / 1e6:,.0f} MB on disk")
    teacher = load()
    with (
        interruptible() as interrupted,
        Progress("teacher", total, unit="tokens", done=done) as progress,
    ):
        for part in parts:
            if not part.whole:
                fill(part, teacher, k, capacity=capacity, progress=progress, interrupted=interrupted)
            if interrupted():
                note(
                    f"what the teacher said so far is kept; go on with:\n  {resume_command('distill', config)}"
                )
                raise KeyboardInterrupt


def _mixture(config: DistillConfig, tokenizer: ChatTokenizer, data: _Data | None) -> Mixture:
    steps = data.schedule.steps if data is not None else config.steps or 0
    problems: list[Asked] = []
    if config.tasks:
        problems = _problems(config, tokenizer, steps * split(config.batch_size, config.own_share)[1])
    return Mixture(
        share=config.own_share,
        batch_size=config.batch_size,
        seed=config.seed,
        rows=data.rows if data else None,
        schedule=data.schedule if data else None,
        problems=problems,
        steps=steps,
    )


def _problems(config: DistillConfig, tokenizer: ChatTokenizer, most: int) -> list[Asked]:
    """The prompts of the tasks."""
    of_tasks = load_problems(config.tasks, config.problems or most, split=config.split, seed=config.seed)
    problems = [problem for found in of_tasks for problem in found]
    write_problems(problems, config.output)
    renderer = Renderer(tokenizer, think=config.think, style=config.toggle)
    modes = [_mode(config, problem) for problem in problems]
    return [
        Asked(tuple(renderer.prompt(problem.messages, mode).ids), mode)
        for problem, mode in zip(problems, modes, strict=True)
    ]


def _mode(config: DistillConfig, problem: Problem) -> Mode:
    if config.thinking != "both":
        return Mode(config.thinking)
    return Mode.ON if derive_seed(config.seed, "mode", problem.id) % 2 else Mode.OFF


def _objective(config: DistillConfig, vocabulary: int) -> Objective:
    divergence = divergence_named(config.divergence, config.beta)
    return Objective(divergence, config.temperature, config.cross_entropy, vocabulary)


def _student(
    config: DistillConfig, tokenizer: ChatTokenizer, model: PreTrainedModel, vocabulary: int
) -> Student:
    return Student(
        model,
        stop_ids=tokenizer.stop_ids,
        longest=config.completion_tokens,
        vocabulary=vocabulary,
        slots=config.slots,
        seed=config.seed,
    )


def _samples(config: DistillConfig, tokenizer: ChatTokenizer, data: _Data | None) -> SamplePair | None:
    if data is None:
        return None
    return sample_pair(config, tokenizer, data.held_out if len(data.held_out) else data.rows)


def _floor(floor: StepFloor | None, live: Teacher | None, speed: Speed | None) -> FloorSeconds | None:
    """The student's passes, and the teacher's where it stands beside it."""
    if floor is None or speed is None:
        return None
    student = floor

    def seconds(lengths: list[int], learned: int) -> float:
        of_teacher = live.floor_seconds(speed, lengths, learned) if live is not None else 0.0
        return student.seconds(lengths, learned) + of_teacher

    return seconds
