"""Which request sits in which slot.

Pure bookkeeping, no tensors. A new prompt that begins like one whose keys and values some slot holds (a shared system prompt, say) takes
over that part. Waiting requests stand in groups of equal prompts, in order of first arrival, and a group is served to its
end before the next one begins: so as long as a prompt is waited for, some slot still holds its keys and values, and unless memory is
short no prompt is prefilled twice. The number of slots decoded each step comes from a short list, all multiples of four: on CPU a matrix product
of 1, 2, 3 or 5 rows rounds differently from one of 4, 8 or 16, and a completion must not depend on its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from bethink.engine.api import Completion, FinishReason, Request
from bethink.engine.kv_cache import STEP, round_up
from bethink.engine.watch import Decode, Watch

PromptIds = tuple[int, ...]

TOGETHER = 8
"""New prompts are begun when this part of the slots is free: a forward of fifty prompt tokens costs nearly as much as one of two hundred."""

LEAST_SHARED = 16
"""Tokens two prompts must begin with in common for the second to take over the first one's keys and values."""


def row_counts(slots: int) -> tuple[int, ...]:
    """The row counts that decoding uses when there are `slots` slots, ascending; the last is at least `slots`."""
    counts = [4, 8, 16, 24, 32]
    while counts[-1] < slots:
        counts.append(counts[-1] + (16 if counts[-1] < 64 else 32))
    return tuple(count for index, count in enumerate(counts) if index == 0 or counts[index - 1] < slots)


def _in_common(one: PromptIds, other: PromptIds, least: int) -> int:
    """How many tokens both begin with; 0 when fewer than `least`."""
    if one[:least] != other[:least] or min(len(one), len(other)) < least:
        return 0
    pairs = enumerate(zip(one[least:], other[least:], strict=False), least)
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


@dataclass(eq=False, slots=True)
class Row:
    """One request being served. owner: whoever wants its completion; limit: its most tokens, fitted to the model; serial: counts the
    rows ever made."""

    request: Request
    owner: Any
    limit: int
    watch: Watch | None
    serial: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    due: deque[int] = field(default_factory=deque)
    finish: FinishReason | None = None

    @classmethod
    def of(cls, request: Request, owner: Any, limit: int, decode: Decode | None) -> Row:
        """A row for a request that has not begun."""
        watched = request.sampling.stop or request.sampling.thinking
        watch = Watch(request.sampling, limit, decode) if watched and decode else None
        row = cls(request, owner, limit, watch)
        row._plan()
        return row

    @property
    def need(self) -> int:
        """The most cache tokens it can come to use."""
        return len(self.request.prompt_ids) + self.limit

    @property
    def position(self) -> int:
        """Where its newest token stands."""
        return len(self.request.prompt_ids) + len(self.token_ids) - 1

    def accept(self, token: int, logprob: float) -> None:
        """Append a drawn (or due) token and see whether it is the last."""
        if self.due:
            self.forced.append(len(self.token_ids))
            self.due.popleft()
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        stopped = self.watch.read(self.token_ids) if self.watch else False
        if stopped or (token in self.request.sampling.stop_ids):
            self.finish = FinishReason.STOP
        elif len(self.token_ids) >= self.limit:
            self.finish = FinishReason.LENGTH
        else:
            self._plan()

    def _plan(self) -> None:
        if self.watch and not self.due:
            self.due.extend(self.watch.overdue(len(self.token_ids)))

    def completion(self) -> Completion:
        """What it came to; call it once `finish` is set."""
        assert self.finish is not None
        return Completion(
            self.request.id, tuple(self.token_ids), tuple(self.logprobs), self.finish, tuple(self.forced)
        )


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `length` tokens of a prompt are in `slot` already: there before (`fresh` is false), or once the prompt that begins there
    with this one is prefilled."""

    slot: int
    length: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """Rows of one prompt that begin now. `holder`: the slot where the prompt's keys and values are or are to be put; `known`: whether
    they are there already; `prefix`: where the first of them are, if not; `copies`: the slots they must be copied to."""

    prompt_ids: PromptIds
    rows: tuple[tuple[int, Row], ...]
    holder: int
    known: bool
    prefix: Prefix | None
    copies: tuple[int, ...]


class Scheduler:
    """Slots and the queue before them.

    max_tokens: cache tokens there is memory for, or None. share_prefixes: whether prompts may take over what others begin with.
    """

    def __init__(self, slots: int, max_tokens: int | None, *, share_prefixes: bool = False) -> None:
        self._share_prefixes = share_prefixes
        self._counts = row_counts(slots)
        self._limit = slots
        self._max_tokens = max_tokens
        self._rows: list[Row | None] = [None] * self._counts[-1]
        self._held: list[PromptIds | None] = [None] * self._counts[-1]
        self._waiting: dict[PromptIds, deque[Row]] = {}

    @property
    def active(self) -> int:
        """How many slots are in use."""
        return sum(row is not None for row in self._rows)

    @property
    def waiting(self) -> int:
        """How many rows wait for a slot."""
        return sum(len(group) for group in self._waiting.values())

    @property
    def width(self) -> int:
        """How many slots to decode: a row count that reaches the last slot in use; 0 when none is."""
        used = max((slot + 1 for slot, row in enumerate(self._rows) if row is not None), default=0)
        return self._count_for(used) if used else 0

    def _count_for(self, rows: int) -> int:
        return next(count for count in self._counts if count >= rows)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """The slots in use with their rows."""
        return ((slot, row) for slot, row in enumerate(self._rows) if row is not None)

    def awaited(self, prompt_ids: PromptIds) -> bool:
        """Whether a row with this prompt waits."""
        return prompt_ids in self._waiting

    def add(self, row: Row) -> None:
        """Queue a row behind those of its prompt, or at the end."""
        self._waiting.setdefault(row.request.prompt_ids, deque()).append(row)

    def release(self, slot: int) -> None:
        """Free a slot. What its cache holds of the prompt stays good until the slot is filled again."""
        self._rows[slot] = None

    def drop(self, unwanted: Callable[[Row], bool]) -> list[Row]:
        """Take out the rows that are unwanted, waiting or seated; returns them."""
        dropped = []
        for slot, row in list(self.rows()):
            if unwanted(row):
                dropped.append(row)
                self.release(slot)
        for prompt_ids, group in list(self._waiting.items()):
            dropped += [row for row in group if unwanted(row)]
            self._waiting[prompt_ids] = deque(row for row in group if not unwanted(row))
            if not self._waiting[prompt_ids]:
                del self._waiting[prompt_ids]
        return dropped

    def admit(self) -> list[Admission]:
        """Seat as many waiting rows as there are slots and memory for, group by group.

        While others are decoded, new prompts wait until some slots are free for them together.
        """
        admissions = []
        enough = min(self.waiting, self._limit // TOGETHER)
        patient = self.active > 0 and self._limit - self.active < enough
        fresh: set[int] = set()  # slots that get another prompt now
        copied: set[int] = set()
        while self._waiting:
            prompt_ids, group = next(iter(self._waiting.items()))
            holder = next((slot for slot, held in enumerate(self._held) if held == prompt_ids), None)
            known = holder is not None
            if patient and not known:
                break
            prefix = None if known else self._prefix(prompt_ids, fresh, copied)
            seated: list[tuple[int, Row]] = []
            copies: list[int] = []
            while group and (slot := self._seat(group[0], prompt_ids)) is not None:
                row = group.popleft()
                self._rows[slot] = row
                if holder is None:
                    holder = slot
                elif self._held[slot] != prompt_ids:
                    copies.append(slot)
                self._held[slot] = prompt_ids
                seated.append((slot, row))
            finished_group = not group
            if finished_group:
                del self._waiting[prompt_ids]
            if seated:
                assert holder is not None
                copied.update(copies)
                if not known:
                    fresh.add(holder)
                admissions.append(Admission(prompt_ids, tuple(seated), holder, known, prefix, tuple(copies)))
            if not finished_group:
                break
        return admissions

    def _prefix(
        self, prompt_ids: PromptIds, fresh: Collection[int], copied: Collection[int]
    ) -> Prefix | None:
        """The longest beginning of a new prompt that some slot holds; its last token is left over, since its logits are wanted."""
        best = None
        most = LEAST_SHARED - 1
        if self._share_prefixes:
            # What is there already comes first: the rest must wait for it to be prefilled.
            usable = (slot for slot in range(len(self._held)) if slot not in copied)
            for slot in sorted(usable, key=lambda slot: slot in fresh):
                length = _in_common(prompt_ids[:-1], self._held[slot] or (), most + 1)
                if length > most:
                    best, most = Prefix(slot, length, slot in fresh), length
        return best

    def _seat(self, row: Row, prompt_ids: PromptIds) -> int | None:
        """A free slot for `row` (one that holds its prompt if there is one), or None when slots or memory are used up."""
        if self.active >= self._limit:
            return None
        free = [slot for slot, seated in enumerate(self._rows) if seated is None]
        slot = next((slot for slot in free if self._held[slot] == prompt_ids), free[0])
        if self._max_tokens is not None and self.active:
            needs = [row.need, *(seated.need for _, seated in self.rows())]
            rows = self._count_for(max(slot + 1, self.width))
            if rows * self.capacity_for(max(needs)) > self._max_tokens:
                return None
        return slot

    @staticmethod
    def capacity_for(need: int) -> int:
        """Cache capacity of a slot for a row that needs `need` tokens, and one for what an idle slot writes.

        Up to an eighth more than needed: whenever it grows, all that is cached is copied.
        """
        return round_up(need + 1, max(STEP, 1 << (need // 8).bit_length() >> 1))

    def least_tokens(self, need: int) -> int:
        """Cache tokens taken by a row that needs `need` and has no neighbours."""
        return self._counts[0] * self.capacity_for(need)

    def compact(self) -> list[tuple[int, int]]:
        """Move rows down when a smaller row count would hold them all; returns the moves (from slot, to slot)."""
        moves: list[tuple[int, int]] = []
        target = self._count_for(max(self.active, 1))
        if target >= self.width:
            return moves
        free = iter([slot for slot in range(target) if self._rows[slot] is None])
        for slot in range(target, len(self._rows)):
            if (row := self._rows[slot]) is not None:
                to = next(free)
                self._rows[to], self._rows[slot] = row, None
                self._held[to] = self._held[slot]
                moves.append((slot, to))
        return moves

    def held(self, slot: int) -> int:
        """How many tokens of a prompt the cache holds in `slot`."""
        return len(self._held[slot] or ())

    def forget_idle(self, beyond: int = 0) -> None:
        """Of the slots that no row sits in, the cache no longer holds prompts of `beyond` tokens or more."""
        for slot, row in enumerate(self._rows):
            if row is None and self.held(slot) >= beyond:
                self._held[slot] = None

    def clear(self) -> None:
        """Drop all rows and all that slots hold."""
        self._rows = [None] * len(self._rows)
        self._held = [None] * len(self._held)
        self._waiting.clear()
