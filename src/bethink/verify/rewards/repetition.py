"""The reward against repetition."""

from __future__ import annotations

import re

from bethink.core.errors import ConfigError
from bethink.verify.rewards.attempt import Attempt, Part, Reward, each

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")
"""A word, a number, a sign, or a character of a language written without spaces."""


def repetition(*, ngram: int = 6) -> Reward:
    """Minus the share of n-grams that stood in the completion before: 0 where none did, near -1 for one phrase over and over.

    ngram: how many words or signs make one; a completion with fewer gets 0. Equations of one build ("12 + 7 = 19", "19 + 7 = 26") share
    shorter ones honestly. Source: Yeo et al., "Demystifying Long Chain-of-Thought Reasoning in LLMs" (arXiv 2502.03373), as a share.
    """
    if ngram < 1:
        raise ConfigError(f"`ngram` of the reward `repetition` is {ngram}", fix="it must be 1 or more")

    def judge(attempt: Attempt) -> Part:
        return Part(-repeated_share(attempt.text, ngram))

    return each(judge)


def repeated_share(text: str, ngram: int) -> float:
    """The share of the n-grams of `text` that are copies of an earlier one, in [0, 1)."""
    words = _WORD.findall(text.lower())
    total = len(words) - ngram + 1
    if total < 1:
        return 0.0
    return 1 - len({tuple(words[i : i + ngram]) for i in range(total)}) / total
