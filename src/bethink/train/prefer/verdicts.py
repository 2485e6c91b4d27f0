"""Pairs made of a model's own graded answers: right before wrong, kept to the toggle before not, short before long.

Reads samples.jsonl as `bethink sample` and `bethink eval` write it, or after a vote voted.jsonl. Within the answers to one problem in one mode, an answer that is right,
whole and does what the toggle says is preferred to one that is wrong, cut at the token limit, right in a form the toggle forbids, or
right at many more tokens. What no grader judged is in no pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any

from bethink.chat.parse import canonical, parse, retagged
from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode, read_toggle
from bethink.core.errors import DataError, TemplateError
from bethink.core.files import read_jsonl
from bethink.core.seeds import derive_seed
from bethink.engine.api import FinishReason
from bethink.verify.verdict import UNCOUNTED, Outcome

Row = Mapping[str, Any]

_COLUMNS = (
    "id", "task", "mode", "prompt", "output", "opened", "verdict", "compliant", "thinking_tokens", "answer_tokens", "finish_reason",
)  # fmt: skip


class Fault(StrEnum):
    """Why the other answer is preferred."""

    WRONG = "wrong"
    TRUNCATED = "truncated"
    FORM = "form"
    LONG = "long"


@dataclass(slots=True)
class Count:
    """What became of the answers. pairs: by what is wrong with the rejected one; with_pairs: problems (in one mode) that gave any."""

    answers: int = 0
    ungraded: int = 0
    unrendered: int = 0
    problems: int = 0
    with_pairs: int = 0
    pairs: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Answer:
    row: Row
    prompt: str
    completion: str
    fault: Fault | None

    @property
    def tokens(self) -> int:
        return int(self.row["thinking_tokens"] + self.row["answer_tokens"])


def read_answers(path: Path) -> list[Row]:
    """The graded answers. Raises DataError for a row that is none."""
    rows: list[Row] = []
    for number, row in enumerate(read_jsonl(path, growing=True), 1):
        if missing := [name for name in _COLUMNS if name not in row]:
            raise DataError(
                f"the row has no `{missing[0]}`: it is no answer as `bethink sample` writes them",
                where=f"{path}:{number}",
            )
        rows.append(row)
    return rows


def pairs_of(
    answers: Iterable[Row], renderer: Renderer, *, longer: float, most: int, seed: int
) -> tuple[list[dict[str, Any]], Count]:
    """The pairs as rows for pairs.jsonl, and what they were made of.

    longer: of two right answers the one with at least so many times the tokens is rejected. most: pairs of one problem in one mode;
    those with a right and a wrong answer come before those of two right ones, and every answer is used once before any is used again.
    """
    count = Count()
    groups: dict[tuple[str, str, str], list[_Answer]] = {}
    for row in answers:
        count.answers += 1
        if row["verdict"] in UNCOUNTED or row["finish_reason"] == FinishReason.CANCELLED:
            count.ungraded += 1
            continue
        texts = _texts(row, renderer)
        if texts is None:
            count.unrendered += 1
            continue
        groups.setdefault((row["task"], row["id"], row["mode"]), []).append(_Answer(row, *texts, _fault(row)))
    pairs: list[dict[str, Any]] = []
    for key, group in groups.items():
        random = Random(derive_seed(seed, "pairs", *key))
        found = list(_chosen(group, longer, most, random))
        pairs += (_pair_row(*pair) for pair in found)
        count.problems += 1
        count.with_pairs += bool(found)
        for _, _, fault in found:
            count.pairs[fault.value] = count.pairs.get(fault.value, 0) + 1
    return pairs, count


def _fault(row: Row) -> Fault | None:
    """What is wrong with an answer by itself."""
    if row["finish_reason"] == FinishReason.LENGTH:
        return Fault.TRUNCATED
    if row["verdict"] != Outcome.CORRECT:
        return Fault.WRONG
    return None if row["compliant"] else Fault.FORM


def _chosen(
    answers: Sequence[_Answer], longer: float, most: int, random: Random
) -> Iterator[tuple[_Answer, _Answer, Fault]]:
    """The pairs of one problem: (chosen, rejected, why)."""
    distinct = list({answer.completion: answer for answer in answers}.values())
    good = [answer for answer in distinct if answer.fault is None]
    left = [(a, b, b.fault) for a in good for b in distinct if b.fault is not None]
    left += [(a, b, Fault.LONG) for a in good for b in good if b.tokens >= longer * max(a.tokens, 1)]
    random.shuffle(left)
    used: Counter[int] = Counter()
    for _ in range(min(most, len(left))):
        best = min(left, key=lambda pair: (pair[2] is Fault.LONG, used[id(pair[0])] + used[id(pair[1])]))
        left.remove(best)
        used.update((id(best[0]), id(best[1])))
        yield best


def _texts(row: Row, renderer: Renderer) -> tuple[str, str] | None:
    """Prompt and completion; None where the renderer cannot prove them. An answer that was cut has no end of turn."""
    cut = row["finish_reason"] == FinishReason.LENGTH
    if isinstance(row["prompt"], str):
        return row["prompt"], row["output"] + ("" if cut else renderer.end_of_turn)
    if cut:
        return None  # an endpoint's answer is known as messages, and the template would end the turn
    output = canonical(parse(row["output"], think=renderer.think, opened=row["opened"]))
    try:
        return renderer.texts(
            read_toggle(row["prompt"])[1], retagged(output, renderer.think), Mode(row["mode"])
        )
    except TemplateError:
        return None


def _pair_row(chosen: _Answer, rejected: _Answer, fault: Fault) -> dict[str, Any]:
    return {
        "input": chosen.prompt,
        "chosen": chosen.completion,
        "rejected": rejected.completion,
        "mode": chosen.row["mode"],
        "task": chosen.row["task"],
        "problem": chosen.row["id"],
        "why": fault.value,
        "chosen_tokens": chosen.tokens,
        "rejected_tokens": rejected.tokens,
        "rejected_verdict": rejected.row["verdict"],
    }
