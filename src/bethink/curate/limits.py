"""Token limits, with as little tokenizing as possible.

Tokenizing is nearly all of curation's time and rows that are too long have most of the text, so they are told apart first by what
costs nothing: a text of n words has n tokens at least, if no token spans two words. Whether one does is read off the vocabulary.
"""

from __future__ import annotations

from bethink.chat.tokenizer import ChatTokenizer
from bethink.curate.config import CurateConfig, Limit
from bethink.curate.schema import Drop

_PROBE_CHARACTERS_PER_TOKEN = 8
_PROBE_MARGIN = 1.125


def words_per_token(tokenizer: ChatTokenizer) -> int:
    """The most words (as `str.split` sees them) that one token of the vocabulary touches: 1 in nearly all tokenizers."""
    return max(1, *(len(tokenizer.decode([token]).split()) for token in range(tokenizer.vocab_size)))


class TokenLimits:
    """The limits on a row's tokens: all of them, and those of its completion."""

    def __init__(self, config: CurateConfig, tokenizer: ChatTokenizer, words_per_token: int) -> None:
        self._total = _number(config.max_tokens)
        self._completion = _number(config.max_completion_tokens)
        self._tokenizer = tokenizer
        self._words_per_token = words_per_token

    def foreseen(self, prompt: str, completion: str) -> Drop | None:
        """A row that is beyond a limit without a doubt, found without tokenizing all of it."""
        least_completion = self._least(completion, self._completion or self._total)
        if drop := self._beyond(0, least_completion, "at least "):
            return drop
        return self._beyond(self._least(prompt, self._total), least_completion, "at least ")

    def exact(self, prompt_tokens: int, completion_tokens: int) -> Drop | None:
        """Whether a row of so many tokens is beyond a limit."""
        return self._beyond(prompt_tokens, completion_tokens, "")

    def _beyond(self, prompt: int, completion: int, prefix: str) -> Drop | None:
        if self._total is not None and prompt + completion > self._total:
            return Drop("max_tokens", f"{prefix}{prompt + completion:,} tokens")
        if self._completion is not None and completion > self._completion:
            return Drop("max_completion_tokens", f"{prefix}{completion:,} tokens")
        return None

    def _least(self, text: str, limit: int | None) -> int:
        """A number of tokens that `text` has at least.

        Text of hardly any words (Chinese, one endless word) is tokenized up to a point well beyond `limit`; what follows can
        change the tokens around the cut only, which the margin covers.
        """
        if limit is None or len(text) <= 2 * limit:  # too short for more words than the limit
            return 0
        words = len(text.split()) // self._words_per_token
        probe = limit * _PROBE_CHARACTERS_PER_TOKEN
        if words > limit or len(text) <= 2 * probe:
            return words
        return max(words, int(len(self._tokenizer.encode(text[:probe])) / _PROBE_MARGIN))


def _number(limit: Limit) -> int | None:
    return limit if isinstance(limit, int) else None
