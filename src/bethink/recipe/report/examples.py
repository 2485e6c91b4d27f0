"""Outputs side by side: the same question answered by the first model with thinking on, and by the last with thinking off and on; or by
every model of the run in turn.

Questions are chosen so that each kind of outcome is seen, first of all what thinking repaired, then what it did not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bethink.chat.parse import parse
from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat
from bethink.core.files import read_jsonl
from bethink.train.rollout_page import shortened

_WORDS = {
    "correct": "right",
    "wrong": "wrong",
    "no_answer": "no answer",
    "truncated": "cut off",
    "grader_error": "not graded",
    "not_judged": "not judged",
}
_LONGEST = 6_000

Column = tuple[str, str]
"""(eval stage, mode)."""
Key = tuple[str, str]
"""(task, problem id)."""


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
    evals: Mapping[str, Path], count: int, *, every: bool = False, think: ThinkFormat = DEFAULT_FORMAT
) -> tuple[Example, ...]:
    """Up to `count` questions. evals: eval stage → its samples.jsonl, in stage order; every: a column for each of them; think: the
    model's tags."""
    if not evals or count < 1:
        return ()
    stages = list(evals)
    first, last = stages[0], stages[-1]
    outcomes = {stage: _outcomes(evals[stage]) for stage in (stages if every else {first, last})}
    # First stage on, last stage off, last stage on; fewer when there are fewer.
    wanted: list[Column] = [(first, "on"), (last, "off"), (last, "on")]
    if every:
        wanted = [(stage, mode) for stage in stages for mode in ("off", "on")]
    verdicts = {
        column: found for column in dict.fromkeys(wanted) if (found := outcomes[column[0]].get(column[1]))
    }
    if not verdicts:
        return ()
    columns = list(verdicts)
    shared = [key for key in verdicts[columns[-1]] if all(key in verdicts[column] for column in columns)]
    chosen = _spread({key: tuple(verdicts[column][key] for column in columns) for key in shared}, count)
    rows = {stage: _fetch(evals[stage], set(chosen)) for stage in outcomes}
    return tuple(
        _example([((stage, mode), rows[stage][mode, key]) for stage, mode in columns], think)
        for key in chosen
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The first sample of each problem and mode."""
    return (row for row in read_jsonl(path, growing=True) if not row.get("sample"))


def _key(row: Mapping[str, Any]) -> Key:
    return row["task"], row["id"]


def _outcomes(path: Path) -> dict[str, dict[Key, str]]:
    """Mode → problem → verdict."""
    found: dict[str, dict[Key, str]] = {}
    for row in _rows(path):
        found.setdefault(row["mode"], {})[_key(row)] = row["verdict"]
    return found


def _fetch(path: Path, keys: set[Key]) -> dict[tuple[str, Key], dict[str, Any]]:
    """The whole rows of some problems, by mode and problem: the rest, which may be gigabytes, is not kept."""
    return {(row["mode"], _key(row)): row for row in _rows(path) if _key(row) in keys}


def _spread(outcomes: Mapping[Key, tuple[str, ...]], count: int) -> list[Key]:
    """Keys taken in turn from the kinds of outcome: last column right and another wrong, last wrong, all the same."""
    kinds: dict[int, list[Key]] = {0: [], 1: [], 2: []}
    for key, words in outcomes.items():
        right = [word == "correct" for word in words]
        kinds[2 if len(set(right)) == 1 and right[-1] else 0 if right[-1] else 1].append(key)
    pattern = [0, 0, 1, 2]
    chosen: list[Key] = []
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
        thinking=None if parsed.thinking is None else shortened(parsed.thinking, _LONGEST),
        answer=shortened(parsed.answer, _LONGEST),
        verdict=row["verdict"],
        word=_WORDS.get(row["verdict"], row["verdict"]),
        thinking_tokens=row["thinking_tokens"],
        answer_tokens=row["answer_tokens"],
    )
