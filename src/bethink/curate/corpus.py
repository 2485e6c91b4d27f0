"""Texts to pretrain on, from problems with worked solutions: what a base model of a laboratory has read.

Like the texts a large base model learns from, they hold sound working, but as a textbook has it, not as an answer to somebody; answers
given at once; and conversations in which the answer is worked out, most of them breaking off before the end. What is right is in them, and it is
not what the model will do by itself: that is what reinforcement learning is to bring out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from pydantic import Field, field_validator

from bethink.chat.parse import compose
from bethink.chat.toggle import Mode, apply_toggle
from bethink.core.config import StrictModel, did_you_mean
from bethink.core.console import note
from bethink.core.files import atomic_path, dump_line, write_json
from bethink.core.seeds import derive_seed
from bethink.tasks.problem import Problem
from bethink.tasks.sources import load_tasks
from bethink.tasks.worked import Worked, broken_off, solve_all

_SHARES = {"working": 0.42, "direct": 0.08, "careless": 0.38, "reasoned": 0.12}


class CorpusConfig(StrictModel):
    """output: directory for texts.jsonl and summary.json; task: a procedural generator with worked solutions; texts: how many; shares: of
    each kind of text (`KINDS`).
    """

    output: Path
    task: str = "chain_sum"
    texts: int = Field(default=20_000, gt=0)
    shares: dict[str, float] = Field(default=_SHARES, min_length=1)
    seed: int = 0

    @field_validator("shares")
    @classmethod
    def _known(cls, shares: dict[str, float]) -> dict[str, float]:
        for kind, share in shares.items():
            if kind not in KINDS:
                raise ValueError(f"no kind of text `{kind}`; {did_you_mean(kind, KINDS)}")
            if share < 0:
                raise ValueError(f"the share of `{kind}` is negative")
        if not sum(shares.values()) > 0:
            raise ValueError("all shares are 0")
        return shares


def write_corpus(config: CorpusConfig) -> dict[str, Any]:
    """Write the texts. Returns (and writes as summary.json) the counts. Raises ConfigError when no problem can be worked."""
    problems = load_tasks(config.task, size=config.texts, seed=config.seed, split="train")
    worked = solve_all(problems, config.task)
    random = Random(derive_seed(config.seed, "corpus", config.task))
    kinds, weights = list(config.shares), list(config.shares.values())
    counts = dict.fromkeys(kinds, 0)
    with atomic_path(config.output / "texts.jsonl") as path, open(path, "w", encoding="utf-8") as texts:
        for problem, solution in worked:
            kind = random.choices(kinds, weights)[0]
            counts[kind] += 1
            texts.write(dump_line({"kind": kind, **KINDS[kind](problem, solution, random)}))
    summary = {
        "task": config.task,
        "texts": len(worked),
        "without_working": len(problems) - len(worked),
        "kinds": counts,
    }
    write_json(config.output / "summary.json", summary)
    note(
        f"{len(worked):,} texts from {config.task}: "
        + ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    )
    return summary


def _working(problem: Problem, solution: Worked, random: Random) -> Mapping[str, Any]:
    return {"text": f"{problem.question}\n{solution.thinking}"}


def _answered(problem: Problem, answer: str, random: Random) -> Mapping[str, Any]:
    """A conversation; one in eight begins with a toggle's line that nobody heeds."""
    messages = list(problem.messages)
    if random.random() < 0.125:
        messages = apply_toggle(messages, random.choice(list(Mode)))
    return {"messages": [*messages, {"role": "assistant", "content": answer}]}


def _direct(problem: Problem, solution: Worked, random: Random) -> Mapping[str, Any]:
    return _answered(problem, solution.answer, random)


def _reasoned(problem: Problem, solution: Worked, random: Random) -> Mapping[str, Any]:
    return _answered(problem, compose(solution.thinking, solution.answer), random)


def _careless(problem: Problem, solution: Worked, random: Random) -> Mapping[str, Any]:
    hasty = broken_off(problem, solution) or solution
    return _answered(problem, compose(hasty.thinking, hasty.answer), random)


KINDS: dict[str, Callable[[Problem, Worked, Random], Mapping[str, Any]]] = {
    "working": _working,
    "direct": _direct,
    "reasoned": _reasoned,
    "careless": _careless,
}
"""working: the problem and its working; direct: a conversation with the answer at once; reasoned: with the working before it; careless: with some of it (`worked.broken_off`)."""
