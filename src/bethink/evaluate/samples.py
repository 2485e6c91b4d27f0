"""samples.jsonl: every prompt, output and verdict, one row a completion, appended as they are finished.

A killed run leaves whole rows and perhaps half a line; `places` finds what is whole, `arrange` puts it in canonical order. There may be a
million rows of many pages each, so that no more than one is held in memory. Rows hold nothing that depends on time or place, so that a resumed run's file is the same, byte for byte, as an uninterrupted one's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
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
VOTED = "voted.jsonl"
"""In the output of a sampling run with a vote: all answers, those to problems without an answer as the vote judges them."""
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


def places(path: Path, items: Iterable[Item]) -> dict[Key, int]:
    """The byte at which the row of each of `items` begins that is there: of an unfinished file, the rows it can keep. Half a last line is
    passed over; rows of no item too, with a warning."""
    if not path.exists():
        return {}
    wanted = {item.key: item for item in items}
    found: dict[Key, int] = {}
    strange, begin = 0, 0
    with open(path, "rb") as handle:
        for line in handle:
            if not line.endswith(b"\n"):
                break
            place, begin = begin, begin + len(line)
            try:
                row = json.loads(line)
                item = wanted[key_of(row)]
                same = (row["question"], row["answer"], row["seed"]) == (
                    item.problem.question,
                    item.problem.answer,
                    item.seed,
                )
            except (ValueError, KeyError, TypeError):
                same = False
            if same:
                found[item.key] = place
            else:
                strange += 1
    if strange:
        warn(f"{path}: {strange:,} rows are not of this evaluation and are left out")
    return found


def arrange(path: Path, begins: Iterable[int]) -> None:
    """Replace the file by those of its rows that begin at these bytes, in this order; whole or not at all, and one row in memory."""
    with open(path, "rb") as old, atomic_path(path) as temporary, open(temporary, "wb") as new:
        for begin in begins:
            old.seek(begin)
            new.write(old.readline())


def append(handle: IO[str], row: Row) -> None:
    """Write one finished row and hand it to the system. Raises OutputError when the disk is full."""
    with explain_os_errors(Path(handle.name)):
        handle.write(dump_line(row))
        handle.flush()


def rewrite(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file by these rows, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        handle.writelines(dump_line(row) for row in rows)
