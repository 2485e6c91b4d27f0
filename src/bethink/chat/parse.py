"""Completion text → thinking and answer.

The first opening tag starts the thinking, the first closing tag after it ends it, everything else is answer. Works on strings, since
the tags are several tokens in most tokenizers; `StreamParser` does the same piece by piece and holds back what may turn out to be
part of a tag. Knows nothing of templates or tokens; the text given must not hold the end-of-turn token.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from bethink.chat.toggle import DEFAULT_FORMAT, Mode, ThinkFormat


class Status(StrEnum):
    """What became of the think block."""

    ABSENT = "absent"
    CLOSED = "closed"
    UNCLOSED = "unclosed"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A completion taken apart.

    thinking: the text between the tags, outer whitespace removed; None when there is no block.
    answer: the text outside the block, leading blank lines removed; "" when the block was never closed, so that nothing said
    while thinking can be taken for an answer.
    """

    thinking: str | None
    answer: str
    status: Status


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a streamed completion."""

    kind: Literal["thinking", "answer"]
    text: str


def parse(text: str, *, think: ThinkFormat = DEFAULT_FORMAT, opened: bool = False) -> Parsed:
    """Take a completion apart. opened: the prompt opened the block, so the text begins inside it."""
    if opened:
        before, inside = "", text
    else:
        before, tag, inside = text.partition(think.open)
        if not tag:
            return Parsed(None, _trim_answer(text), Status.ABSENT)
    thinking, tag, after = inside.partition(think.close)
    if not tag:
        return Parsed(thinking.strip(), "", Status.UNCLOSED)
    return Parsed(thinking.strip(), _trim_answer(before) + _trim_answer(after), Status.CLOSED)


def compose(thinking: str, answer: str, think: ThinkFormat = DEFAULT_FORMAT) -> str:
    """The canonical completion text: the block on lines of its own, a blank line, the answer."""
    return f"{think.open}\n{thinking}\n{think.close}\n\n{answer}"


def canonical(parsed: Parsed) -> str:
    """A completion that was taken apart, as one text with the usual tags and in canonical form."""
    return parsed.answer if parsed.thinking is None else compose(parsed.thinking, parsed.answer)


def retagged(text: str, think: ThinkFormat) -> str:
    """`text` with the usual tags turned into those of `think`; tags that are there already stay."""
    return text.replace(DEFAULT_FORMAT.open, think.open).replace(DEFAULT_FORMAT.close, think.close)


def count_blocks(text: str, think: ThinkFormat = DEFAULT_FORMAT) -> tuple[int, int]:
    """How many opening and how many closing tags stand in `text`."""
    return text.count(think.open), text.count(think.close)


def compliant(text: str, mode: Mode, think: ThinkFormat = DEFAULT_FORMAT, opened: bool = False) -> bool:
    """Whether a completion does what the toggle said.

    on: exactly one block, closed, and an answer after it. off: no tags at all. opened: the prompt opened the block.
    """
    opens, closes = count_blocks(text, think)
    if mode is Mode.OFF:
        return opens == closes == 0 and not opened
    if opens + opened != 1 or closes != 1:
        return False
    before_close, _, after = text.partition(think.close)
    return (opened or think.open in before_close) and bool(after.strip())


class StreamParser:
    """`parse` for text that arrives in pieces, cut anywhere.

    The pieces given out, put together by kind, are the `thinking` and the `answer` of `parse` on the whole text. (One exception:
    an answer that began before a block that is never closed has been given out by then, while `parse` says "".)
    """

    def __init__(self, think: ThinkFormat = DEFAULT_FORMAT, opened: bool = False) -> None:
        self._think = think
        self._inside = opened
        self._block_seen = opened
        self._held = ""
        self._at_start = True

    def feed(self, text: str) -> list[Piece]:
        """Take the next stretch of text; give out what is certain."""
        return self._advance(text, final=False)

    def finish(self) -> list[Piece]:
        """The text has ended: give out what was held back in case it was the beginning of a tag."""
        return self._advance("", final=True)

    def _advance(self, text: str, *, final: bool) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        while (tag := self._awaited_tag()) and tag in self._held:
            before, _, self._held = self._held.partition(tag)
            self._emit(before, pieces, ends=True)
            self._inside, self._block_seen, self._at_start = not self._inside, True, True
        keep = 0 if final or not tag else _partial_tag(self._held, tag)
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self._held = self._emit(ready, pieces, ends=final) + self._held
        return pieces

    def _awaited_tag(self) -> str | None:
        """The tag that would change the state: a second block in the answer is text like any other."""
        if self._inside:
            return self._think.close
        return None if self._block_seen else self._think.open

    def _emit(self, text: str, pieces: list[Piece], *, ends: bool) -> str:
        """Append `text` to `pieces`, trimmed as `parse` trims; return the whitespace that cannot be judged yet."""
        body = text.rstrip()
        if not body and (self._at_start or self._inside):
            return "" if ends else text
        rest = ""
        if self._inside:
            body, rest = (body.lstrip() if self._at_start else body), text[len(body) :]
        else:
            body = _trim_answer(text) if self._at_start else text
        if body:
            pieces.append(Piece("thinking" if self._inside else "answer", body))
            self._at_start = False
        return "" if ends else rest


def _trim_answer(text: str) -> str:
    """`text` without its leading blank lines; "" when it is blank. The first line keeps its indentation."""
    blank = text[: len(text) - len(text.lstrip())]
    return "" if len(blank) == len(text) else text[blank.rfind("\n") + 1 :]


def _partial_tag(text: str, tag: str) -> int:
    """The length of the longest end of `text` that begins `tag`."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)
