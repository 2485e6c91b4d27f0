"""Asking the teacher once: what its store lacks is filled by the teacher alone in memory, which is then let go of (store.py keeps it)."""

from __future__ import annotations

from collections.abc import Callable

from bethink.core.console import Progress, note
from bethink.core.files import only_process
from bethink.models.machine import give_back_freed_memory
from bethink.train.distill.config import PARTS, DistillConfig
from bethink.train.distill.method import Lessons
from bethink.train.distill.source import Source
from bethink.train.distill.store import (
    Part,
    bytes_needed,
    claim_store,
    fill,
    require_space,
    rows_fingerprint,
)
from bethink.train.distill.teacher import Teacher
from bethink.train.loop import interruptible
from bethink.train.resume import resume_command
from bethink.train.token_store import TokenStore

LoadTeacher = Callable[[], Teacher]


def asked_once(
    config: DistillConfig,
    load: LoadTeacher,
    teacher: Source,
    rows: TokenStore,
    held_out: TokenStore,
    *,
    capacity: int,
) -> tuple[Lessons, Lessons]:
    """What the teacher says of the rows and of the held-out ones, from its store; what is missing there it is asked first.

    load: called only where something is missing; the teacher is gone when this returns. Raises
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
            _ask(config, load, parts, k, capacity)
            give_back_freed_memory()
    train, later = (Lessons(part.open(k), part.rows) for part in parts)
    return train, later


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
