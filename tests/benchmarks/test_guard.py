"""A ratio has fallen only when it stays down: what disturbs a machine passes."""

from collections.abc import Callable
from pathlib import Path


def measuring(*values: float) -> tuple[Callable[[Path], dict[str, float]], list[float]]:
    left = list(values)
    return lambda scratch: {"ratio": left.pop(0)}, left


def test_a_ratio_that_recovers_has_not_fallen(tmp_path: Path) -> None:
    from guard import compared

    measure, left = measuring(0.5, 0.98, 0.5)
    assert compared(measure, str(tmp_path), {"ratio": 1.0}) == []
    assert left == [0.5]


def test_a_ratio_that_stays_down_has_fallen(tmp_path: Path) -> None:
    from guard import compared

    assert compared(measuring(0.84, 0.8, 0.5)[0], str(tmp_path), {"ratio": 1.0}) == ["ratio"]
    assert compared(measuring(0.86)[0], str(tmp_path), {"ratio": 1.0}) == []


def test_the_recorded_value_is_the_median(tmp_path: Path) -> None:
    from guard import recorded

    assert recorded(measuring(0.9, 0.2, 0.7)[0], str(tmp_path)) == {"ratio": 0.7}
