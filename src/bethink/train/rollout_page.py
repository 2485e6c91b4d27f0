"""rollouts.jsonl as one page on which people read what the model wrote: by step, mode, outcome, reward, and words.

The page is one HTML file that fetches nothing. All a model or a user wrote is escaped by the template; the script only hides and shows, and
without it the page is one long list. What a long run wrote does not fit on a page: some steps are chosen, and some problems of each, evenly
from first to last, and the page says how many of how many.

The file is read twice, row by row: once to count and choose, once to keep what was chosen. A run at work has a page, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from bethink.chat.parse import Status, count_blocks, parse
from bethink.chat.toggle import DEFAULT_FORMAT, ThinkFormat
from bethink.core.errors import DataError
from bethink.core.files import read_jsonl, write_text

_MOST_ROLLOUTS = 32
"""Of one problem in one step."""
_CHARACTERS = 6_000_000
"""Of all thinking and answers on the page, about."""
_LONGEST, _SHORTEST = 8_000, 800
_WORDS = {
    "correct": "right",
    "wrong": "wrong",
    "no_answer": "no answer",
    "truncated": "cut off",
    "grader_error": "not graded",
    "not_judged": "not judged",
}

Row = Mapping[str, Any]
GroupKey = tuple[int, str, str]
"""(step, task, problem)."""
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion as shown. thinking: None when there is no block; closed: whether it ended. flags: what else to know, in words."""

    mode: str
    index: int
    outcome: str
    word: str
    extracted: str | None
    thinking: str | None
    closed: bool
    answer: str
    reward: float | None
    advantage: float | None
    parts: dict[str, float | None]
    tokens: int | None
    mean_logprob: float | None
    flags: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one problem in one step. left_out: how many more there are."""

    step: int
    task: str
    problem: str
    question: str
    answer: str
    rollouts: tuple[Rollout, ...]
    left_out: int

    @property
    def right(self) -> int:
        return sum(rollout.outcome == "correct" for rollout in self.rollouts)

    @property
    def judged(self) -> int:
        """How many are right or wrong, or could have been: all but those of problems without a grader."""
        return sum(rollout.outcome != "not_judged" for rollout in self.rollouts)

    @property
    def reward(self) -> float | None:
        return _mean(rollout.reward for rollout in self.rollouts)


@dataclass(slots=True)
class StepCount:
    """All rollouts of a step, shown or not."""

    groups: dict[GroupKey, int] = field(default_factory=dict)
    rewards: list[float] = field(default_factory=list)
    right: int = 0
    judged: int = 0

    @property
    def rollouts(self) -> int:
        return sum(self.groups.values())

    @property
    def reward(self) -> float | None:
        return _mean(self.rewards)


@dataclass(frozen=True, slots=True)
class Story:
    """What the page shows. steps: all steps of the file; shown: those on the page; longest: characters after which a text is cut."""

    steps: dict[int, StepCount]
    shown: tuple[int, ...]
    groups: tuple[Group, ...]
    longest: int


def write_rollout_page(
    rollouts: Path,
    page: Path,
    *,
    title: str = "Rollouts",
    steps: int = 24,
    groups: int = 6,
    think: ThinkFormat = DEFAULT_FORMAT,
) -> Path:
    """Write `page` from the rows of `rollouts`; returns its path.

    steps, groups: at most so many steps, and problems of each. think: the model's tags. Raises DataError, with file and line, for rows
    that cannot be read.
    """
    write_text(page, render(collect(rollouts, steps=steps, groups=groups, think=think), title))
    return page


def collect(path: Path, *, steps: int, groups: int, think: ThinkFormat = DEFAULT_FORMAT) -> Story:
    """Choose what to show, and read it."""
    counts = _counted(path)
    shown = evenly(sorted(counts), steps)
    chosen = [key for step in shown for key in evenly(list(counts[step].groups), groups)]
    places = {key: set(evenly(range(counts[key[0]].groups[key]), _MOST_ROLLOUTS)) for key in chosen}
    total = sum(map(len, places.values()))
    longest = max(_SHORTEST, min(_LONGEST, _CHARACTERS // max(2 * total, 1)))
    kept: dict[GroupKey, list[Row]] = {key: [] for key in chosen}
    seen = dict.fromkeys(chosen, 0)
    for row in _rows(path):
        key = _key(row)
        if key in kept:
            if seen[key] in places[key]:
                kept[key].append(row)
            seen[key] += 1
    return Story(
        steps=counts,
        shown=tuple(shown),
        groups=tuple(
            _group(key, rows, counts[key[0]].groups[key], think, longest)
            for key, rows in kept.items()
            if rows
        ),
        longest=longest,
    )


def render(story: Story, title: str) -> str:
    """The whole page as HTML: no outside file, font or script."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": lambda value: "–" if value is None else f"{value:.3g}".replace("-", "−"),
        "signed": lambda value: "–" if value is None else f"{value:+.2f}".replace("-", "−"),
        "percent": lambda share: f"{100 * share:.0f} %",
        "thousands": lambda count: f"{count:,}",
    }
    here = files("bethink.train")

    def own(name: str) -> str:
        return (here / name).read_text(encoding="utf-8")

    shown = [rollout for group in story.groups for rollout in group.rollouts]
    text: str = environment.from_string(own("rollout_page.html.j2")).render(
        title=title,
        story=story,
        style=Markup(own("rollout_page.css")),
        script=Markup(own("rollout_page.js")),
        modes=sorted({rollout.mode for rollout in shown}, reverse=True),
        outcomes=list(dict.fromkeys(sorted((rollout.outcome, rollout.word) for rollout in shown))),
        rollouts=sum(count.rollouts for count in story.steps.values()),
        shown=len(shown),
    )
    # Half of a surrogate pair, which a JSON file can hold, is no character and cannot be written.
    return text.encode("utf-8", "replace").decode("utf-8")


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items at even distances, the first and the last among them; all of them when there are no more."""
    if len(items) <= count:
        return list(items)
    if count < 2:
        return list(items[-1:]) if count else []
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def _rows(path: Path) -> Iterator[Row]:
    """The rows of the file. Raises DataError for one without a step, a problem or a text."""
    for number, row in enumerate(read_jsonl(path, growing=True), 1):
        step = row.get("step")
        whole = isinstance(step, int) and not isinstance(step, bool)
        if not whole or not all(isinstance(row.get(key), str) for key in ("problem", "text")):
            raise DataError(
                "this row is no rollout: it needs `step`, a whole number, and `problem` and `text`, two texts",
                where=f"{path}:{number}",
            )
        yield row


def _key(row: Row) -> GroupKey:
    return row["step"], str(row.get("task", "")), row["problem"]


def _counted(path: Path) -> dict[int, StepCount]:
    counts: dict[int, StepCount] = {}
    for row in _rows(path):
        count = counts.setdefault(row["step"], StepCount())
        key = _key(row)
        count.groups[key] = count.groups.get(key, 0) + 1
        count.right += row.get("outcome") == "correct"
        count.judged += row.get("outcome") != "not_judged"
        reward = _number(row.get("reward"))
        if reward is not None:
            count.rewards.append(reward)
    return counts


def _group(key: GroupKey, rows: Sequence[Row], total: int, think: ThinkFormat, longest: int) -> Group:
    rollouts = sorted(
        (_rollout(row, think, longest) for row in rows),
        key=lambda one: (one.mode != "on", one.mode, one.index),
    )
    return Group(
        *key,
        question=shortened(str(rows[0].get("question", "")), longest),
        answer=shortened(str(rows[0].get("answer", "")), longest),
        rollouts=tuple(rollouts),
        left_out=total - len(rows),
    )


def _rollout(row: Row, think: ThinkFormat, longest: int) -> Rollout:
    text = row["text"]
    opens, closes = count_blocks(text, think)
    # A closing tag alone: the prompt opened the block.
    parsed = parse(text, think=think, opened=bool(row.get("opened", closes and not opens)))
    outcome = str(row.get("outcome", ""))
    extracted = row.get("extracted")
    flags = {
        "cut off": row.get("truncated"),
        "masked": row.get("masked"),
        "not trained on": row.get("trained") is False,
        "paid though wrong": row.get("paid_though_wrong"),
    }
    penalty = _number(row.get("kl_penalty"))
    parts, notes, tokens = row.get("parts"), row.get("notes"), _number(row.get("tokens"))
    return Rollout(
        mode=str(row.get("mode", "")),
        index=int(_number(row.get("index")) or 0),
        outcome=outcome,
        word=_WORDS.get(outcome, outcome),
        extracted=None if extracted is None else shortened(str(extracted), longest),
        thinking=None if parsed.thinking is None else shortened(parsed.thinking, longest),
        closed=parsed.status is not Status.UNCLOSED,
        answer=shortened(parsed.answer, longest),
        reward=_number(row.get("reward")),
        advantage=_number(row.get("advantage")),
        parts={
            **(
                {str(name): _number(value) for name, value in parts.items()}
                if isinstance(parts, dict)
                else {}
            ),
            **({} if penalty is None else {"KL penalty": penalty}),
        },
        tokens=None if tokens is None else int(tokens),
        mean_logprob=_number(row.get("mean_logprob")),
        flags=tuple(flag for flag, holds in flags.items() if holds),
        notes=tuple(shortened(str(note), longest) for note in notes) if isinstance(notes, list) else (),
    )


def shortened(text: str, longest: int) -> str:
    """The text, or its beginning and end with a word on what is left out between them."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n\n[… {len(text) - 2 * half:,} characters not shown …]\n\n{text[-half:]}"


def _number(value: Any) -> float | None:
    """A number that can be shown and compared; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
