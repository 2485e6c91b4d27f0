"""The next step's problems, drawn and rendered in a thread while this step's updates compute.

What a step asks follows from the curriculum's state after the step before, so nothing is guessed. The curriculum then stands at the next
step already: what this step says of it and saves is taken before.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bethink.train.curricula.api import Curriculum
from bethink.train.rl.rollouts import Asked, Sampler


class Ahead:
    """Draws from the curriculum, one step ahead. steps: of the run, after which nothing is drawn; count: problems of a step.

    metrics, state: the curriculum's as the step that was settled last left it.
    """

    def __init__(self, sampler: Sampler, curriculum: Curriculum, *, count: int, steps: int) -> None:
        self._sampler, self._curriculum, self._count, self._steps = sampler, curriculum, count, steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="next-step")
        self._next: tuple[int, Future[Asked]] | None = None
        self.metrics: dict[str, float | int] = {}
        self.state: dict[str, Any] = curriculum.state_dict()

    def take(self, step: int) -> Asked:
        """What `step` (0-based) asks: prepared, or made now. Raises what drawing and rendering raise."""
        prepared, self._next = self._next, None
        if prepared is not None and prepared[0] == step:
            return prepared[1].result()
        return self._ask(step)

    def settle(self, step: int, pass_rates: Mapping[int, float]) -> None:
        """Tell the curriculum how `step` went, keep how it stands, and begin with the next step."""
        self._curriculum.observe(step, pass_rates)
        self.metrics, self.state = self._curriculum.metrics(), self._curriculum.state_dict()
        if step + 1 < self._steps:
            self._next = step + 1, self._thread.submit(self._ask, step + 1)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._curriculum.load_state_dict(state)
        self.state = dict(state)

    def _ask(self, step: int) -> Asked:
        return self._sampler.ask(step, self._curriculum.draw(step, self._count))
