"""A step's metrics from its rollouts and the sums over its micro-batches.

Reported apart by mode, too: what pays with thinking on may cost with it off. Every reward has its own mean, unweighted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from bethink.chat.parse import compliant
from bethink.chat.toggle import Mode
from bethink.train.rl.rollouts import Group, Rollout
from bethink.verify.rewards.watch import disagreement


def summarize(sampled: Sequence[Group], learned: Sequence[Group], sums: Counter[str]) -> dict[str, Any]:
    """The row for metrics.jsonl. sampled: all groups of the step; learned: those after refills, the update's.

    sums: over the learned tokens of all micro-batches (`GRPOMethod.loss`). Means over nothing are None, those over the learned tokens of a
    step that learned nothing among them.
    """
    rollouts = [rollout for group in sampled for rollout in group.rollouts]
    counted = [rollout for rollout in rollouts if rollout.counts]
    tokens = [rollout.attempt.tokens for rollout in rollouts]
    judged = [
        ([rollout.attempt for rollout in group.rollouts], [rollout.scored for rollout in group.rollouts])
        for group in sampled
    ]
    row: dict[str, Any] = {
        "loss": sums["loss"],
        "reward": _mean(rollout.reward for rollout in counted) or 0.0,
        "groups": len(sampled),
        "without_signal": sum(not group.has_signal for group in sampled),
        "learned_groups": sum(group.has_signal for group in learned),
        "masked": len(rollouts) - len(counted),
        "not_judged": sum(not rollout.attempt.verdict.judged for rollout in rollouts),
        "truncated": _mean(rollout.attempt.truncated for rollout in rollouts),
        "tokens": sum(tokens),
        "completion_tokens_mean": _mean(tokens),
        "learned_tokens": int(sums["learned"]),
        "entropy": _a_token(sums, "entropy"),
        "clipped": _a_token(sums, "clipped"),
        "mismatch": _a_token(sums, "mismatch"),
        "mismatch_kl": _a_token(sums, "mismatch_kl", digits=8),
        "capped": _a_token(sums, "capped"),
        "disagreement": disagreement(judged),
    }
    if "kl" in sums:
        row["kl"] = _a_token(sums, "kl", digits=8)
    if penalties := [r.kl_penalty for r in counted if r.kl_penalty is not None]:
        row["kl_penalty"] = _mean(penalties)
    row |= _parts(rollouts)
    for name in _names(rollouts):
        row[f"disagreement/{name}"] = disagreement(judged, of=name)
    for mode in Mode:
        row |= _of_mode(mode, [rollout for rollout in rollouts if rollout.attempt.mode is mode])
    return row


def _of_mode(mode: Mode, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    if not rollouts:
        return {}
    attempts = [rollout.attempt for rollout in rollouts]
    return {
        **_parts(rollouts, f"_{mode}"),
        f"truncated_{mode}": _mean(a.truncated for a in attempts),
        f"pass_{mode}": _mean(a.verdict.correct for a in attempts if a.verdict.counts),
        f"compliance_{mode}": _mean(compliant(a.text, mode, a.think, a.opened) for a in attempts),
        f"tokens_{mode}": _mean(a.tokens for a in attempts),
        f"reward_{mode}": _mean(rollout.reward for rollout in rollouts if rollout.counts),
    }


def _parts(rollouts: Sequence[Rollout], suffix: str = "") -> dict[str, float | None]:
    """The mean of every reward over the completions it has a part in."""
    return {
        f"reward/{name}{suffix}": _mean(
            value for rollout in rollouts if (value := rollout.scored.parts.get(name)) is not None
        )
        for name in _names(rollouts)
    }


def _names(rollouts: Sequence[Rollout]) -> list[str]:
    """The rewards that have a part in any completion."""
    return list(dict.fromkeys(name for rollout in rollouts for name in rollout.scored.parts))


def _a_token(sums: Counter[str], name: str, digits: int = 6) -> float | None:
    """The mean over the learned tokens."""
    return round(sums[name] / sums["learned"], digits) if sums["learned"] else None


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(fmean(found), 6) if found else None
