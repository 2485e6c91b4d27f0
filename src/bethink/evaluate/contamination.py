"""Which questions a training set holds, so that none of them is held out.

Reads training rows in every form they have on the way: raw rows (`input` as a message list or text), curated rows (`input` is the
templated prompt), rows with `messages`, `conversations`, `question`, `problem`, `prompt`, `query` or `instruction` (with an `input` under it, as
Alpaca's). Every such column of a row counts. A templated prompt is cut at the template's turn marks and system blocks, each turn
counts as a question, and it is compared with and without what says the mode. Lines that cannot be read are passed over: whatever
trains on the file cannot read them either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bethink.chat.toggle import read_toggle
from bethink.core.console import warn
from bethink.core.errors import DataError
from bethink.core.packed import file_format, known_formats
from bethink.core.rows import Unreadable, read_rows
from bethink.tasks.problem import question_key

_COLUMNS = (
    "input",
    "messages",
    "conversations",
    "question",
    "problem",
    "prompt",
    "query",
    "instruction",
)
_SYSTEM_BLOCK = re.compile(r"<<SYS>>.*?<</SYS>>|\[SYSTEM_PROMPT\].*?\[/SYSTEM_PROMPT\]", re.DOTALL)
_TURN_MARK = re.compile(
    r"<[|｜][^<>\s]{1,40}[|｜]>|\[/?INST\]|</?(?:start|end)_of_turn>|</?s>"
    r"|^###[ ]*(?:Instruction|Input|Response|Human|User|Assistant|System)s?:",
    re.MULTILINE,
)
_ROLE = re.compile(r"\A\s*(?:system|user|assistant|human|model)\s*\n", re.IGNORECASE)
_SYSTEM_PARAGRAPHS = 8
"""A question is looked for at the beginning of so many paragraphs, where a template puts it and the system prompt into one turn."""


def training_questions(paths: Sequence[Path]) -> set[str]:
    """The `question_key` of everything a user asks in these files (of directories, the files of rows named train*, or all of them).

    Raises DataError for a path that is missing or cannot be read, and where no row asks anything: in a file that is named, or in all
    files of a directory. (One such file among others of a directory is warned of.)
    """
    found: set[str] = set()
    for path in paths:
        files = training_files(path)
        silent = [file for file in files if not _add_questions(file, found)]
        if len(silent) == len(files):
            raise DataError(
                "no row here holds a question", where=str(path), fix=f"one of {', '.join(_COLUMNS)} must"
            )
        for file in silent:
            warn(f"{file}: no row here holds a question; nothing of it is excluded")
    return found


def training_files(path: Path) -> list[Path]:
    """The files that `path` means. Raises DataError when there is none."""
    if path.is_file():
        return [path]
    inside = sorted(path.glob("*")) if path.is_dir() else []
    found = [file for file in inside if file.is_file() and file_format(file)[0] != "unknown"]
    named = [file for file in found if file.name.startswith("train")]
    if not found:
        missing = "" if path.exists() else ": there is no such file or directory"
        raise DataError(
            f"no training rows here to exclude{missing}",
            where=str(path),
            fix=f"name a file of rows, or a directory of them: {known_formats()}",
        )
    return named or found


def _add_questions(file: Path, found: set[str]) -> int:
    """Add what the file's rows ask; return how many of them ask something."""
    asking = unreadable = 0
    for _, row in read_rows(file, columns=_COLUMNS):
        if isinstance(row, Unreadable):
            unreadable += 1
        elif isinstance(row, dict):
            keys = {question_key(text) for asked in _asked(row) for text in _readings(asked)} - {""}
            found |= keys
            asking += bool(keys)
    if unreadable:
        warn(f"{file}: {unreadable:,} lines could not be read and are not compared with the problems")
    return asking


def _asked(row: dict[str, Any]) -> Iterator[str]:
    """What a user asks in a row, each column by itself; a question and the input under it also together."""
    for name in _COLUMNS:
        value = row.get(name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from _user_messages(value)
    above, below = row.get("instruction"), row.get("input")
    if isinstance(above, str) and isinstance(below, str):
        yield f"{above}\n\n{below}"


def _user_messages(messages: Sequence[Any]) -> Iterator[str]:
    """Their texts; the keys are those of OpenAI (role, content) or ShareGPT (from, value)."""
    for message in messages:
        if isinstance(message, dict) and (message.get("role") or message.get("from")) in ("user", "human"):
            content = message.get("content") or message.get("value")
            parts = content if isinstance(content, list) else [content]
            texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
            yield "\n".join(text for text in texts if isinstance(text, str))


def _readings(text: str) -> Iterator[str]:
    """The text, its turns, and each turn without what says the mode."""
    yield text
    for turn in _TURN_MARK.split(_SYSTEM_BLOCK.sub("\n", text)):
        asked = _ROLE.sub("", turn)
        yield asked
        bare = _without_toggle("system", asked)  # which may hold a toggle of any convention
        if bare == asked:
            continue
        yield bare
        if bare != _without_toggle("user", asked):
            # A template without a system role puts the system prompt before the question: it may have paragraphs of its own.
            paragraphs = re.split(r"\n\s*\n", bare)
            for first in range(1, min(len(paragraphs), _SYSTEM_PARAGRAPHS)):
                yield "\n\n".join(paragraphs[first:])


def _without_toggle(role: str, text: str) -> str:
    _, kept = read_toggle([{"role": role, "content": text}])
    return kept[0]["content"] if kept else ""
