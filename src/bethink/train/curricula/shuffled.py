"""No curriculum: all problems alike, every one once before any twice, in a new order each pass.

The passes follow one another in one endless stream; step s of n problems takes places s·n to s·n + n of it, so the stream needs no
position to be kept. A refill takes from the same stream, but half a pass ahead of its step: those problems were not drawn lately and are
not due soon, those of one step's refills are hardly those of the next one's, and since nothing moves, later steps draw what they would
have drawn.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from bethink.core.errors import ConfigError
from bethink.core.seeds import derive_seed
from bethink.train.curricula.draws import StepRecord, check_stamp, filled, walk


class Shuffled:
    """Problems 0 to size − 1. Raises ConfigError when there are none."""

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ConfigError("there are no problems to draw from")
        self._size = size
        self._seed = seed
        self._record = StepRecord()
        self._per_step = 0
        self._orders: list[list[int]] = []
        self._stamp = {"curriculum": "shuffled", "problems": size, "seed": seed}

    def draw(self, step: int, count: int, refill: int = 0) -> list[int]:
        before = self._record.before(step, refill)
        if refill == 0 or not before:
            return self._record.keep(step, refill, self._stretch(step * count, count, per_step=count))
        per_step = len(self._record.draws[0])
        # Two passes' worth of places hold a whole pass, so every problem is among them.
        ahead = self._stretch(step * per_step + self._size // 2, 2 * self._size, per_step=per_step)
        others = walk(ahead, 0, count, before)
        return self._record.keep(step, refill, filled(others, count, before))

    def observe(self, step: int, pass_rates: Mapping[int, float]) -> None:
        self._record.solve(pass_rates)

    def metrics(self) -> dict[str, float | int]:
        """passes: how often every problem has had its turn, refills not counted."""
        places = (self._record.step + 1) * len(self._record.draws[0]) if self._record.draws else 0
        return {"passes": round(places / self._size, 4), **self._record.metrics()}

    def state_dict(self) -> dict[str, Any]:
        return {**self._stamp, **self._record.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_stamp(state, self._stamp)
        self._record.load_state_dict(state)

    def _stretch(self, start: int, length: int, *, per_step: int) -> list[int]:
        """The problems at some places of the stream."""
        if per_step != self._per_step:
            self._per_step, self._orders = per_step, []
        while len(self._orders) * self._size < start + length:
            self._orders.append(self._next_order())
        return [
            self._orders[place // self._size][place % self._size] for place in range(start, start + length)
        ]

    def _next_order(self) -> list[int]:
        """The order of the pass after those known. Where a step begins in one pass and ends in the next, the problems it has from the
        first move back in the second, so that none stands twice in it."""
        number = len(self._orders)
        order = list(range(self._size))
        random.Random(derive_seed(self._seed, "shuffled", number)).shuffle(order)
        begun = number * self._size % self._per_step
        if not begun or self._per_step > self._size:
            return order
        step_so_far = set(self._orders[-1][-begun:])
        first = walk(order, 0, self._per_step - begun, step_so_far)
        return first + walk(order, 0, self._size, first)
