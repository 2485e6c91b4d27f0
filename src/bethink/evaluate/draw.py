"""Drawing completions and grading them at the same time.

Mode by mode (all tasks together, so that the engine stays full and each mode has a speed of its own). Each reply is graded in a thread
while others are being drawn, and its row appended to samples.jsonl with the first reply after its verdict, whichever verdicts are still
awaited.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from bethink.chat.toggle import Mode
from bethink.core.console import Progress, warn
from bethink.core.files import read_json, read_jsonl, write_json
from bethink.engine.api import FinishReason
from bethink.engine.dialogue import Dialogue, FloorSeconds, LocalDialogue, Question, Reply
from bethink.evaluate.config import EvalConfig
from bethink.evaluate.plan import Item, question_of
from bethink.evaluate.samples import Row, append, make_row
from bethink.models.machine import cores
from bethink.models.speed import of_the_floor
from bethink.verify.code.pool import Sandboxes, sandboxes_for
from bethink.verify.grade import grade
from bethink.verify.pool import WorkerPool
from bethink.verify.verdict import UNCOUNTED, Outcome

TIMING = ".timing.json"
"""In the output: by mode, the tokens drawn, the seconds it took, and the seconds it must take at least (null where that is not known)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Tokens a second, and the share of the floor that is; None where the floor is not known."""

    tokens_per_second: float
    floor_share: float | None


def draw(
    config: EvalConfig,
    dialogue: Dialogue,
    items: Sequence[Item],
    samples: Path,
    meter: TokenMeter,
    *,
    doing: str,
    already: int,
) -> None:
    """Draw, grade and append the completions of `items`. doing: what the progress calls it; already: how many an earlier run finished,
    whose rows are in `samples`."""
    workers = config.workers or cores()
    total = already + len(items)
    with (
        open(samples, "a", encoding="utf-8") as file,
        Progress(doing, total, unit="completions", done=already) as progress,
        WorkerPool(workers) as pool,
        sandboxes_for((item.problem for item in items), workers, config) as sandboxes,
        ThreadPoolExecutor(workers, thread_name_prefix="grade") as graders,
    ):
        meter.begin(progress, floor_of(dialogue))
        desk = _Desk(config, file, progress, pool, graders, sandboxes)
        if config.priced and already:
            desk.spend(read_jsonl(samples))
        try:
            for mode in config.modes:
                asked = [(item, question_of(item, config)) for item in items if item.mode is mode]
                _ask(dialogue, mode, asked, desk, config.output / TIMING)
        except KeyboardInterrupt:
            desk.finish()
            warn(
                f"interrupted with {already + desk.finished:,} of {total:,} completions finished; --resume goes on from there"
            )
            raise
        finally:
            desk.finish()


def _ask(
    dialogue: Dialogue, mode: Mode, asked: Sequence[tuple[Item, Question]], desk: _Desk, timing: Path
) -> None:
    """Put one mode's questions, and hand each reply to the desk as it comes."""
    if not asked:
        return
    by_id = {question.id: (item, question) for item, question in asked}
    floor = floor_of(dialogue)
    floor_before = floor()
    tokens, started = 0, time.monotonic()
    try:
        for reply in dialogue.answer([question for _, question in asked]):
            tokens += reply.thinking_tokens + reply.answer_tokens
            if reply.finish_reason is not FinishReason.CANCELLED:
                desk.submit(*by_id[reply.id], reply)
            desk.collect()
    finally:
        seconds, least = time.monotonic() - started, floor()
        spent = read_json(timing) if timing.exists() else {}
        before = spent.get(mode, {"tokens": 0, "seconds": 0.0, "floor_seconds": 0.0})
        known = least is not None and floor_before is not None and before.get("floor_seconds") is not None
        now = {
            "tokens": before["tokens"] + tokens,
            "seconds": before["seconds"] + seconds,
            "floor_seconds": before["floor_seconds"] + least - floor_before if known else None,
        }
        write_json(timing, {**spent, mode: now})


def floor_of(dialogue: Dialogue) -> FloorSeconds:
    """Of a model on this machine; what is behind an endpoint is not known."""
    return dialogue.floor_seconds if isinstance(dialogue, LocalDialogue) else lambda: None


class _Desk:
    """Where replies are graded while others are drawn, and rows are written in the order they are finished."""

    def __init__(
        self,
        config: EvalConfig,
        file: IO[str],
        progress: Progress,
        pool: WorkerPool,
        graders: ThreadPoolExecutor,
        sandboxes: Sandboxes | None = None,
    ) -> None:
        self.finished = 0
        self._config = config
        self._file = file
        self._progress = progress
        self._pool = pool
        self._graders = graders
        self._sandboxes = sandboxes
        self._graded: SimpleQueue[Future[Row]] = SimpleQueue()
        self._right = self._judged = 0
        self._cost = 0.0

    def spend(self, rows: Iterable[Row]) -> None:
        """Count what these rows cost."""
        for row in rows:
            answer_tokens = row["thinking_tokens"] + row["answer_tokens"]
            self._cost += self._config.cost(row["prompt_tokens"], answer_tokens)

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
            self.finished += 1
            self._right += row["verdict"] == Outcome.CORRECT
            self._judged += row["verdict"] not in UNCOUNTED
            fields = {"correct": f"{self._right:,} of {self._judged:,}"}
            if self._config.priced:
                self.spend([row])
                fields["cost"] = f"{self._cost:,.2f}"
            self._progress.advance(1, mode=row["mode"], **fields)

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
            sandboxes=self._sandboxes,
            think=self._config.think,
        )
        return make_row(item, question, reply, verdict, self._config)


def paces(output: Path) -> dict[str, Pace]:
    """By mode, over all the runs it took."""
    timing = output / TIMING
    spent = read_json(timing) if timing.exists() else {}
    found = {}
    for mode, one in spent.items():
        if (seconds := one["seconds"]) > 0:
            least = one.get("floor_seconds")
            found[mode] = Pace(one["tokens"] / seconds, None if least is None else least / seconds)
    return found


_SHOWN_EVERY = 0.25
"""Seconds."""


class TokenMeter(Progress):
    """Told of every token by whoever draws it; shows their number and rate on the line that counts completions."""

    def __init__(self) -> None:
        super().__init__("tokens", None, unit="tokens")
        self._line: Progress | None = None

    def begin(self, line: Progress, floor: FloorSeconds) -> None:
        """From now on tokens are drawn, and shown on `line` with the share of the floor."""
        floor()  # the first time it may have to be measured
        self._line, self._floor = line, floor
        self._begun = self._shown = time.monotonic()

    def advance(self, amount: int = 1, **fields: object) -> None:
        self.done += amount
        now = time.monotonic()
        if self._line is not None and now - self._shown > _SHOWN_EVERY:
            self._shown, seconds, least = now, now - self._begun, self._floor()
            share = of_the_floor(None if least is None else least / seconds)
            self._line.advance(0, tokens=f"{self.done:,}, {self.done / seconds:,.0f}/s{share}")
