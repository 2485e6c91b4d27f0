"""What the curricula share: the record of a step's draws, walking an order round and round, and the check of a saved state."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain, cycle, islice
from statistics import fmean
from typing import Any

from bethink.core.errors import ConfigError


class StepRecord:
    """What the current step has drawn, draw by draw, so that its further draws give others; and how it was solved."""

    def __init__(self) -> None:
        self.step = -1
        self.draws: list[list[int]] = []
        self.solved: float | None = None

    @property
    def drawn(self) -> list[int]:
        """All problems of the step so far."""
        return list(chain.from_iterable(self.draws))

    def before(self, step: int, refill: int) -> list[int]:
        """What the draws of `step` before the `refill`-th gave; nothing when it is another step that is kept."""
        return list(chain.from_iterable(self.draws[:refill])) if step == self.step else []

    def keep(self, step: int, refill: int, indices: Sequence[int]) -> list[int]:
        """Note what a draw gave, and give it back; later draws of the step are forgotten, as are those of another step."""
        if step != self.step:
            self.step, self.draws, self.solved = step, [], None
        missing: list[list[int]] = [[] for _ in range(refill - len(self.draws))]
        self.draws = [*self.draws[:refill], *missing, list(indices)]
        return list(indices)

    def solve(self, pass_rates: Mapping[int, float]) -> None:
        """Note the mean pass rate of the problems that were solved or not."""
        if pass_rates:
            self.solved = fmean(pass_rates.values())

    def metrics(self) -> dict[str, float | int]:
        """rate: the mean pass rate of the step's problems, once it is known."""
        return {} if self.solved is None else {"rate": round(self.solved, 4)}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "draws": self.draws, "solved": self.solved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.solved = state["step"], state["solved"]
        self.draws = [list(draw) for draw in state["draws"]]


def walk(order: Sequence[int], start: int, count: int, avoid: Collection[int]) -> list[int]:
    """Up to `count` of `order`, read round and round from place `start`: each once, and none of `avoid`."""
    found: list[int] = []
    seen = set(avoid)
    for place in range(start, start + len(order)):
        if len(found) == count:
            break
        index = order[place % len(order)]
        if index not in seen:
            seen.add(index)
            found.append(index)
    return found


def filled(found: Sequence[int], count: int, again: Sequence[int]) -> list[int]:
    """`found`, and what it is short of `count` from `again`, over and over: for a step that has drawn all there is."""
    return [*found, *islice(cycle(again), count - len(found))]


def check_stamp(state: Mapping[str, Any], stamp: Mapping[str, Any]) -> None:
    """A curriculum goes on from its own state only. stamp: what both must have in common. Raises ConfigError."""
    for name, value in stamp.items():
        if state.get(name) != value:
            raise ConfigError(
                f"the saved state is of another curriculum: its {name.replace('_', ' ')} was {state.get(name)!r}, now it is {value!r}",
                fix="resume with the settings and the problems that the run was started with",
            )
