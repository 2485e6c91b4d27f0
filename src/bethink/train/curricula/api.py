"""What a trainer sees of a curriculum.

A curriculum knows problems by their indices alone: what they ask and how they are graded is left to others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Curriculum(Protocol):
    """Draws the problems of each step, and may learn from how they were solved.

    What is drawn follows from the constructor's arguments, the state and the arguments of `draw`, so that a run resumed from a saved
    state draws what it would have drawn uninterrupted. A problem stands twice in a step only where there are no others.
    """

    def draw(self, step: int, count: int, refill: int = 0) -> list[int]:
        """Indices of `count` problems for `step`.

        step: 0-based. count: the same at each step, while a refill may ask for fewer or more. refill: the how-manieth further draw of
        the same step (dynamic sampling), which gives other problems where there are any. Drawing the same again gives the same.
        """
        ...

    def observe(self, step: int, pass_rates: Mapping[int, float]) -> None:
        """What the step's problems were solved with: index → share of its counted completions that were correct, of both modes."""
        ...

    def metrics(self) -> dict[str, float | int]:
        """Where the curriculum stands, of the step drawn and observed last."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that draws and observations have changed, as JSON; later ones leave what was given here as it is."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises ConfigError for the state of another curriculum."""
        ...
