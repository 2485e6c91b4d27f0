"""How long a program may take: each question what a case may, and all of them what so many cases may together.

Both are bounded by the parent's clock and by the processor time that the kernel says the process has used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bethink.verify.code.cpu import seconds_used
from bethink.verify.code.sandbox import Limits

SHORTEST_WAIT = 0.02
"""Seconds until a program's processor time is looked at again."""


class TimeBounds:
    """The time of a program that is tried on `cases` cases; it runs from here on. process: None where the kernel does not say which it is."""

    def __init__(self, limits: Limits, cases: int, process: int | None) -> None:
        self._limits, self._process = limits, process
        self._begun = time.monotonic()
        self._whole = self._from_now(limits.shares(cases))
        self._bounds = [self._whole]

    @property
    def processor_seconds(self) -> float:
        """What the program may use at most."""
        return self._whole.shares * self._limits.seconds

    @property
    def passed(self) -> bool:
        """Whether so much time has gone by that its processor time may be used up."""
        return time.monotonic() - self._begun >= self.processor_seconds

    def next_question(self) -> None:
        """A case's time runs from here on."""
        self._bounds[1:] = [self._from_now(1)] if self._whole.shares > 1 else []

    def clock_left(self) -> float:
        """Seconds until the time is up by the clock."""
        return min(bound.clock for bound in self._bounds) - time.monotonic()

    def left(self) -> float:
        """Seconds until the time may be up. Raises TimeoutError when it is."""
        now, used = time.monotonic(), seconds_used(self._process)
        for bound in self._bounds:
            whole = " for all cases" if bound.shares > 1 else ""
            if used >= bound.processor:
                most = bound.shares * self._limits.seconds
                raise TimeoutError(f"more than {most:g} s of processor time{whole}")
            if now >= bound.clock:
                raise TimeoutError(f"more than {bound.shares * self._limits.clock:g} s by the clock{whole}")
        return min(
            min(bound.clock - now, max(bound.processor - used, SHORTEST_WAIT)) for bound in self._bounds
        )

    def _from_now(self, shares: int) -> _Bound:
        clock, processor = shares * self._limits.clock, shares * self._limits.seconds
        return _Bound(shares, time.monotonic() + clock, seconds_used(self._process) + processor)


@dataclass(frozen=True, slots=True)
class _Bound:
    """When the time of so many cases is up. clock: of the parent's; processor: of the process's own."""

    shares: int
    clock: float
    processor: float


def countdown(seconds: float) -> Callable[[], float]:
    """Gives the seconds that are left. Raises TimeoutError when none are."""
    until = time.monotonic() + seconds

    def left() -> float:
        if (still := until - time.monotonic()) > 0:
            return still
        raise TimeoutError("it did not answer")

    return left
