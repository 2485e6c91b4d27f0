"""What an engine has had to do so far, at the least, and how long that takes a device at the best.

Counted from the tokens as they are drawn: a prompt when it draws its first, as far as no other prompt began with the same tokens, and a
step of decoding for the rows that draw another. What the engine does beyond that (a prompt computed again, idle slots, padding) is its
own affair.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from bethink.engine.scheduler import PromptIds, Row
from bethink.models.cost import Shape, decode_step, prompts
from bethink.models.speed import Speed

_REMEMBERED = 10_000
"""Prompts; an engine that never rests holds far fewer at a time."""


@dataclass(slots=True)
class _Decoded:
    """Steps with the same number of rows. seen: tokens that all rows saw in all steps."""

    steps: int = 0
    seen: int = 0


@dataclass(slots=True)
class _Prefilled:
    """Prefills of about as many tokens. pairs: of tokens that see each other."""

    times: int = 0
    prompts: int = 0
    tokens: int = 0
    pairs: int = 0


class Work:
    """Tallies the engine's steps; `seconds` is the least time for all of them."""

    def __init__(self) -> None:
        self._decoded: dict[int, _Decoded] = {}
        self._prefilled: dict[int, _Prefilled] = {}
        self._known: list[PromptIds] = []  # sorted: what begins alike stands side by side

    def add(self, drawn: Sequence[tuple[Row, int]]) -> None:
        """One step of the engine: the rows with the tokens they drew in it, in that order."""
        counts: dict[int, int] = {}
        for row, _ in drawn:
            counts[id(row)] = counts.get(id(row), 0) + 1
        begun: list[tuple[int, int]] = []
        rows, seen = 0, 0
        for row in {id(row): row for row, _ in drawn}.values():
            prompt_ids, new = row.request.prompt_ids, counts[id(row)]
            began = len(row.token_ids) == new
            if began and (start := self._start(prompt_ids)) < len(prompt_ids):
                begun.append((start, len(prompt_ids)))
            if new > began:
                rows += 1
                seen += row.position
        if rows:
            decoded = self._decoded.setdefault(rows, _Decoded())
            decoded.steps += 1
            decoded.seen += seen
        if begun:
            # Of prefills of nearly the same size the sum is kept, at the rate of the largest.
            tokens = sum(end - start for start, end in begun)
            prefilled = self._prefilled.setdefault(1 << (tokens - 1).bit_length(), _Prefilled())
            prefilled.times += 1
            prefilled.prompts += len(begun)
            prefilled.tokens += tokens
            prefilled.pairs += sum((end * (end + 1) - start * (start + 1)) // 2 for start, end in begun)

    def _start(self, prompt_ids: PromptIds) -> int:
        """How many of the prompt's tokens need not be computed, because a known prompt begins with them; makes it known.

        The last one is needed for its logits, unless the whole prompt is known.
        """
        place = bisect_left(self._known, prompt_ids)
        beside = self._known[max(place - 1, 0) : place + 1]
        if prompt_ids in beside:
            return len(prompt_ids)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
            place = 0
        self._known.insert(place, prompt_ids)
        return min(max((_alike(prompt_ids, other) for other in beside), default=0), len(prompt_ids) - 1)

    def rest(self) -> None:
        """The engine has nothing left to do and forgets the prompts it computed."""
        self._known.clear()

    def seconds(self, shape: Shape, speed: Speed) -> float:
        """Least seconds for everything so far, on a device of this speed. May be called while others add."""
        total = 0.0
        for size, p in list(self._prefilled.items()):
            mean = (p.prompts / p.times, p.tokens / p.times, p.pairs / p.times)
            total += p.times * speed.floor(prompts(shape, *mean, weight_bytes=speed.width), size)
        for rows, d in list(self._decoded.items()):
            step = decode_step(shape, rows, d.seen / (d.steps * rows) - 1, weight_bytes=speed.width)
            total += d.steps * speed.floor(step, rows)
        return total


def _alike(one: PromptIds, other: PromptIds) -> int:
    """How many tokens two prompts have in common from the first on."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
