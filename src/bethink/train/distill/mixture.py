"""What a step learns from: rows as they stand, and prompts that the student completes itself.

The prompts are those of some of the step's rows (their completions then are not looked at), or problems of their own beside the rows, or
problems alone. Which ones a step takes follows from the seed and the step's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from bethink.core.seeds import derive_seed
from bethink.train.curricula.shuffled import Shuffled
from bethink.train.distill.own import Asked
from bethink.train.schedule import Schedule
from bethink.train.token_store import TokenStore


@dataclass(frozen=True, slots=True)
class Draw:
    """One step's: rows by their number, and prompts."""

    rows: list[int]
    asked: list[Asked]


class Mixture:
    """share: of a step's samples, how many are the student's own; batch_size: samples of a step.

    rows, schedule: those to learn from and which a step takes, or None; problems: prompts beside the rows. Without rows `steps` says how
    long the run is.
    """

    def __init__(
        self,
        *,
        share: float,
        batch_size: int,
        seed: int,
        rows: TokenStore | None = None,
        schedule: Schedule | None = None,
        problems: Sequence[Asked] = (),
        steps: int | None = None,
    ) -> None:
        self._rows, self._schedule, self._problems = rows, schedule, problems
        self._share, self._seed = share, seed
        self._asked = split(batch_size, share)[1] if problems else 0
        self._shuffled = Shuffled(len(problems), seed) if problems else None
        self.steps = schedule.steps if schedule is not None else steps or 0

    def of(self, step: int) -> Draw:
        """What step `step` (0-based) learns from."""
        rows = self._schedule.of(step) if self._schedule is not None else []
        if self._shuffled is not None:
            drawn = self._shuffled.draw(step, self._asked)
            return Draw(rows, [self._problems[index] for index in drawn])
        if not self._share or self._rows is None:
            return Draw(rows, [])
        random = Random(derive_seed(self._seed, "on-policy", step))
        chosen = set(random.sample(range(len(rows)), split(len(rows), self._share)[1]))
        samples = [self._rows[row] for place, row in enumerate(rows) if place in chosen]
        return Draw(
            [row for place, row in enumerate(rows) if place not in chosen],
            [Asked(tuple(sample.prompt_ids.tolist()), sample.mode) for sample in samples],
        )

    def seen(self, steps: int) -> int:
        """Samples seen after `steps` steps."""
        rows = self._schedule.seen(steps) if self._schedule is not None else 0
        return rows + steps * self._asked

    def epoch(self, steps: int) -> float:
        """Passes over the rows after `steps` steps; 0 where there are none."""
        if self._schedule is None:
            return 0.0
        return round(self._schedule.seen(steps) / self._schedule.pass_rows, 6)


def split(count: int, share: float) -> tuple[int, int]:
    """`count` samples as (rows, the student's own); where both are wanted, both get at least one, if there are two."""
    own = round(count * share)
    if 0 < share < 1 and count > 1:
        own = min(max(own, 1), count - 1)
    return count - own, own
