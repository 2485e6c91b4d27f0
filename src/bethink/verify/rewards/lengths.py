"""The rewards of length: short among its group, no longer than needed, not up against the limit. Lengths are in tokens."""

from __future__ import annotations

from collections.abc import Sequence

from bethink.core.errors import ConfigError
from bethink.verify.rewards.attempt import Attempt, Part, Reward, each


def length() -> Reward:
    """From 0.5 for the shortest of the group down to -0.5 for the longest; a completion without a right answer gets 0 at most.

    0 for all where all are equally long; None where the grader failed, and such completions are no measure for others. Of a problem
    without a grader no answer is known to be right: short ones gain nothing, long ones lose.
    Source: Kimi k1.5 (arXiv 2501.12599), section 2.3.3.
    """

    def judge(group: Sequence[Attempt]) -> list[Part]:
        lengths = [attempt.tokens for attempt in group if not attempt.verdict.failed]
        shortest, longest = min(lengths, default=0), max(lengths, default=0)

        def value(attempt: Attempt) -> float | None:
            if attempt.verdict.failed:
                return None
            if longest == shortest:
                return 0.0
            short = 0.5 - (attempt.tokens - shortest) / (longest - shortest)
            return short if attempt.verdict.correct else min(0.0, short)

        return [Part(value(attempt)) for attempt in group]

    return judge


def efficiency(*, cap: float = 1.0) -> Reward:
    """For a right answer, minus the share of tokens beyond the group's shortest right completion: -0.5 for half as many again.

    0 for every other completion; None where the grader failed; no part where the problem has no grader. cap: it never falls below -cap.
    """
    if not cap > 0:
        raise ConfigError(f"`cap` of the reward `efficiency` is {cap}", fix="it must be greater than 0")

    def judge(group: Sequence[Attempt]) -> list[Part | None]:
        needed = min((attempt.tokens for attempt in group if attempt.verdict.correct), default=0)

        def value(attempt: Attempt) -> float | None:
            if attempt.verdict.failed:
                return None
            if not attempt.verdict.correct:
                return 0.0
            return -min(cap, (attempt.tokens - needed) / max(needed, 1))

        return [Part(value(attempt)) if attempt.verdict.judged else None for attempt in group]

    return judge


def overlong(*, max_tokens: int, cache: int = 0) -> Reward:
    """0 up to max_tokens - cache tokens, from there down to -1 at max_tokens and beyond.

    cache: the width of the slope, by default a fifth of max_tokens, as in the paper. Source: DAPO (arXiv 2503.14476), equation 13.
    """
    width = cache or max(1, max_tokens // 5)
    if not 0 < width <= max_tokens:
        raise ConfigError(
            f"the reward `overlong` has max_tokens={max_tokens} and cache={cache}",
            fix="max_tokens must be positive and cache no greater",
        )

    def judge(attempt: Attempt) -> Part:
        beyond = attempt.tokens - (max_tokens - width)
        return Part(-min(1.0, max(0.0, beyond / width)))

    return each(judge)
