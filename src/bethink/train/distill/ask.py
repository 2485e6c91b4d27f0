"""Asking the teacher once: what its store lacks is filled by the teacher alone in memory, which is then let go of (store.py keeps it)."""

from __future__ import annotations

from typing import Any

import torch

from bethink.core.console import Progress, note
from bethink.core.files import only_process
from bethink.models.load import fits
from bethink.models.machine import give_back_freed_memory
from bethink.train.distill.config import PARTS, DistillConfig
from bethink.train.distill.layered import LayeredTeacher
from bethink.train.distill.method import Lessons
from bethink.train.distill.source import Source
from bethink.train.distill.store import (
    Part,
    add_to_stamp,
    bytes_needed,
    claim_store,
    fill,
    read_stamp,
    require_space,
    rows_fingerprint,
)
from bethink.train.distill.teacher import Asked, Teacher
from bethink.train.loop import interruptible
from bethink.train.resume import resume_command
from bethink.train.token_store import TokenStore


def asked_once(
    config: DistillConfig,
    teacher: Source,
    rows: TokenStore,
    held_out: TokenStore,
    *,
    dtype: torch.dtype,
    device: torch.device,
    capacity: int,
) -> tuple[Lessons, Lessons]:
    """What the teacher says of the rows and of the held-out ones, from its store; what is missing there it is asked first.

    The teacher is loaded only where something is missing, and gone when this returns. Raises
    OutputError for a store of another teacher or other rows, KeyboardInterrupt when it was interrupted and has saved.
    """
    k = min(config.store_teacher or teacher.vocabulary, teacher.vocabulary)
    parts = [Part(config.store / name, of) for name, of in zip(PARTS, (rows, held_out), strict=True)]
    with only_process(config.store):
        claim_store(
            config.store,
            {
                "teacher": teacher.identity,
                "rows": [rows_fingerprint(part.rows) for part in parts],
                "likeliest": k,
                "temperature": config.temperature,
                "vocabulary": teacher.vocabulary,
            },
            teacher.said,
        )
        if not all(part.whole for part in parts):
            _ask(config, teacher, parts, k, dtype=dtype, device=device, capacity=capacity)
            give_back_freed_memory()
    train, later = (Lessons(part.open(k), part.rows) for part in parts)
    return train, later


def _ask(
    config: DistillConfig,
    source: Source,
    parts: list[Part],
    k: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    capacity: int,
) -> None:
    total, done = sum(part.tokens for part in parts), sum(part.done_tokens for part in parts)
    require_space(config.store, bytes_needed(total - done, k))
    note(f"asking the teacher about {total:,} tokens, {bytes_needed(total, k) / 1e6:,.0f} MB on disk")
    teacher = _loaded(config, source, dtype, device)
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


def _loaded(config: DistillConfig, source: Source, dtype: torch.dtype, device: torch.device) -> Asked:
    """The teacher, whole or layer by layer; an unfinished pass goes on the way it was begun."""
    assert source.files is not None  # else its store is whole, and it is not asked
    by_layer = config.layer_by_layer
    if by_layer is None:
        by_layer = read_stamp(config.store).get("by_layer")
    if by_layer is None:
        by_layer = not fits(source.files, dtype, str(device))
    add_to_stamp(config.store, {"by_layer": by_layer})
    load: Any = LayeredTeacher if by_layer else Teacher.load
    teacher: Asked = load(source.files, source.vocabulary, config.temperature, dtype=dtype, device=device)
    if by_layer:
        note(f"the teacher is read layer by layer, for {teacher.tokens_at_once:,} tokens at a time")
    return teacher
