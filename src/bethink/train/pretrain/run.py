"""Next-token training from random weights: texts in, a base model out.

This module puts the parts in order; steps and checkpoints are loop.py's, the loss method.py's, the texts texts.py's, what the run begins
with start.py's.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import note
from bethink.core.errors import DataError, ModelError
from bethink.models.known_speed import speed_of
from bethink.models.machine import resolve_device, torch_dtype
from bethink.train.fit import fit
from bethink.train.floor import StepFloor
from bethink.train.forward import prove_head
from bethink.train.frame import (
    TrainResult,
    capacity_of,
    claimed_output,
    finished,
    load_whole,
    loop_config,
    result,
)
from bethink.train.loop import train
from bethink.train.metrics import read_metrics
from bethink.train.plot import plot_loss
from bethink.train.pretrain.config import PretrainConfig
from bethink.train.pretrain.method import Order, PretrainMethod
from bethink.train.pretrain.start import begin
from bethink.train.pretrain.texts import build_text_stores, read_texts, text_files
from bethink.train.resume import resume_command


def run_pretrain(config: PretrainConfig) -> TrainResult:
    """Train as `config` says and write everything into `config.output` (docs/pretrain.md lists the files).

    A finished run is left alone. Raises ConfigError, DataError, ModelError or OutputError, and KeyboardInterrupt when it was interrupted
    and has saved. A run whose texts or config cannot be used leaves the output free for the next try.
    """
    files = text_files(config.data)
    device = torch.device(resolve_device(config.device))
    with claimed_output(config, [], {"data": files}):
        return finished(config) or _run(config, files, device)


def _run(config: PretrainConfig, files: Sequence[Path], device: torch.device) -> TrainResult:
    initial, tokens = config.output / ".initial", config.output / ".tokens"
    located = begin(config, initial, (text.words for text in read_texts(files, config.field)))
    tokenizer = ChatTokenizer.load(located.directory)
    store, held_out = build_text_stores(
        files,
        tokenizer,
        tokens,
        field=config.field,
        context=config.context,
        held_out=config.held_out,
        max_held_out=config.max_held_out,
    )
    if not len(store):
        raise DataError(
            "no texts to train on: all are empty or held out", where=", ".join(map(str, config.data))
        )
    speed = speed_of(str(device), torch_dtype(config.dtype, str(device)))
    trained = load_whole(config, located, device)
    prove_head(trained.model)
    vocabulary = trained.model.get_input_embeddings().weight.shape[0]
    if store.largest_id >= vocabulary:
        raise ModelError(
            f"the texts hold token id {store.largest_id}, the model knows {vocabulary}",
            fix="leave vocab_size out of --shape",
        )
    capacity = capacity_of(config, device)
    fit(config, trained.model, max(capacity, config.context))
    order = Order(store.lengths, config.tokens_per_step, config.seed)
    steps = config.steps or max(1, round(config.epochs * order.pass_tokens / config.tokens_per_step))
    note(
        f"{len(store):,} texts of {order.pass_tokens:,} tokens, {len(held_out):,} held out; {steps:,} steps of about {config.tokens_per_step:,} tokens"
    )
    eval_every = config.eval_every if config.eval_every is not None else -(-steps // 4)
    method = PretrainMethod(
        trained.model,
        store,
        held_out,
        order,
        capacity=capacity,
        device=device,
        floor=StepFloor.of(trained.model, speed) if speed else None,
    )
    try:
        train(
            trained.model,
            method,
            loop_config(config, steps, eval_every),
            config.output,
            masters=trained.masters,
            resume_command=resume_command("pretrain", config),
        )
    finally:
        plot_loss(read_metrics(config.output / "metrics.jsonl"), config.output)
    trained.save(config)
    for made in (tokens, initial):
        shutil.rmtree(made, ignore_errors=True)
    return result(config)
