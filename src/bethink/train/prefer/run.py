"""Learning from preferences: pairs in, a policy that prefers the better completion out, or a model of what is preferred.

This module puts the parts in order; steps and checkpoints are loop.py's, the losses objective.py's, where pairs come from pairs.py's and
verdicts.py's.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import Progress, warn
from bethink.core.errors import DataError, ModelError
from bethink.core.files import atomic_path, dump_line
from bethink.models.known_speed import speed_of
from bethink.models.locate import ModelFiles
from bethink.models.machine import resolve_device, torch_dtype
from bethink.train import checkpoint
from bethink.train.fit import fit
from bethink.train.floor import StepFloor
from bethink.train.forward import prove_head
from bethink.train.frame import (
    Trained,
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
from bethink.train.prefer.config import PAIRS, PreferConfig
from bethink.train.prefer.method import Order, PreferMethod, means, store_scores
from bethink.train.prefer.pairs import PairRenderer, PairRow, read_pairs
from bethink.train.prefer.plot import plot_preferences
from bethink.train.prefer.preflight import Preflight
from bethink.train.prefer.saved import save_reward_model
from bethink.train.prefer.scores import PolicyScorer, Scorer, ValueScorer
from bethink.train.prefer.settings import RewardSettings
from bethink.train.prefer.store import PairCensus, PairStore, build_pairs, kept_scores
from bethink.train.prefer.value import RewardModel
from bethink.train.prefer.verdicts import Count, pairs_of, read_answers
from bethink.train.prefer.watch import Watch
from bethink.train.resume import resume_command
from bethink.train.schedule import Schedule
from bethink.train.token_store import hash_share
from bethink.train.unwrap import Unwrapper

_SCALE_PAIRS = 256
"""Training pairs whose values, with those of the held-out ones, give a reward model its scale."""

_STORES = (".pairs", ".pairs-eval", ".reference.npy", ".reference-held-out.npy")


def run_prefer(config: PreferConfig) -> TrainResult:
    """Train as `config` says and write everything into `config.output` (docs/prefer.md lists the files).

    A finished run is left alone. Raises ConfigError, DataError, ModelError, TemplateError, OutputError or PreflightError, and
    KeyboardInterrupt when it was interrupted and has saved. A run whose pairs or model cannot be used leaves the output free for the next try;
    one that preflight stops keeps preflight.json, and goes on with --resume and the flag that allows it.
    """
    files, located = config.files(), config.located()
    device = torch.device(resolve_device(config.device))
    with claimed_output(config, [located], files):
        return finished(config) or _run(config, files, located, device)


def _run(
    config: PreferConfig, files: dict[str, list[Path]], located: ModelFiles, device: torch.device
) -> TrainResult:
    tokenizer = ChatTokenizer.load(located.directory)
    renderer = Renderer(tokenizer, think=config.think, style=config.toggle)
    made = _make_pairs(config, files["answers"][0], renderer) if config.answers is not None else None
    speed = speed_of(str(device), torch_dtype(config.dtype, str(device)))
    trained = load_on(config, located, device)
    prove_head(trained.model)
    data = _data(config, files, renderer, trained)
    schedule = Schedule.plan(len(data.store), config.batch_size, config.steps, config.epochs)
    if schedule.batch_size < config.batch_size:
        warn(f"only {len(data.store)} pairs: a batch is {schedule.batch_size}, not {config.batch_size}")
    found = Preflight(data.census, schedule, made)
    found.write(config.output)
    found.check(config.allow_dropped)
    capacity = capacity_of(config, device)
    fit(config, trained.model, max(capacity, data.census.longest))

    scorer: Scorer = PolicyScorer(trained.model)
    masters = dict(trained.masters)
    if config.reward_model:
        scorer = ValueScorer(RewardModel(trained.model, config.seed))
        masters = {f"model.{name}": master for name, master in masters.items()}
    method = _method(config, scorer, data, schedule, device)
    if speed and not config.reward_model:
        method.floor = StepFloor.of(trained.model, speed)
    eval_every = config.eval_every if config.eval_every is not None else -(-schedule.steps // 4)
    try:
        train(
            scorer.module,
            method,
            loop_config(config, schedule.steps, eval_every),
            config.output,
            masters=masters,
            resume_command=resume_command("prefer", config),
        )
    finally:
        if rows := read_metrics(config.output / "metrics.jsonl"):
            plot_preferences(rows, config.output)
    if isinstance(scorer, ValueScorer):
        settings = _settings(method, trained, tokenizer)
        save_reward_model(trained, scorer.module, settings, config.product)
    else:
        trained.save(config)
    for name in _STORES:
        _remove(config.output / name)
    return result(config)


def _make_pairs(config: PreferConfig, answers: Path, renderer: Renderer) -> Count:
    """Write pairs.jsonl from graded answers. Raises DataError when they give no pair."""
    pairs, count = pairs_of(
        read_answers(answers),
        renderer,
        longer=config.longer,
        most=config.pairs_per_problem,
        seed=config.seed,
    )
    if not pairs:
        raise DataError(
            f"no pairs: of {count.answers:,} answers {count.ungraded:,} could not be graded, and no problem has both a good answer "
            "and a worse one",
            where=str(answers),
            fix="sample more answers of each problem, or problems that are right some of the time",
        )
    with atomic_path(config.output / PAIRS) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        handle.writelines(dump_line(pair) for pair in pairs)
    return count


@dataclass(frozen=True, slots=True)
class _Data:
    store: PairStore
    held_out: PairStore
    census: PairCensus


def _data(config: PreferConfig, files: dict[str, list[Path]], renderer: Renderer, trained: Trained) -> _Data:
    """The tokenized pairs. Raises DataError when none is left to train on, ModelError when one does not fit the model."""
    shape = trained.model.config.get_text_config(decoder=True)
    positions = getattr(shape, "max_position_embeddings", None) or sys.maxsize
    longest = min(config.max_tokens or positions, positions)
    sources = files.get("data") or [config.output / PAIRS]
    rendered, opened = PairRenderer(renderer), config.output / ".pairs"
    store, held_out, census = build_pairs(
        lambda: read_pairs(sources, config.mode),
        rendered,
        opened,
        max_tokens=longest,
        is_held_out=_held_out_rule(config, renderer.tokenizer, sources) if not opened.exists() else _none,
    )
    if "eval_data" in files:
        held_out, _, of_eval = build_pairs(
            lambda: read_pairs(files["eval_data"], config.mode),
            rendered,
            config.output / ".pairs-eval",
            max_tokens=longest,
        )
        census.held_out, census.largest_id = len(held_out), max(census.largest_id, of_eval.largest_id)
    if not len(store):
        raise DataError(
            f"no pairs to train on: of {census.read} read, {sum(census.dropped.values())} cannot be learned from "
            f"({', '.join(f'{reason}: {count}' for reason, count in census.dropped.items()) or 'none'})",
            where=str(sources[0]),
        )
    vocabulary = trained.model.get_input_embeddings().weight.shape[0]
    if census.largest_id >= vocabulary:
        raise ModelError(
            f"the pairs hold token id {census.largest_id}, the model knows {vocabulary}",
            where=str(sources[0]),
        )
    return _Data(store, held_out, census)


def _held_out_rule(
    config: PreferConfig, tokenizer: ChatTokenizer, sources: list[Path]
) -> Callable[[PairRow], bool]:
    """Pairs whose question hashes below the share; all pairs of a question go the same way, in both modes."""
    rows = sum(1 for _ in read_pairs(sources, config.mode or Mode.OFF))
    share = min(config.held_out, config.max_held_out / max(rows, 1))
    if config.eval_data is not None or share * rows < 1:
        return _none
    unwrapper = Unwrapper(tokenizer)

    def rule(row: PairRow) -> bool:
        if isinstance(row.prompt, str):
            found = unwrapper.find(row.prompt, row.mode)
            return hash_share(found[0] if found else row.prompt) < share
        return hash_share("\n".join(message["content"] for message in row.prompt)) < share

    return rule


def _none(row: PairRow) -> bool:
    return False


def _method(
    config: PreferConfig, scorer: Scorer, data: _Data, schedule: Schedule, device: torch.device
) -> PreferMethod:
    """The method, with the reference's scores of all pairs that the run takes: computed now, from the weights as they are."""
    order = Order(schedule, config.seed)
    capacity = capacity_of(config, device)
    reference_P2 = held_out_P2 = None
    if config.objective.reference:
        reference_P2 = kept_scores(
            config.output / ".reference.npy",
            lambda: _reference(scorer, data.store, capacity, device, order.used()),
        )
        held_out_P2 = kept_scores(
            config.output / ".reference-held-out.npy",
            lambda: store_scores(scorer, data.held_out, capacity, device),
        )
    metrics, done = config.output / "metrics.jsonl", checkpoint.steps_done(config.output / "checkpoints")
    earlier = read_metrics(metrics)[:done] if done else []
    return PreferMethod(
        scorer,
        data.store,
        data.held_out,
        order,
        config.objective,
        capacity=capacity,
        device=device,
        watch=None if config.reward_model else Watch(earlier),
        reference_P2=reference_P2,
        held_out_P2=held_out_P2,
    )


def _reference(
    scorer: Scorer, store: PairStore, capacity: int, device: torch.device, used: Sequence[int]
) -> Tensor:
    with Progress("reference", len(used), unit="pairs") as progress:
        return store_scores(scorer, store, capacity, device, used, progress)


def _settings(method: PreferMethod, trained: Trained, tokenizer: ChatTokenizer) -> RewardSettings:
    """The scale of the values a reward model gives, over the held-out pairs and some it was trained on."""
    method.scorer.module.eval()
    capacity, device = method.capacity, method.device
    some = range(min(len(method.store), _SCALE_PAIRS))
    value_A = torch.cat(
        [
            store_scores(method.scorer, method.store, capacity, device, some)[: len(some)].flatten(),
            store_scores(method.scorer, method.held_out, capacity, device).flatten(),
        ]
    )
    base = None if trained.lora is None else trained.base
    if base is not None and Path(base).exists():
        base = str(Path(base).resolve())
    accuracy = means(method.held_out_sums())["accuracy"] if len(method.held_out) else None
    return RewardSettings(
        base=base,
        mean=float(value_A.mean()),
        std=max(float(value_A.std()), 1e-6),
        tokenizer=tokenizer.hash,
        accuracy=accuracy,
    )


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
