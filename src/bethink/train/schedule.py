"""Which rows an optimizer step takes, when rows are taken in their order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which rows an optimizer step takes: consecutive ones, starting again at the first after the last.

    rows: how many there are; batch_size: samples a step; samples: in the whole run; pass_rows: rows in a whole pass over the data, more
    than `rows` when the run is too short to need them all. When the length is given in steps every batch is
    full; when it is given in epochs the last one holds what is left. A batch never holds a row twice.
    """

    rows: int
    batch_size: int
    samples: int
    pass_rows: int

    @classmethod
    def plan(
        cls, rows: int, batch_size: int, steps: int | None, epochs: float, pass_rows: int | None = None
    ) -> Schedule:
        """`steps` wins over `epochs`; the batch shrinks to the number of rows where there are fewer."""
        size, whole = min(batch_size, rows), pass_rows or rows
        return cls(rows, size, steps * size if steps is not None else max(1, round(epochs * whole)), whole)

    @property
    def steps(self) -> int:
        """Optimizer steps in the run."""
        return -(-self.samples // self.batch_size)

    def of(self, step: int) -> list[int]:
        """The rows of optimizer step `step` (0-based)."""
        return [i % self.rows for i in range(step * self.batch_size, self.seen(step + 1))]

    def seen(self, steps: int) -> int:
        """Samples seen after `steps` steps."""
        return min(steps * self.batch_size, self.samples)
