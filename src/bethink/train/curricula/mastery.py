"""Mastery gating: a level opens when the one before it is mastered.

Most problems of a step are of the newest open level, some rehearse those below. The moving pass rate of a level is the mean over the last
`window` problems of it, and is judged when that window is full of problems solved since the level was opened, or returned to.

- It reaches `threshold` on the newest level: the next one opens.
- It drops below `fall_back` on a level where it was higher: that level becomes the newest again, or, when it is the newest, the one below.
  The same when nothing at all is solved on the newest level: nothing can be learned there.

A level that begins hard is not closed for that: as long as some of its problems are solved it gives signal, more than most.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bethink.core.errors import ConfigError
from bethink.core.seeds import derive_seed
from bethink.train.curricula.draws import StepRecord, check_stamp, filled, walk


class Mastery:
    """Opens levels, the lowest first.

    levels: of each problem; any whole numbers, a higher one is harder. threshold, fall_back: moving pass rates; window: problems they are
    the mean of. rehearsal: the share of a step drawn from the open levels below the newest. Raises ConfigError when there are no problems,
    and for numbers that cannot be used.

    Within a level every problem is drawn once before any twice. Where a level has fewer problems than its share of a step, the others
    come from the open levels below.
    """

    def __init__(
        self,
        levels: Sequence[int],
        seed: int,
        threshold: float = 0.7,
        fall_back: float = 0.3,
        window: int = 32,
        rehearsal: float = 0.25,
    ) -> None:
        _check(levels, threshold, fall_back, window, rehearsal)
        self.levels = sorted(set(levels))
        self._rung = [self.levels.index(level) for level in levels]
        self._seed = seed
        self._threshold, self._fall_back = threshold, fall_back
        self._window, self._rehearsal = window, rehearsal
        self._orders = [self._order(rung) for rung in range(len(self.levels))]
        self._newest = 0
        self._recent: list[deque[float]] = [deque(maxlen=window) for _ in self.levels]
        self._held = [False] * len(self.levels)
        self._given = [0] * len(self.levels)
        self._record = StepRecord()
        self._stamp = {
            "curriculum": "mastery",
            "problems": len(levels),
            "levels": self.levels,
            "window": window,
            "seed": seed,
        }

    @property
    def level(self) -> int:
        """The newest open level."""
        return self.levels[self._newest]

    def draw(self, step: int, count: int, refill: int = 0) -> list[int]:
        if step != self._record.step:
            for index in self._record.drawn:
                self._given[self._rung[index]] += 1
        before = self._record.before(step, refill)
        rng = random.Random(derive_seed(self._seed, "mastery", step, refill))
        wanted = self._shares(count, rng)
        found: list[int] = []
        for rung in range(self._newest, -1, -1):
            found += self._next(rung, wanted[rung], before, found)
        for rung in range(self._newest, -1, -1):
            found += self._next(rung, count - len(found), before, found)
        rng.shuffle(found)
        return self._record.keep(step, refill, filled(found, count, [*before, *found]))

    def observe(self, step: int, pass_rates: Mapping[int, float]) -> None:
        """Move the pass rates of the levels on, and open the next level or fall back."""
        for index, rate in pass_rates.items():
            self._recent[self._rung[index]].append(rate)
        self._record.solve(pass_rates)
        self._judge()

    def metrics(self) -> dict[str, float | int]:
        """level: the newest open one; rate: the mean pass rate of the step's problems; rate_level_0: the moving pass rate of an open level."""
        moving = {
            f"rate_level_{self.levels[rung]}": round(fmean(self._recent[rung]), 4)
            for rung in range(self._newest + 1)
            if self._recent[rung]
        }
        return {"level": self.level, **self._record.metrics(), **moving}

    def state_dict(self) -> dict[str, Any]:
        return {
            **self._stamp,
            **self._record.state_dict(),
            "newest": self._newest,
            "recent": [list(rates) for rates in self._recent],
            "held": list(self._held),
            "given": list(self._given),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_stamp(state, self._stamp)
        self._record.load_state_dict(state)
        self._newest = state["newest"]
        self._recent = [deque(rates, maxlen=self._window) for rates in state["recent"]]
        self._held = list(state["held"])
        self._given = list(state["given"])

    def _order(self, rung: int) -> list[int]:
        order = [index for index, own in enumerate(self._rung) if own == rung]
        random.Random(derive_seed(self._seed, "level", self.levels[rung])).shuffle(order)
        return order

    def _shares(self, count: int, rng: random.Random) -> Counter[int]:
        """How many problems of each open level: `rehearsal` of them, in the mean, from those below the newest, each as likely."""
        below = int(count * self._rehearsal + rng.random()) if self._newest else 0
        wanted = Counter(rng.choices(range(self._newest), k=below)) if below else Counter[int]()
        wanted[self._newest] = count - below
        return wanted

    def _next(self, rung: int, count: int, before: Sequence[int], found: Sequence[int]) -> list[int]:
        """The next problems of a level that the step has not drawn yet."""
        start = self._given[rung] + sum(self._rung[index] == rung for index in before)
        return walk(self._orders[rung], start, count, {*before, *found})

    def _judge(self) -> None:
        """Open the next level, or fall back, as the moving pass rates say: one move at most."""
        for rung in range(self._newest + 1):
            if len(self._recent[rung]) < self._window:
                continue
            rate = fmean(self._recent[rung])
            newest = rung == self._newest
            if (self._held[rung] and rate < self._fall_back) or (newest and rate == 0):
                self._return_to(rung - 1 if newest else rung)
                return
            self._held[rung] = self._held[rung] or rate >= self._fall_back
            if newest and rate >= self._threshold and rung + 1 < len(self.levels):
                self._newest += 1
                self._forget(self._newest)

    def _return_to(self, rung: int) -> None:
        """Close the levels above `rung`, which must be mastered anew. There is nothing below the lowest."""
        if rung < 0:
            return
        for closed in range(rung, self._newest + 1):
            self._forget(closed)
        self._newest = rung

    def _forget(self, rung: int) -> None:
        self._recent[rung].clear()
        self._held[rung] = False


def _check(levels: Sequence[int], threshold: float, fall_back: float, window: int, rehearsal: float) -> None:
    if not levels:
        raise ConfigError("there are no problems to draw from")
    if not 0 <= fall_back < threshold <= 1:
        raise ConfigError(
            f"levels cannot open at a pass rate of {threshold:g} and fall back below {fall_back:g}",
            fix="both are from 0 to 1, and the one to open at is the higher",
        )
    if window < 1:
        raise ConfigError(f"a window of {window} problems", fix="at least one is needed")
    if not 0 <= rehearsal < 1:
        raise ConfigError(
            f"a share of {rehearsal:g} for rehearsal", fix="it is from 0 up to, not including, 1"
        )
