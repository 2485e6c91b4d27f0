"""Tokens as they are drawn → text as it becomes certain.

A character can be spread over several tokens and a stop string over several more, so what may still change is held back. Knows
nothing of thinking; chat.parse takes the text from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character yet
_LONGEST_CHARACTER = 4


class TextStream:
    """One completion's text, token by token. Stop tokens are no text; text ends before the first stop string."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stop_ids: Sequence[int], stops: Sequence[str]
    ) -> None:
        self._decode = decode
        self._stop_ids = frozenset(stop_ids)
        self._stops = tuple(stops)
        # The window is decoded anew for each token: its first part is context, whose text has been given out.
        self._window: list[int] = []
        self._context = 0
        self._held = ""
        self._ended = False

    def push(self, token: int) -> str:
        """Take a token; return the text that is certain now."""
        if self._ended or token in self._stop_ids:
            return ""
        self._window.append(token)
        known = self._decode(self._window[: self._context])
        text = self._decode(self._window)
        unfinished = len(self._window) - self._context
        if text.endswith(_BROKEN) and unfinished < _LONGEST_CHARACTER:
            return ""
        self._held += text[len(known) :]
        self._window = self._window[self._context :]
        self._context = len(self._window)
        return self._release()

    def finish(self) -> str:
        """No token follows: return what was held back."""
        known = self._decode(self._window[: self._context])
        held = self._held + self._decode(self._window)[len(known) :]
        self._held, self._window, self._context = "", [], 0
        return "" if self._ended else cut(held, self._stops)

    def _release(self) -> str:
        whole = cut(self._held, self._stops)
        if len(whole) < len(self._held):
            self._held, self._ended = "", True
            return whole
        keep = max((_beginning(self._held, stop) for stop in self._stops), default=0)
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return ready


def cut(text: str, stops: Sequence[str]) -> str:
    """`text` before the first of the stop strings in it."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def _beginning(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
