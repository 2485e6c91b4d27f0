"""Numbers as texts."""

from __future__ import annotations

from decimal import Decimal


def decimal_text(number: int | float) -> str:
    """A number in plain digits, the fewest that mean it: 0.00001, never 1e-05. NaN and infinities are "NaN" and "Infinity"."""
    return str(number) if isinstance(number, int) else format(Decimal(repr(number)), "f")
