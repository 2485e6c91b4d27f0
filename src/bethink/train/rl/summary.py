"""A step's metrics from its rollouts and the sums over its micro-batches.

Reported apart by mode: what pays with thinking on may cost with it off. Every reward has its own mean, unweighted.
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

    sums: over the learned tokens of all micro-batches (`GRPOMethod.loss`). Means over nothing are None.
    """
    rollouts = [rollout for group in sampled for rollout in group.rollouts]
    counted = [rollout for rollout in rollouts if rollout.counts]
    tokens = [rollout.attempt.tokens for rollout in rollouts]
    learned_tokens = sums["learned"] or 1.0
    row: dict[str, Any] = {
        "loss": sums["loss"],
        "reward": _mean(rollout.reward for rollout in counted) or 0.0,
        "groups": len(sampled),
        "without_signal": sum(not group.has_signal for group in sampled),
        "learned_groups": sum(group.has_signal for group in learned),
        "masked": len(rollouts) - len(counted),
        "truncated": _mean(rollout.attempt.truncated for rollout in rollouts),
        "tokens": sum(tokens),
        "completion_tokens_mean": _mean(tokens),
        "learned_tokens": int(sums["learned"]),
        "entropy": round(sums["entropy"] / learned_tokens, 6),
        "clipped": round(sums["clipped"] / learned_tokens, 6),
        "mismatch": round(sums["mismatch"] / learned_tokens, 6),
        "mismatch_kl": round(sums["mismatch_kl"] / learned_tokens, 8),
        "capped": round(sums["capped"] / learned_tokens, 6),
        "disagreement": disagreement(
            [
                ([rollout.attempt for rollout in group.rollouts], [r.scored for r in group.rollouts])
                for group in sampled
            ]
        ),
    }
    if "kl" in sums:
        row["kl"] = round(sums["kl"] / learned_tokens, 8)
    if penalties := [r.kl_penalty for r in counted if r.kl_penalty is not None]:
        row["kl_penalty"] = _mean(penalties)
    for name in rollouts[0].scored.parts if rollouts else ():
        row[f"reward/{name}"] = _mean(
            value for rollout in rollouts if (value := rollout.scored.parts[name]) is not None
        )
    for mode in Mode:
        row |= _of_mode(mode, [rollout for rollout in rollouts if rollout.attempt.mode is mode])
    return row


def _of_mode(mode: Mode, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    if not rollouts:
        return {}
    attempts = [rollout.attempt for rollout in rollouts]
    return {
        f"pass_{mode}": _mean(a.verdict.correct for a in attempts if a.verdict.counts),
        f"compliance_{mode}": _mean(compliant(a.text, mode, a.think, a.opened) for a in attempts),
        f"tokens_{mode}": _mean(a.tokens for a in attempts),
        f"reward_{mode}": _mean(rollout.reward for rollout in rollouts if rollout.counts),
    }


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(fmean(found), 6) if found else None
