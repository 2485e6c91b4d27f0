"""What must be read in a row's text while it grows: stop strings, and the tags between which thinking is counted.

Text is decoded only for rows that ask for it, and only the tail in which a tag can have been completed by the newest token: a string
of n bytes is spread over at most n tokens. The budget's rule, and the room it leaves for an answer, are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bethink.engine.api import SamplingParams

Decode = Callable[[Sequence[int]], str]

ANSWER_ROOM = 64
"""Tokens kept for the answer when a thinking budget is set; a quarter of the token limit where that is less."""

_SLACK = 4  # special tokens may decode to nothing


class Watch:
    """Reads one row's completion token by token. `limit`: the most tokens it can come to."""

    def __init__(self, sampling: SamplingParams, limit: int, decode: Decode) -> None:
        budget = sampling.thinking
        self._decode = decode
        self._stops = sampling.stop
        self._budget = budget
        self._open = budget is not None and budget.open_text is None
        self._thought = 0
        texts = list(sampling.stop)
        if budget is not None:
            texts += [text for text in (budget.open_text, budget.close_text) if text]
            room = min(ANSWER_ROOM, limit // 4)
            self._last_index = limit - room - len(budget.close_ids)
        self._tail = max(len(text.encode()) for text in texts) + _SLACK

    def read(self, token_ids: Sequence[int]) -> bool:
        """Take note of the newest token; returns whether it completed a stop string."""
        tail = self._decode(token_ids[-self._tail :])
        if self._budget is not None:
            self._follow(tail)
        return any(stop in tail for stop in self._stops)

    def _follow(self, tail: str) -> None:
        assert self._budget is not None
        if self._open:
            self._thought += 1
            # The tail can still show the tag of a block closed before this one was opened.
            if self._budget.close_text in self._after_open(tail):
                self._open = False
        elif self._budget.open_text is not None:
            opened = tail.rfind(self._budget.open_text)
            self._open = opened >= 0 and self._budget.close_text not in tail[opened:]

    def _after_open(self, tail: str) -> str:
        opened = tail.rfind(self._budget.open_text) if self._budget and self._budget.open_text else -1
        return tail[max(opened, 0) :]

    def overdue(self, length: int) -> tuple[int, ...]:
        """The token ids to force now that `length` tokens stand: the closing tag once the budget is spent, else none."""
        if self._budget is None or not self._open:
            return ()
        if self._thought < self._budget.max_tokens and length < self._last_index:
            return ()
        self._open = False
        return self._budget.close_ids
