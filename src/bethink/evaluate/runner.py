"""`bethink eval`: ask, grade, count; killed anywhere and resumed to the same bytes.

Completions are drawn mode by mode (all tasks together, so that the engine stays full and each mode has a speed of its own), graded in
threads while others are still being drawn, and appended to samples.jsonl as they are finished. At the end the file is put in
canonical order and results.json is written. Leaves who answers to `engine.dialogue` and what is right to `verify.grade`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bethink import __version__
from bethink.chat.toggle import Mode
from bethink.core.console import Progress, note, warn
from bethink.core.errors import BethinkError
from bethink.core.files import claim_output, read_json, sha256_file, write_json
from bethink.engine.api import FinishReason
from bethink.engine.dialogue import Dialogue, Question, Reply, open_dialogue
from bethink.evaluate.config import EvalConfig
from bethink.evaluate.plan import Item, Key, Plan, make_plan, question_of
from bethink.evaluate.results import summarize
from bethink.evaluate.samples import Row, append, kept_rows, key_of, make_row, rewrite
from bethink.verify.grade import KNOWN_GRADERS, grade
from bethink.verify.pool import WorkerPool
from bethink.verify.verdict import Outcome

_NOT_OF_THE_BYTES = {"output", "resume", "slots", "workers", "concurrency", "name", "api_key_env"}
_TIMING = ".timing.json"


@dataclass(frozen=True)
class EvalResult:
    """rows: the results, one a task and mode; samples, results: the files written."""

    rows: list[dict[str, Any]]
    samples: Path
    results: Path


def run_eval(config: EvalConfig) -> EvalResult:
    """Evaluate and write `samples.jsonl` and `results.json` in `config.output`.

    Raises OutputError for an output that is in use, ConfigError or DataError for tasks, ModelError, TemplateError or EndpointError for
    whoever answers. What was finished by then, or at Ctrl-C, stays in samples.jsonl for `resume`.
    """
    plan = make_plan(config, sorted(KNOWN_GRADERS))
    claim_output(config.output, resume=config.resume, fingerprint=_fingerprint(config))
    for task, dropped in plan.dropped.items():
        if counts := {reason: count for reason, count in dropped.items() if count}:
            note(f"{task}: left out " + ", ".join(f"{count:,} {reason}" for reason, count in counts.items()))
    samples = config.output / "samples.jsonl"
    done = kept_rows(samples, plan.items) if config.resume else {}
    missing = [item for item in plan.items if item.key not in done]
    name = config.name or config.endpoint_model or config.model_spec or config.endpoint or ""
    if missing:
        meter = _TokenMeter()
        dialogue = _open(config, meter)
        name = config.name or dialogue.name
        rewrite(samples, done.values())
        done |= _draw(config, dialogue, missing, samples, meter, already=len(done))
        rewrite(samples, (done[item.key] for item in plan.items))
    results = config.output / "results.json"
    rows = summarize(
        [done[item.key] for item in plan.items], model=name, speed=_speed(config.output / _TIMING)
    )
    write_json(results, _document(config, plan, name, rows))
    return EvalResult(rows, samples, results)


def _fingerprint(config: EvalConfig) -> dict[str, Any]:
    options = config.model_dump(mode="json", exclude=_NOT_OF_THE_BYTES)
    hashes = {str(path): sha256_file(path) for path in config.exclude if path.is_file()}
    return {**options, "exclude_sha256": hashes}


class _TokenMeter(Progress):
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


def _open(config: EvalConfig, meter: Progress) -> Dialogue:
    """Whoever answers. Where there is nobody, the output is free again: nothing has been done in it."""
    try:
        return open_dialogue(
            config.endpoint_model if config.endpoint else config.model_spec,
            config.endpoint,
            slots=config.slots,
            api_key_env=config.api_key_env,
            concurrency=config.concurrency,
            progress=meter,
        )
    except BethinkError:
        stamp = config.output / ".fingerprint.json"
        if list(config.output.iterdir()) == [stamp]:
            stamp.unlink()
        raise


def _draw(
    config: EvalConfig,
    dialogue: Dialogue,
    items: Sequence[Item],
    samples: Path,
    meter: _TokenMeter,
    *,
    already: int,
) -> dict[Key, Row]:
    """Draw, grade and append the missing completions; return their rows."""
    workers = config.workers or os.cpu_count() or 1
    total = already + len(items)
    with (
        open(samples, "a", encoding="utf-8") as file,
        Progress("evaluating", total, unit="completions", done=already) as progress,
        WorkerPool(workers) as pool,
        ThreadPoolExecutor(workers, thread_name_prefix="grade") as graders,
    ):
        meter.line_of_completions = progress
        desk = _Desk(file, progress, pool, graders)
        try:
            for mode in config.modes:
                asked = [(item, question_of(item, config)) for item in items if item.mode is mode]
                _ask(dialogue, mode, asked, desk, config.output / _TIMING)
        except KeyboardInterrupt:
            desk.collect(wait=True)
            done = already + len(desk.finished)
            warn(f"interrupted with {done:,} of {total:,} completions finished; --resume goes on from there")
            raise
        finally:
            desk.collect(wait=True)
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
            desk.collect(wait=False)
    finally:
        spent = read_json(timing) if timing.exists() else {}
        before = spent.get(mode, {"tokens": 0, "seconds": 0.0})
        seconds = before["seconds"] + time.monotonic() - started
        write_json(timing, {**spent, mode: {"tokens": before["tokens"] + tokens, "seconds": seconds}})


class _Desk:
    """Where replies are graded while others are drawn, and rows are written in the order they are finished."""

    def __init__(
        self, file: IO[str], progress: Progress, pool: WorkerPool, graders: ThreadPoolExecutor
    ) -> None:
        self.finished: dict[Key, Row] = {}
        self._file = file
        self._progress = progress
        self._pool = pool
        self._graders = graders
        self._open: deque[Future[Row]] = deque()
        self._right = 0

    def submit(self, item: Item, question: Question, reply: Reply) -> None:
        """Have a reply graded."""
        self._open.append(self._graders.submit(self._judge, item, question, reply))

    def collect(self, *, wait: bool) -> None:
        """Write the rows whose verdicts are there; `wait` for all of them."""
        while self._open and (wait or self._open[0].done()):
            row = self._open.popleft().result()
            append(self._file, row)
            self.finished[key_of(row)] = row
            self._right += row["verdict"] == Outcome.CORRECT
            self._progress.advance(mode=row["mode"], correct=f"{self._right:,} of {len(self.finished):,}")

    def _judge(self, item: Item, question: Question, reply: Reply) -> Row:
        verdict = grade(
            item.problem,
            reply.text,
            truncated=reply.finish_reason is FinishReason.LENGTH,
            opened=reply.opened,
            pool=self._pool,
        )
        return make_row(item, question, reply, verdict)


def _speed(timing: Path) -> dict[str, float]:
    """Tokens per second by mode, over all the runs it took."""
    spent = read_json(timing) if timing.exists() else {}
    return {mode: one["tokens"] / one["seconds"] for mode, one in spent.items() if one["seconds"] > 0}


def _document(config: EvalConfig, plan: Plan, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    options = config.model_dump(mode="json", exclude={"resume"})
    return {"model": name, "bethink": __version__, "config": options, "dropped": plan.dropped, "rows": rows}
