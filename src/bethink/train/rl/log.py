"""rollouts.jsonl: every completion of a run, with what it earned and why; one line each, in the order of steps and groups."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bethink.core.files import dump_line, explain_os_errors, write_text
from bethink.train.rl.rollouts import Group

NAME = "rollouts.jsonl"


class RolloutLog:
    """Appends to directory/rollouts.jsonl. done: steps that count; lines of later ones, left by a killed run, are cut."""

    def __init__(self, directory: Path, *, done: int) -> None:
        self.path = directory / NAME
        _cut(self.path, done)

    def write(self, step: int, groups: Iterable[Group], trained: frozenset[int]) -> None:
        """The rollouts of `step` (1-based), on disk when this returns. trained: the ids of the groups that were learned from."""
        lines = [
            dump_line(row) for group in groups for row in _rows(step, group, trained=id(group) in trained)
        ]
        with explain_os_errors(self.path), open(self.path, "a", encoding="utf-8") as handle:
            handle.write("".join(lines))
            handle.flush()
            os.fsync(handle.fileno())


def _rows(step: int, group: Group, *, trained: bool) -> Iterator[dict[str, Any]]:
    for number, paid_though_wrong in enumerate(group.paid_though_wrong):
        yield _row(step, group, number, paid_though_wrong=paid_though_wrong, trained=trained)


def _row(step: int, group: Group, number: int, *, paid_though_wrong: bool, trained: bool) -> dict[str, Any]:
    rollout = group.rollouts[number]
    attempt, verdict = rollout.attempt, rollout.attempt.verdict
    count = max(len(rollout.logprobs), 1)
    return {
        "step": step,
        "problem": group.problem.id,
        "task": group.problem.task,
        "mode": group.mode.value,
        "index": number + group.occurrence * len(group.rollouts),
        "question": group.problem.question,
        "answer": group.problem.answer,
        "text": attempt.text,
        "outcome": verdict.outcome.value,
        "extracted": verdict.extracted,
        "detail": verdict.detail,
        "reward": rollout.reward if rollout.scored.total is not None else None,
        "parts": dict(rollout.scored.parts),
        "kl_penalty": None if rollout.kl_penalty is None else round(rollout.kl_penalty, 8),
        "notes": list(rollout.scored.notes),
        "advantage": round(rollout.advantage, 6),
        "tokens": attempt.tokens,
        "truncated": attempt.truncated,
        "opened": attempt.opened,
        "masked": not rollout.counts,
        "paid_though_wrong": paid_though_wrong,
        "mean_logprob": round(sum(rollout.logprobs) / count, 6),
        "refill": group.refill,
        "trained": trained and rollout.counts,
    }


def _cut(path: Path, done: int) -> None:
    if not path.exists():
        return
    kept = 0
    with open(path, "rb") as handle:
        for line in handle:
            # A killed run may have left half a line; whatever follows the last step done is written again.
            if not line.endswith(b"\n") or json.loads(line)["step"] > done:
                break
            kept += len(line)
    if kept < path.stat().st_size:
        if not kept:
            write_text(path, "")
            return
        with explain_os_errors(path), open(path, "r+b") as handle:
            handle.truncate(kept)
