"""samples.jsonl: every prompt, output and verdict, one row a completion, appended as they are finished.

A killed run leaves whole rows and perhaps half a line; `kept_rows` reads what is whole, `rewrite` puts rows in canonical order. Rows
hold nothing that depends on time or place, so that a resumed run's file is the same, byte for byte, as an uninterrupted one's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from bethink.chat.parse import compliant
from bethink.chat.toggle import apply_toggle
from bethink.core.console import warn
from bethink.core.files import atomic_path, dump_line, explain_os_errors
from bethink.engine.dialogue import Question, Reply
from bethink.evaluate.config import EvalConfig
from bethink.evaluate.plan import Item, Key
from bethink.verify.verdict import Verdict

SAMPLES = "samples.jsonl"
Row = dict[str, Any]


def make_row(item: Item, question: Question, reply: Reply, verdict: Verdict, config: EvalConfig) -> Row:
    """One completion as it is kept. `prompt` is the text the model was given, or the messages sent to an endpoint."""
    return {
        "id": item.problem.id,
        "task": item.problem.task,
        "mode": str(item.mode),
        "sample": item.sample,
        "question": item.problem.question,
        "answer": item.problem.answer,
        "prompt": reply.prompt or apply_toggle(question.messages, item.mode, config.toggle, config.think),
        "output": reply.text,
        "opened": reply.opened,
        "verdict": str(verdict.outcome),
        "extracted": verdict.extracted,
        "detail": verdict.detail,
        "compliant": compliant(reply.text, item.mode, config.think, opened=reply.opened),
        "prompt_tokens": reply.prompt_tokens,
        "thinking_tokens": reply.thinking_tokens,
        "answer_tokens": reply.answer_tokens,
        "finish_reason": str(reply.finish_reason),
        "seed": item.seed,
    }


def key_of(row: Row) -> Key:
    """What names the row."""
    return row["task"], row["id"], row["mode"], row["sample"]


def kept_rows(path: Path, items: Sequence[Item]) -> dict[Key, Row]:
    """The rows of an earlier run that answer one of `items`. Half a last line is passed over; other rows too, with a warning."""
    if not path.exists():
        return {}
    wanted = {item.key: item for item in items}
    kept: dict[Key, Row] = {}
    strange = 0
    with open(path, "rb") as handle:
        for line in handle:
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                key = key_of(row)
                item = wanted[key]
            except (ValueError, KeyError, TypeError):
                strange += 1
                continue
            same = (row["question"], row["answer"], row["seed"]) == (
                item.problem.question,
                item.problem.answer,
                item.seed,
            )
            if same:
                kept[key] = row
            else:
                strange += 1
    if strange:
        warn(f"{path}: {strange:,} rows are not of this evaluation and are left out")
    return kept


def append(handle: IO[str], row: Row) -> None:
    """Write one finished row and hand it to the system. Raises OutputError when the disk is full."""
    with explain_os_errors(Path(handle.name)):
        handle.write(dump_line(row))
        handle.flush()


def rewrite(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file by these rows, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        handle.writelines(dump_line(row) for row in rows)
