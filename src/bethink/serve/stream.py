"""Server-sent events of a streamed completion: the chunks of the Chat Completions protocol, one event each."""

from __future__ import annotations

import json
from typing import Any

from bethink.chat.parse import Piece
from bethink.engine.dialogue import Reply
from bethink.serve.protocol import finish_word, reasoning, usage

DONE = "data: [DONE]\n\n"


class ChunkWriter:
    """Writes one request's events. with_usage: every chunk carries `usage`, and the last one the counts."""

    def __init__(self, identity: str, created: int, model: str, *, with_usage: bool) -> None:
        self._base = {"id": identity, "object": "chat.completion.chunk", "created": created, "model": model}
        self._with_usage = with_usage

    def start(self, index: int) -> str:
        """The choice begins."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, piece: Piece) -> str:
        """A stretch of thinking or answer."""
        delta = reasoning(piece.text) if piece.kind == "thinking" else {"content": piece.text}
        return self._chunk(index, delta)

    def finish(self, index: int, reply: Reply) -> str:
        """The choice is over."""
        return self._chunk(index, {}, finish_word(reply))

    def end(self, replies: list[Reply]) -> str:
        """The stream is over."""
        if not self._with_usage:
            return DONE
        return _event({**self._base, "choices": [], "usage": usage(replies)}) + DONE

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        extra = {"usage": None} if self._with_usage else {}
        return _event({**self._base, "choices": [choice], **extra})


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def error_event(body: dict[str, Any]) -> str:
    """An error after the stream has begun, when the status line is out already."""
    return _event(body) + DONE
