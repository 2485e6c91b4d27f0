"""Outputs side by side: the same question answered by the first model with thinking on, and by the last with thinking off and on.

Questions are chosen so that each kind of outcome is seen, first of all what thinking repaired, then what it did not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bethink.chat.parse import parse
from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat
from bethink.core.files import read_jsonl

_WORDS = {
    "correct": "right",
    "wrong": "wrong",
    "no_answer": "no answer",
    "truncated": "cut off",
    "grader_error": "not graded",
}
_LONGEST = 6_000

Column = tuple[str, str]
"""(eval stage, mode)."""


@dataclass(frozen=True, slots=True)
class Output:
    """One completion as shown: its parts, what the grader said in a word, and what it cost."""

    model: str
    mode: str
    thinking: str | None
    answer: str
    verdict: str
    word: str
    thinking_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Example:
    """One question with the outputs of each column."""

    task: str
    question: str
    answer: str
    outputs: tuple[Output, ...]


def choose_examples(
    evals: Mapping[str, Path], count: int, *, think: ThinkFormat = DEFAULT_FORMAT
) -> tuple[Example, ...]:
    """Up to `count` questions. evals: eval stage → its samples.jsonl, in stage order; think: the model's tags."""
    columns = _columns(evals)
    if not columns or count < 1:
        return ()
    verdicts = {column: _verdicts(evals[column[0]], column[1]) for column in columns}
    shared = [key for key in verdicts[columns[-1]] if all(key in verdicts[column] for column in columns)]
    chosen = _spread({key: tuple(verdicts[column][key] for column in columns) for key in shared}, count)
    found = {column: _fetch(evals[column[0]], column[1], set(chosen)) for column in columns}
    return tuple(_example([(column, found[column][key]) for column in columns], think) for key in chosen)


def _columns(evals: Mapping[str, Path]) -> list[Column]:
    """First stage on, last stage off, last stage on; fewer when there are fewer."""
    if not evals:
        return []
    first, last = next(iter(evals)), next(reversed(list(evals)))
    wanted = [(first, "on"), (last, "off"), (last, "on")]
    return [column for column in dict.fromkeys(wanted) if _verdicts(evals[column[0]], column[1])]


def _rows(path: Path, mode: str) -> Any:
    return (row for row in read_jsonl(path) if row["mode"] == mode and not row.get("sample"))


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["task"], row["id"]


def _verdicts(path: Path, mode: str) -> dict[tuple[str, str], str]:
    return {_key(row): row["verdict"] for row in _rows(path, mode)}


def _fetch(path: Path, mode: str, keys: set[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {_key(row): row for row in _rows(path, mode) if _key(row) in keys}


def _spread(outcomes: Mapping[tuple[str, str], tuple[str, ...]], count: int) -> list[tuple[str, str]]:
    """Keys taken in turn from the kinds of outcome: last column right and another wrong, last wrong, all the same."""
    kinds: dict[int, list[tuple[str, str]]] = {0: [], 1: [], 2: []}
    for key, words in outcomes.items():
        right = [word == "correct" for word in words]
        kinds[2 if len(set(right)) == 1 and right[-1] else 0 if right[-1] else 1].append(key)
    pattern = [0, 0, 1, 2]
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count and any(kinds.values()):
        for kind in pattern:
            if kinds[kind] and len(chosen) < count:
                chosen.append(kinds[kind].pop(0))
    return chosen


def _example(rows: list[tuple[Column, dict[str, Any]]], think: ThinkFormat) -> Example:
    last = rows[-1][1]
    return Example(
        task=last["task"],
        question=last["question"],
        answer=last["answer"],
        outputs=tuple(_output(column, row, think) for column, row in rows),
    )


def _output(column: Column, row: Mapping[str, Any], think: ThinkFormat) -> Output:
    # A prompt that ends with the opening tag has opened the block; an endpoint's prompt is a list of messages.
    opened = str(row.get("prompt", "")).rstrip().endswith(think.open)
    parsed = parse(row["output"], think=think, opened=opened)
    return Output(
        model=column[0],
        mode=column[1],
        thinking=None if parsed.thinking is None else _shortened(parsed.thinking),
        answer=_shortened(parsed.answer),
        verdict=row["verdict"],
        word=_WORDS.get(row["verdict"], row["verdict"]),
        thinking_tokens=row["thinking_tokens"],
        answer_tokens=row["answer_tokens"],
    )


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]}\n\n[… {len(text) - _LONGEST:,} characters not shown …]\n\n{text[-_LONGEST // 2 :]}"
