"""The problems a run draws from: made or read once, and written down for those who must not be asked them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bethink.core.files import dump_line, write_text
from bethink.tasks.problem import Problem
from bethink.tasks.sources import load_tasks

FILE = "train-problems.jsonl"
"""What an evaluation must not ask (`bethink eval --exclude`)."""


def load_problems(
    tasks: Sequence[str], count: int, *, split: str, seed: int, exclude: Sequence[str] = ()
) -> list[list[Problem]]:
    """The problems of each task, an equal share of `count` of each, none of an earlier one's again and none of the questions in `exclude`.

    Raises what `load_tasks` raises.
    """
    size = -(-count // len(tasks))
    found: list[list[Problem]] = []
    for spec in tasks:
        asked = [*exclude, *(problem.question for problems in found for problem in problems)]
        found.append(list(load_tasks(spec, size=size, seed=seed, split=split, exclude=asked)))
    return found


def write_problems(problems: Sequence[Problem], directory: Path) -> None:
    """Write directory/train-problems.jsonl."""
    rows = [dump_line({"id": p.id, "task": p.task, "question": p.question}) for p in problems]
    write_text(directory / FILE, "".join(rows))
