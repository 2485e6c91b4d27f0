"""Supervised fine-tuning of the thinking toggle: curated rows in, an adapter or a whole model out.

The defaults are NVIDIA's published weekend recipe: rank 64, alpha 128, learning rate 1e-4 with a cosine and 5 % warm-up, weight decay
0.001, batches of 256 samples, the curriculum's order kept. This module puts the parts in order; steps and checkpoints are loop.py's,
the loss is sft_method.py's, the checks before are preflight.py's.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from bethink.chat.toggle import ToggleStyle
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import note, warn
from bethink.core.errors import DataError, ModelError
from bethink.models.checkpointing import enable
from bethink.models.known_speed import speed_of
from bethink.models.locate import ModelFiles
from bethink.models.machine import resolve_device, torch_dtype
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
from bethink.train.loop import LoopConfig, Method, train
from bethink.train.metrics import read_metrics
from bethink.train.plot import plot_loss
from bethink.train.resume import resume_command
from bethink.train.rows import Row, count_rows, data_files
from bethink.train.schedule import Schedule
from bethink.train.sft.config import SFTConfig
from bethink.train.sft.forecast import Forecast, summary
from bethink.train.sft.method import SFTMethod
from bethink.train.sft.preflight import Thresholds, check, survey
from bethink.train.sft.samples import SamplePair
from bethink.train.token_store import TokenStore, build_stores, hash_share
from bethink.train.unwrap import Unwrapper


def run_sft(config: SFTConfig) -> TrainResult:
    """Fine-tune as `config` says and write everything into `config.output` (docs/sft.md lists the files).

    A finished run is left alone. Raises ConfigError (a device that is not there), DataError, ModelError, OutputError or
    PreflightError, and KeyboardInterrupt when it was interrupted and has saved. A run whose data or model cannot be used leaves the
    output free for the next try; one that preflight stops keeps preflight.json, and goes on with --resume and the flag that allows it.
    """
    files, located = config.inputs()
    device = torch.device(resolve_device(config.device))
    read = {"data": files}
    if config.eval_data is not None:
        read["eval_data"] = data_files(config.eval_data)
    with claimed_output(config, [located], read):
        return finished(config) or _run(config, files, located, device)


def _run(config: SFTConfig, files: Sequence[Path], located: ModelFiles, device: torch.device) -> TrainResult:
    tokenizer = ChatTokenizer.load(located.directory)
    # Where the speed has to be measured, the memory is still free.
    speed = speed_of(str(device), torch_dtype(config.dtype, str(device)))
    trained = load_on(config, located, device)
    model = trained.model
    prove_head(model)
    store, held_out = stores(config, files, tokenizer, model)
    schedule = Schedule.plan(
        len(store), config.batch_size, config.steps, config.epochs, store.census.pass_rows
    )
    if schedule.batch_size < config.batch_size:
        warn(f"only {len(store)} rows: a batch is {schedule.batch_size} samples, not {config.batch_size}")
    capacity = capacity_of(config, device)
    floor = StepFloor.of(model, speed) if speed else None
    found = survey(
        files, tokenizer, model, store, held_out, schedule, capacity, config.gradient_checkpointing, floor
    )
    found.write(config.output)
    check(found, thresholds(config), store.census)
    found.recompute = enable(model, found.recompute)

    eval_every = config.eval_every if config.eval_every is not None else -(-schedule.steps // 4)
    samples = sample_pair(config, tokenizer, held_out if len(held_out) else store) if eval_every else None
    method = SFTMethod(
        model, store, held_out, schedule, capacity=capacity, device=device, samples=samples, floor=floor
    )
    forecast = Forecast(found, floor, config.output, capacity, device)
    loop = loop_config(config, schedule.steps, eval_every)
    return learn(config, trained, method, loop, forecast, verb="sft")


def learn(
    config: SFTConfig,
    trained: Trained,
    method: Method[Any],
    loop: LoopConfig,
    forecast: Forecast | None,
    *,
    verb: str,
) -> TrainResult:
    """Train on rows, draw the curve, save what was trained, and remove the tokens that `stores` wrote.

    verb: of the command that resumes. Raises what `loop.train` raises.
    """
    try:
        train(
            trained.model,
            method,
            loop,
            config.output,
            masters=trained.masters,
            resume_command=resume_command(verb, config),
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


def stores(
    config: SFTConfig, files: Sequence[Path], tokenizer: ChatTokenizer, model: PreTrainedModel
) -> tuple[TokenStore, TokenStore]:
    """The rows to train on and the held-out ones. Raises DataError when none is left, ModelError when one does not fit the model."""
    shape = model.config.get_text_config(decoder=True)
    positions = getattr(shape, "max_position_embeddings", None) or sys.maxsize
    max_tokens = min(config.max_tokens or positions, positions)
    rows = count_rows(files)
    wanted = config.steps * config.batch_size if config.steps else math.ceil(min(config.epochs, 1.0) * rows)
    store, held_out = build_stores(
        files,
        tokenizer,
        config.output / ".tokens",
        max_tokens=max_tokens,
        needed=wanted if wanted < rows else None,
        is_held_out=_held_out_rule(config, tokenizer, min(rows, wanted)),
    )
    if config.eval_data is not None:
        held_out, _ = build_stores(
            data_files(config.eval_data), tokenizer, config.output / ".tokens-eval", max_tokens=max_tokens
        )
    if not len(store):
        census = store.census
        raise DataError(
            f"no rows to train on: of {census.read} read, {census.empty} have an empty completion and {census.too_long} are "
            f"longer than {max_tokens} tokens",
            where=str(config.data),
        )
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if store.largest_id >= vocabulary:
        raise ModelError(
            f"the rows hold token id {store.largest_id}, the model knows {vocabulary}",
            where=str(config.data),
            fix="curate with `--tokenizer` set to this model",
        )
    return store, held_out


def _held_out_rule(config: SFTConfig, tokenizer: ChatTokenizer, rows: int) -> Callable[[Row], bool]:
    """Rows whose question hashes below the share; both modes of a question go the same way, so that neither tells on the other."""
    share = min(config.held_out, config.max_held_out / max(rows, 1))
    if config.eval_data is not None or share * rows < 1:
        return lambda row: False
    unwrapper = Unwrapper(tokenizer)

    def rule(row: Row) -> bool:
        found = unwrapper.find(row.input, row.mode)
        return hash_share(found[0] if found else row.input) < share

    return rule


def sample_pair(config: SFTConfig, tokenizer: ChatTokenizer, store: TokenStore) -> SamplePair | None:
    """The pair of outputs to show: of the question given or of a row's; None where none is wanted or there is no question."""
    if not config.sample_tokens:
        return None
    sample = store[len(store) // 2]
    found = Unwrapper(tokenizer).find(tokenizer.decode(sample.prompt_ids.tolist()), sample.mode)
    question = config.sample_question or (found[0] if found else "")
    style = found[1] if found else ToggleStyle.SYSTEM
    return SamplePair(tokenizer, question, style, config.output, config.sample_tokens) if question else None


def thresholds(config: SFTConfig) -> Thresholds:
    """What `check` lets through."""
    return Thresholds(
        config.allow_dropped, config.allow_empty, config.allow_template_failures, config.allow_memory
    )
