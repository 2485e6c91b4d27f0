"""Progressive batching: from easy problems to hard ones, by pass rates measured before training.

The source is Llama-Nemotron (arXiv 2505.00949, the section on reinforcement learning): problems the model solves in three of four tries
are dropped; the pass rates of each batch follow a Gaussian whose centre moves from easy to hard; places for which a pass rate has no
problems left are filled from the largest pools; a batch is shuffled.

What the report leaves open is decided so:

- Problems are pooled by pass rate in stretches of 0.05, and the Gaussian is normalised over the pools there are, so that a pool's share
  of a batch does not depend on how many problems it holds. A share that is no whole number is rounded up or down at random, right in the
  mean (systematic sampling).
- The centre moves in equal steps. The whole plan is made beforehand and depends on the arguments alone.
- Where the plan has more places than there are problems, a problem is drawn in as many passes as that takes, none in a pool a further
  time before all of it have had their turn. The centre still moves once from easy to hard, not once a pass.
- A refill draws from the same Gaussian, wherever its problems stand in the plan, which stays as it is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean
from typing import Any

from bethink.core.errors import ConfigError
from bethink.core.seeds import derive_seed
from bethink.train.curricula.draws import StepRecord, check_stamp, filled

POOLS = 20
"""Pools from pass rate 0 to 1, each 1 / POOLS wide."""


@dataclass(slots=True)
class Pool:
    """The problems of about one pass rate.

    number: its place among POOLS. rate: the mean of its problems' pass rates. order: their indices, in the order in which they are given,
    round and round. left: how many places they can still fill; given: how many they have filled.
    """

    number: int
    rate: float
    order: tuple[int, ...]
    left: int
    given: int = 0

    def take(self, count: int) -> list[int]:
        """The next `count`; different ones, as long as the pool has so many."""
        places = range(self.given, self.given + count)
        self.given += count
        self.left -= count
        return [self.order[place % len(self.order)] for place in places]


class Progressive:
    """A plan of `steps` batches of `per_step` problems.

    pass_rates: of each problem, in [0, 1]. start, end, width: where the Gaussian's centre begins and ends, and its standard deviation, as
    pass rates. drop: problems with this pass rate or a higher one are left out; `dropped` says how many were.
    plan: the indices of each step. Raises ConfigError when no problem is left, and for numbers that cannot be used.
    """

    def __init__(
        self,
        pass_rates: Sequence[float],
        steps: int,
        per_step: int,
        seed: int,
        start: float = 0.7,
        end: float = 0.1,
        width: float = 0.15,
        drop: float = 0.75,
    ) -> None:
        _check(pass_rates, steps, per_step, start, end, width, drop)
        self._rates = list(pass_rates)
        self._steps, self._seed = steps, seed
        self._start, self._end, self._width = start, end, width
        self._kept = [index for index, rate in enumerate(pass_rates) if rate < drop]
        self.drop, self.dropped = drop, len(pass_rates) - len(self._kept)
        if not self._kept:
            raise ConfigError(
                f"no problem is left: all {len(pass_rates):,} have a pass rate of {drop:g} or more",
                fix="take harder problems, or drop only those with a higher pass rate",
            )
        self._pools = self._pooled(places=steps * per_step)
        self._pool_of = {index: pool for pool in self._pools for index in pool.order}
        self.plan = [self._batch(step, per_step) for step in range(steps)]
        self._record = StepRecord()
        self._stamp = {
            "curriculum": "progressive",
            "problems": len(pass_rates),
            "seed": seed,
            "plan": derive_seed(*(index for batch in self.plan for index in batch)),
        }

    def centre(self, step: int) -> float:
        """The pass rate that step's Gaussian is centred on."""
        return self._start + (self._end - self._start) * step / max(self._steps - 1, 1)

    def draw(self, step: int, count: int, refill: int = 0) -> list[int]:
        if step >= self._steps:
            raise ConfigError(
                f"the curriculum is planned for {self._steps:,} steps, and step {step + 1:,} asks for problems",
                fix="plan it for all steps of the run",
            )
        before = self._record.before(step, refill)
        found = [] if refill else self.plan[step][:count]
        if len(found) < count:
            found = found + self._near(step, count - len(found), refill, avoid={*before, *found})
        return self._record.keep(step, refill, filled(found, count, [*before, *found]))

    def observe(self, step: int, pass_rates: Mapping[int, float]) -> None:
        self._record.solve(pass_rates)

    def metrics(self) -> dict[str, float | int]:
        """dropped: problems left out as too easy; target: the Gaussian's centre; offline_rate: the mean pass rate, measured before training, of the problems drawn; rate: their
        mean pass rate now; pool_25: how many of them are in the pool that begins at a pass rate of 25 %."""
        drawn = self._record.drawn
        if not drawn:
            return {}
        counts = {pool.number: 0 for pool in self._pools}
        for index in drawn:
            counts[self._pool_of[index].number] += 1
        return {
            "dropped": self.dropped,
            "target": round(self.centre(self._record.step), 4),
            "offline_rate": round(fmean(self._rates[index] for index in drawn), 4),
            **self._record.metrics(),
            **{f"pool_{100 * number // POOLS:02d}": count for number, count in counts.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        return {**self._stamp, **self._record.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_stamp(state, self._stamp)
        self._record.load_state_dict(state)

    def _pooled(self, places: int) -> list[Pool]:
        """The pools that hold problems, hard ones first, which together can fill `places`."""
        passes = -(-places // len(self._kept))
        members: dict[int, list[int]] = {}
        for index in self._kept:
            # The small number keeps 0.15 = 3 / 20, which is 2.9999999999999996 twentieths, out of the pool below.
            members.setdefault(min(int(self._rates[index] * POOLS + 1e-9), POOLS - 1), []).append(index)
        pools = []
        for number, indices in sorted(members.items()):
            rate = fmean(self._rates[index] for index in indices)
            random.Random(derive_seed(self._seed, "pool", number)).shuffle(indices)
            pools.append(Pool(number, rate, tuple(indices), left=passes * len(indices)))
        return pools

    def _batch(self, step: int, per_step: int) -> list[int]:
        """The next batch of the plan, taken out of the pools. Short of `per_step` only when there are fewer problems."""
        rng = random.Random(derive_seed(self._seed, "progressive", step))
        centre = self.centre(step)
        target = shares([pool.rate for pool in self._pools], centre, self._width, per_step, rng.random())
        counts = [
            min(count, pool.left, len(pool.order)) for pool, count in zip(self._pools, target, strict=True)
        ]
        for _ in range(per_step - sum(counts)):
            # (left over, how near, place): the largest pool, of equal ones the nearest.
            open_pools = [
                (pool.left - counts[place], -abs(pool.rate - centre), place)
                for place, pool in enumerate(self._pools)
                if counts[place] < min(pool.left, len(pool.order))
            ]
            if not open_pools:
                break
            counts[max(open_pools)[2]] += 1
        batch = [index for pool, count in zip(self._pools, counts, strict=True) for index in pool.take(count)]
        rng.shuffle(batch)
        return batch

    def _near(self, step: int, count: int, refill: int, avoid: Collection[int]) -> list[int]:
        """Up to `count` problems outside the plan's order: without replacement, each pool as likely as the step's Gaussian says.

        The largest of log weight + Gumbel noise are such a draw (Efraimidis and Spirakis 2006), however small the weights are.
        """
        rng = random.Random(derive_seed(self._seed, "refill", step, refill))
        centre = self.centre(step)
        keyed = []
        for index in self._kept:
            pool = self._pool_of[index]
            gumbel = -math.log(max(rng.expovariate(1.0), 1e-300))
            weight = -0.5 * ((pool.rate - centre) / self._width) ** 2 - math.log(len(pool.order))
            if index not in avoid:
                keyed.append((weight + gumbel, index))
        return [index for _, index in sorted(keyed, reverse=True)[:count]]


def shares(rates: Sequence[float], centre: float, width: float, count: int, offset: float) -> list[int]:
    """`count` places shared out over pools as a Gaussian over their pass rates says.

    Each share is rounded up or down; the mean over all offsets in [0, 1) is the exact share. They sum to `count`.
    """
    logs = [-0.5 * ((rate - centre) / width) ** 2 for rate in rates]
    heights = [math.exp(log - max(logs)) for log in logs]
    total = sum(heights)
    ends = [min(count, math.floor(count * reached / total + offset)) for reached in accumulate(heights)]
    ends[-1] = count
    return [end - begin for begin, end in pairwise([0, *ends])]


def _check(
    pass_rates: Sequence[float],
    steps: int,
    per_step: int,
    start: float,
    end: float,
    width: float,
    drop: float,
) -> None:
    if not pass_rates:
        raise ConfigError("there are no problems with pass rates to draw from")
    for index, rate in enumerate(pass_rates):
        if not 0 <= rate <= 1:
            raise ConfigError(f"problem {index} has a pass rate of {rate}", fix="pass rates are from 0 to 1")
    if steps < 1 or per_step < 1:
        raise ConfigError(
            f"a plan of {steps} steps of {per_step} problems", fix="at least one of each is needed"
        )
    if not 0 <= end <= start <= 1:
        raise ConfigError(
            f"the centre cannot move from {start:g} to {end:g}",
            fix="it moves from easy to hard: from a higher pass rate to a lower one, both from 0 to 1",
        )
    if not 0 < width < math.inf:
        raise ConfigError(f"the Gaussian cannot be {width:g} wide", fix="its width is a number above 0")
    if not 0 < drop <= 1:
        raise ConfigError(
            f"problems cannot be dropped from a pass rate of {drop:g} on",
            fix="it is above 0, at most 1: those that are always solved teach nothing",
        )
