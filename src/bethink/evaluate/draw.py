"""Drawing completions and grading them at the same time.

Mode by mode (all tasks together, so that the engine stays full and each mode has a speed of its own). Each reply is graded in a thread
while others are being drawn, and its row appended to samples.jsonl with the first reply after its verdict, whichever verdicts are still
awaited.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from bethink.chat.toggle import Mode
from bethink.core.console import Progress, warn
from bethink.core.files import read_json, write_json
from bethink.engine.api import FinishReason
from bethink.engine.dialogue import Dialogue, Question, Reply
from bethink.evaluate.config import EvalConfig
from bethink.evaluate.plan import Item, Key, question_of
from bethink.evaluate.samples import Row, append, key_of, make_row
from bethink.models.machine import cores
from bethink.verify.grade import grade
from bethink.verify.pool import WorkerPool
from bethink.verify.verdict import Outcome

TIMING = ".timing.json"
"""In the output: by mode, the tokens drawn and the seconds it took."""


def draw(
    config: EvalConfig,
    dialogue: Dialogue,
    items: Sequence[Item],
    samples: Path,
    meter: TokenMeter,
    *,
    already: int,
) -> dict[Key, Row]:
    """Draw, grade and append the completions of `items`; return their rows. already: how many an earlier run finished."""
    workers = config.workers or cores()
    total = already + len(items)
    with (
        open(samples, "a", encoding="utf-8") as file,
        Progress("evaluating", total, unit="completions", done=already) as progress,
        WorkerPool(workers) as pool,
        ThreadPoolExecutor(workers, thread_name_prefix="grade") as graders,
    ):
        meter.line_of_completions = progress
        desk = _Desk(config, file, progress, pool, graders)
        try:
            for mode in config.modes:
                asked = [(item, question_of(item, config)) for item in items if item.mode is mode]
                _ask(dialogue, mode, asked, desk, config.output / TIMING)
        except KeyboardInterrupt:
            desk.finish()
            done = already + len(desk.finished)
            warn(f"interrupted with {done:,} of {total:,} completions finished; --resume goes on from there")
            raise
        finally:
            desk.finish()
    return desk.finished


def _ask(
    dialogue: Dialogue, mode: Mode, asked: Sequence[tuple[Item, Question]], desk: _Desk, timing: Path
) -> None:
    """Put one mode's questions, and hand each reply to the desk as it comes."""
    if not asked:
        return
    by_id = {question.id: (item, question) for item, question in asked}
    tokens, started = 0, time.monotonic()
    try:
        for reply in dialogue.answer([question for _, question in asked]):
            tokens += reply.thinking_tokens + reply.answer_tokens
            if reply.finish_reason is not FinishReason.CANCELLED:
                desk.submit(*by_id[reply.id], reply)
            desk.collect()
    finally:
        spent = read_json(timing) if timing.exists() else {}
        before = spent.get(mode, {"tokens": 0, "seconds": 0.0})
        seconds = before["seconds"] + time.monotonic() - started
        write_json(timing, {**spent, mode: {"tokens": before["tokens"] + tokens, "seconds": seconds}})


class _Desk:
    """Where replies are graded while others are drawn, and rows are written in the order they are finished."""

    def __init__(
        self,
        config: EvalConfig,
        file: IO[str],
        progress: Progress,
        pool: WorkerPool,
        graders: ThreadPoolExecutor,
    ) -> None:
        self.finished: dict[Key, Row] = {}
        self._config = config
        self._file = file
        self._progress = progress
        self._pool = pool
        self._graders = graders
        self._graded: SimpleQueue[Future[Row]] = SimpleQueue()
        self._right = 0

    def submit(self, item: Item, question: Question, reply: Reply) -> None:
        """Have a reply graded."""
        self._graders.submit(self._judge, item, question, reply).add_done_callback(self._graded.put)

    def collect(self) -> None:
        """Write the rows whose verdicts are there."""
        while True:
            try:
                row = self._graded.get_nowait().result()
            except Empty:
                return
            append(self._file, row)
            self.finished[key_of(row)] = row
            self._right += row["verdict"] == Outcome.CORRECT
            self._progress.advance(mode=row["mode"], correct=f"{self._right:,} of {len(self.finished):,}")

    def finish(self) -> None:
        """Wait for every verdict, and write the rest."""
        self._graders.shutdown(wait=True)
        self.collect()

    def _judge(self, item: Item, question: Question, reply: Reply) -> Row:
        verdict = grade(
            item.problem,
            reply.text,
            truncated=reply.finish_reason is FinishReason.LENGTH,
            opened=reply.opened,
            pool=self._pool,
            think=self._config.think,
        )
        return make_row(item, question, reply, verdict, self._config)


def speed(output: Path) -> dict[str, float]:
    """Tokens per second by mode, over all the runs it took."""
    timing = output / TIMING
    spent = read_json(timing) if timing.exists() else {}
    return {mode: one["tokens"] / one["seconds"] for mode, one in spent.items() if one["seconds"] > 0}


class TokenMeter(Progress):
    """Told of every token by whoever draws it; shows their number and rate on the line that counts completions."""

    def __init__(self) -> None:
        super().__init__("tokens", None, unit="tokens")
        self.line_of_completions: Progress | None = None
        self._first = 0.0

    def advance(self, amount: int = 1, **fields: object) -> None:
        self._first = self._first or time.monotonic()
        self.done += amount
        rate = self.done / max(time.monotonic() - self._first, 1.0)
        if self.line_of_completions is not None:
            self.line_of_completions.advance(0, tokens=f"{self.done:,} ({rate:,.0f}/s)")
