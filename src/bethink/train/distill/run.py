"""Distillation: a teacher and a student in, an adapter or a whole model out that says what the teacher would.

This module puts the parts in order; steps and checkpoints are loop.py's, rows and the checks before are those of fine-tuning (sft/), the
loss is loss.py's, the teacher teacher.py's, ask.py's and store.py's, the student's own completions own.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import warn
from bethink.core.errors import ModelError
from bethink.core.seeds import derive_seed
from bethink.models.checkpointing import enable
from bethink.models.known_speed import speed_of
from bethink.models.locate import ModelFiles
from bethink.models.machine import resolve_device, torch_dtype
from bethink.models.speed import Speed
from bethink.tasks.problem import Problem
from bethink.train.distill.ask import asked_once
from bethink.train.distill.config import DistillConfig
from bethink.train.distill.divergence import divergence_named
from bethink.train.distill.loss import Objective
from bethink.train.distill.method import DistillMethod, FloorSeconds, Lessons
from bethink.train.distill.mixture import Mixture, split
from bethink.train.distill.own import Asked, Student
from bethink.train.distill.source import Source, source_of
from bethink.train.distill.teacher import Teacher, require_rows
from bethink.train.fit import fit
from bethink.train.floor import StepFloor
from bethink.train.forward import prove_head
from bethink.train.frame import (
    Trained,
    TrainResult,
    capacity_of,
    claimed_output,
    finished,
    lay_out_on,
    load_on,
    loop_config,
)
from bethink.train.problems import load_problems, write_problems
from bethink.train.rows import data_files
from bethink.train.schedule import Schedule
from bethink.train.sft.forecast import Forecast
from bethink.train.sft.preflight import Preflight, check, survey
from bethink.train.sft.run import learn, sample_pair, stores, thresholds
from bethink.train.sft.samples import SamplePair
from bethink.train.token_store import TokenStore


@dataclass(frozen=True, slots=True)
class _Data:
    """Rows to learn from, rows only looked at, and which of the former a step takes."""

    rows: TokenStore
    held_out: TokenStore
    schedule: Schedule


def run_distill(config: DistillConfig) -> TrainResult:
    """Train as `config` says and write everything into `config.output` (docs/distill.md lists the files).

    A finished run is left alone; one with `store_only` ends with a whole store, and its result is of no steps. Raises ConfigError, DataError, ModelError (for tokenizers that differ, too), OutputError or
    PreflightError, and KeyboardInterrupt when it was interrupted and has saved. A run whose data or models cannot be used leaves the output
    free for the next try; one that preflight stops keeps preflight.json, and goes on with --resume and the flag that allows it.
    """
    files, located = config.inputs()
    teacher = source_of(config, located)
    device = torch.device(resolve_device(config.device))
    read = {"data": files}
    if config.eval_data is not None:
        read["eval_data"] = data_files(config.eval_data)
    with claimed_output(config, [located], read, teacher.identity):
        if not config.store_only and (done := finished(config)):
            return done
        # Where the speed has to be measured, the memory is still free.
        speed = speed_of(str(device), torch_dtype(config.dtype, str(device)))
        tokenizer = ChatTokenizer.load(located.directory)
        capacity = capacity_of(config, device)
        given = _Given(config, files, located, teacher, device, tokenizer, speed, capacity)
        if not config.store_only:
            return _run(given)
        _ask_first(given)
        return TrainResult(config.store, 0, {})


@dataclass(frozen=True, slots=True)
class _Given:
    """What a run starts from. speed: of the device, where it is known; capacity: tokens in a packed row."""

    config: DistillConfig
    files: Sequence[Path]
    located: ModelFiles
    teacher: Source
    device: torch.device
    tokenizer: ChatTokenizer
    speed: Speed | None
    capacity: int

    @property
    def vocabulary(self) -> int:
        return self.teacher.vocabulary

    @property
    def dtype(self) -> torch.dtype:
        return torch_dtype(self.config.dtype, str(self.device))

    def load_teacher(self) -> Teacher:
        assert self.teacher.files is not None  # else its store is whole, and it is not loaded
        return Teacher.load(
            self.teacher.files, self.vocabulary, self.config.temperature, dtype=self.dtype, device=self.device
        )

    def load_student(self) -> Trained:
        trained = load_on(self.config, self.located, self.device)
        prove_head(trained.model)
        require_rows(trained.model, self.vocabulary, self.located)
        return trained


@dataclass(frozen=True, slots=True)
class _Ready:
    """What training goes by.

    found: what preflight saw, where there are rows. lessons, later: what the teacher says of rows to learn from, and of those only looked
    at. live: the teacher, where it stands beside the student. floor: of the student's training, where the device's speed is known.
    """

    data: _Data | None
    found: Preflight | None
    lessons: Lessons
    later: Lessons
    live: Teacher | None
    floor: StepFloor | None


def _run(given: _Given) -> TrainResult:
    config, tokenizer, device, capacity = given.config, given.tokenizer, given.device, given.capacity
    if config.store_teacher is None:
        trained = given.load_student()
        ready = _together(given, trained.model)
    else:  # The teacher is let go of before the student is read: memory must hold the larger of the two.
        ready = _ask_first(given)
        trained = given.load_student()
    model, data, found = trained.model, ready.data, ready.found
    if found is not None:
        found.recompute = enable(model, found.recompute)
    mixture = _mixture(config, tokenizer, data)
    eval_every = config.eval_every if config.eval_every is not None else -(-mixture.steps // 4)
    method = DistillMethod(
        model,
        mixture,
        ready.lessons,
        ready.later,
        _objective(config, given.vocabulary),
        student=_student(config, tokenizer, model, given.vocabulary) if config.own_share else None,
        capacity=capacity,
        device=device,
        mode_seeking=config.divergence != "forward",
        samples=_samples(config, tokenizer, data) if eval_every else None,
        floor=_floor(ready, given.speed),
    )
    # How long the student's own completions get, nobody knows beforehand.
    alone = ready.floor if ready.live is None else None
    forecast = None
    if found is not None and not config.own_share:
        forecast = Forecast(found, alone, config.output, capacity, device)
    loop = loop_config(config, mixture.steps, eval_every)
    return learn(config, trained, method, loop, forecast, verb="distill")


def _together(given: _Given, model: PreTrainedModel) -> _Ready:
    """The teacher stands beside the student."""
    config = given.config
    data = _data(given, model) if given.files else None
    live = given.load_teacher()
    # With a teacher beside it the floor of training alone says little about a step.
    found = _preflight(given, model, data, None) if data else None
    if found is None:
        fit(config, model, max(given.capacity, config.completion_tokens))
    return _Ready(
        data,
        found,
        Lessons(live, data.rows if data else None),
        Lessons(live, data.held_out if data else None),
        live,
        StepFloor.of(model, given.speed) if given.speed else None,
    )


def _ask_first(given: _Given) -> _Ready:
    """The teacher speaks from its store.

    Rows and memory are looked at before, on the student without its weights, so that what stops the run does so before the teacher's pass.
    """
    outline = lay_out_on(given.config, given.located, given.device)
    require_rows(outline, given.vocabulary, given.located)
    data = _data(given, outline)
    floor = StepFloor.of(outline, given.speed) if given.speed else None
    found = _preflight(given, outline, data, floor)
    lessons, later = asked_once(
        given.config,
        given.teacher,
        data.rows,
        data.held_out,
        dtype=given.dtype,
        device=given.device,
        capacity=given.capacity,
    )
    return _Ready(data, found, lessons, later, None, floor)


def _data(given: _Given, model: PreTrainedModel) -> _Data:
    config, vocabulary = given.config, given.vocabulary
    rows, held_out = stores(config, given.files, given.tokenizer, model)
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


def _preflight(given: _Given, model: PreTrainedModel, data: _Data, floor: StepFloor | None) -> Preflight:
    """What fine-tuning finds of the rows and the memory."""
    config = given.config
    found = survey(
        given.files,
        given.tokenizer,
        model,
        data.rows,
        data.held_out,
        data.schedule,
        given.capacity,
        config.gradient_checkpointing,
        floor,
        given.device,
    )
    found.write(config.output)
    check(found, thresholds(config), data.rows.census)
    return found


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


def _floor(ready: _Ready, speed: Speed | None) -> FloorSeconds | None:
    """The student's passes, and the teacher's where it stands beside it."""
    if ready.floor is None or speed is None:
        return None
    student, live = ready.floor, ready.live

    def seconds(lengths: list[int], learned: int) -> float:
        of_teacher = live.floor_seconds(speed, lengths, learned) if live is not None else 0.0
        return student.seconds(lengths, learned) + of_teacher

    return seconds
