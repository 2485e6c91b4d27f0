"""Reinforcement learning with verifiable rewards: problems in, an adapter or a whole model out that solves more of them.

This module puts the parts in order; steps and checkpoints are loop.py's, everything about rollouts and losses rl/'s, which problem comes
when curricula/'s. On one device the sampler uses the trainer's own weights, adapters folded in for the length of a step's rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import note, warn
from bethink.engine.dialogue import LocalDialogue
from bethink.engine.native import NativeEngine
from bethink.models.known_speed import speed_of
from bethink.models.locate import ModelFiles
from bethink.models.machine import resolve_device
from bethink.tasks.problem import Problem
from bethink.tasks.prompted import prompted
from bethink.train import checkpoint
from bethink.train.curricula.api import Curriculum
from bethink.train.curricula.mastery import Mastery
from bethink.train.curricula.pass_rates import read_pass_rates
from bethink.train.curricula.plot import plot_curriculum
from bethink.train.curricula.progressive import Progressive
from bethink.train.curricula.shuffled import Shuffled
from bethink.train.fit import fit
from bethink.train.floor import StepFloor
from bethink.train.forward import prove_head
from bethink.train.frame import (
    TrainResult,
    capacity_of,
    claimed_output,
    finished,
    load_on,
    loop_config,
    result,
)
from bethink.train.loop import train
from bethink.train.metrics import read_metrics
from bethink.train.prefer.reward import preference_on
from bethink.train.prefer.settings import REWARD
from bethink.train.problems import load_problems, write_problems
from bethink.train.resume import resume_command
from bethink.train.rl.config import GRPOConfig
from bethink.train.rl.held_out import HeldOut, held_out_problems
from bethink.train.rl.log import NAME as ROLLOUTS
from bethink.train.rl.log import RolloutLog
from bethink.train.rl.method import GRPOMethod, Plan
from bethink.train.rl.plot import plot_run
from bethink.train.rl.preflight import FirstBatch, Thresholds
from bethink.train.rl.reference import AdapterOff, FrozenCopy, Reference
from bethink.train.rl.rollouts import Graders, Sampler
from bethink.train.rl.unjudged import require_graders, require_rewards
from bethink.train.rl.watch import Watch
from bethink.train.rollout_page import write_rollout_page
from bethink.verify.code.pool import require_sandbox, sandboxes_for, shared_sandboxes
from bethink.verify.pool import WorkerPool
from bethink.verify.rewards.compose import Rewards


def run_grpo(config: GRPOConfig) -> TrainResult:
    """Train as `config` says and write everything into `config.output` (docs/grpo.md lists the files).

    A finished run is left alone. Raises ConfigError, DataError, ModelError, TemplateError, OutputError or PreflightError, and
    KeyboardInterrupt when it was interrupted and has saved. A run whose tasks or model cannot be used leaves the output free for the next try;
    one that preflight stops keeps preflight.json, and goes on with --resume and the flag that allows it.
    """
    located = config.located()
    device = torch.device(resolve_device(config.device))
    tokenizer = ChatTokenizer.load(located.directory)
    built = {REWARD: preference_on(str(device), tokenizer.hash)}
    rewards = Rewards.of(config.rewards, builders=built, max_tokens=config.max_tokens)
    rates = config.pass_rates
    files = {**rewards.files, **({"pass_rates": (rates,)} if rates is not None and rates.is_file() else {})}
    with claimed_output(config, [located], files):
        return finished(config) or _run(config, located, device, rewards)


def _run(config: GRPOConfig, located: ModelFiles, device: torch.device, rewards: Rewards) -> TrainResult:
    problems, curriculum = _curriculum(config)
    require_rewards(problems, rewards)
    held_out: list[list[Problem]] = []
    if config.eval_every:
        tasks = config.eval_tasks or config.tasks
        held_out = held_out_problems(tasks, config.eval_size, config.seed, problems)
    asked = [*problems, *(problem for level in held_out for problem in level)]
    if any(problem.grader == "code" for problem in asked):
        require_sandbox(config)  # said before the model is loaded
    write_problems(problems, config.output)
    if config.prompted:
        problems = [prompted(problem) for problem in problems]
        held_out = [[prompted(problem) for problem in level] for level in held_out]
    renderer = Renderer(ChatTokenizer.load(located.directory), think=config.think, style=config.toggle)
    trained = load_on(config, located, device)
    prove_head(trained.model)
    capacity = capacity_of(config, device)
    copied = config.objective.kl and not config.reference_is_base
    reference = FrozenCopy.bytes_of(trained.model) if copied else 0
    fit(
        config,
        trained.model,
        max(capacity, config.max_tokens),
        beside=reference + rewards.weight_bytes,
    )
    try:
        with (
            WorkerPool(config.workers) as pool,
            sandboxes_for(asked, config.workers, config) as sandboxes,
        ):
            graders = Graders(pool, lambda: sandboxes or shared_sandboxes())
            train(
                trained.model,
                _method(
                    config, trained.model, problems, held_out, curriculum, renderer, rewards, graders, device
                ),
                loop_config(config, config.steps, config.eval_every),
                config.output,
                masters=trained.masters,
                resume_command=resume_command("grpo", config),
                on_step=lambda row: _show(config) if _is_between(row["step"], config) else None,
            )
    finally:
        _show(config)
    trained.save(config)
    return result(config)


def _is_between(step: int, config: GRPOConfig) -> bool:
    """Whether a checkpoint follows after `step` steps, and further steps after that."""
    every = config.checkpoint_every
    return bool(every) and step % every == 0 and step < config.steps


def _show(config: GRPOConfig) -> None:
    """Write the plots and the page of rollouts as they are now."""
    if rows := read_metrics(config.output / "metrics.jsonl"):
        plot_run(rows, config.output)
        plot_curriculum(rows, config.output)
        write_rollout_page(config.output / ROLLOUTS, config.output / "rollouts.html", think=config.think)


def _method(
    config: GRPOConfig,
    model: PreTrainedModel,
    problems: Sequence[Problem],
    held_out: Sequence[Sequence[Problem]],
    curriculum: Curriculum,
    renderer: Renderer,
    rewards: Rewards,
    graders: Graders,
    device: torch.device,
) -> GRPOMethod:
    objective = config.objective
    engine = NativeEngine(
        model, decode=renderer.tokenizer.decode, slots=config.slots, temperature=config.temperature
    )
    sampler = Sampler(
        dialogue=LocalDialogue(engine, renderer, floor_seconds=engine.floor_seconds),
        problems=problems,
        rewards=rewards,
        graders=graders,
        modes=config.modes,
        group_size=config.group_size,
        max_tokens=config.max_tokens,
        seed=config.seed,
        mask_truncated=config.overlong == "mask",
    )
    speed = speed_of(str(device), model.dtype)
    plan = Plan(
        steps=config.steps,
        problems_per_step=config.problems_per_step,
        updates_per_step=config.updates_per_step,
        refills=config.refills,
        longest=config.max_tokens,
        cap=config.importance_cap,
        capacity=capacity_of(config, device),
        seed=config.seed,
        temperature=config.temperature,
    )
    done = checkpoint.steps_done(config.output / "checkpoints")
    thresholds = Thresholds(config.allow_truncated, config.allow_no_signal, config.allow_ungraded)
    return GRPOMethod(
        model,
        sampler,
        curriculum,
        objective,
        plan,
        RolloutLog(config.output, done=done),
        device=device,
        first=FirstBatch(config.output, thresholds, graders),
        watch=Watch(read_metrics(config.output / "metrics.jsonl")[:done] if done else []),
        reference=_reference(config, model) if objective.kl else None,
        held_out=_held_out(config, held_out, sampler) if held_out else None,
        floor=StepFloor.of(model, speed) if speed else None,
    )


def _reference(config: GRPOConfig, model: PreTrainedModel) -> Reference:
    return AdapterOff(model) if config.reference_is_base else FrozenCopy(model, config.reference_every)


def _held_out(config: GRPOConfig, of_tasks: Sequence[Sequence[Problem]], sampler: Sampler) -> HeldOut:
    return HeldOut(
        of_tasks=of_tasks,
        dialogue=sampler.dialogue,
        graders=sampler.graders,
        modes=[mode for mode in Mode if config.modes.get(mode.value) or config.modes.get("both")],
        max_tokens=config.max_tokens,
        seed=config.seed,
        temperature=config.temperature,
    )


def _curriculum(config: GRPOConfig) -> tuple[list[Problem], Curriculum]:
    """The problems of the run, and what draws from them."""
    problems, levels = _problems(config)
    if config.curriculum == "mastery":
        require_graders(problems, levels)
        return problems, Mastery(levels, config.seed, **config.curriculum_options("mastery"))
    if config.pass_rates is not None:
        found = read_pass_rates(config.pass_rates, problems)
        if found.missing:
            warn(f"{found.missing:,} problems have no pass rate in {config.pass_rates} and are left out")
        rated = [problems[index] for index in found.indices]
        progressive = Progressive(
            found.rates,
            config.steps,
            config.problems_per_step,
            config.seed,
            **config.curriculum_options("progressive"),
        )
        note(
            f"progressive curriculum: {progressive.dropped:,} of {len(rated):,} problems with a pass rate are dropped as too easy "
            f"({progressive.drop:g} or more)"
        )
        return rated, progressive
    return problems, Shuffled(len(problems), config.seed)


def _problems(config: GRPOConfig) -> tuple[list[Problem], list[int]]:
    """All problems, and the level of each: the place of its task among those named."""
    most = config.problems_per_step * config.steps * (1 + config.refills)
    of_tasks = load_problems(config.tasks, config.problems or most, split=config.split, seed=config.seed)
    levels = [level for level, problems in enumerate(of_tasks) for _ in problems]
    return [problem for problems in of_tasks for problem in problems], levels
