"""What a low-rank adapter is made of: which layers it is on, and how large it is.

Knows no tensors: torch is not imported, so that settings are checked before anything slow happens.
"""

from __future__ import annotations

import math
import re

from pydantic import Field, field_validator

from bethink.core.config import StrictModel

ALL_LINEAR = "all-linear"


class LoRAConfig(StrictModel):
    """Which layers get an adapter, and how large.

    rank:    r, the inner width of the product.
    alpha:   the product is scaled by alpha / rank (alpha / sqrt(rank) when rslora).
    dropout: share of the adapter's input zeroed while training.
    targets: "all-linear" (every linear layer but the output head); a tuple of names, each a module's full name or its end at a
             dot ("q_proj"); or one string, a regular expression that must match the full name.
    """

    rank: int = Field(64, ge=1)
    alpha: float = Field(128.0, gt=0, allow_inf_nan=False)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = ALL_LINEAR
    rslora: bool = False

    @field_validator("targets")
    @classmethod
    def _usable(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not targets:
            raise ValueError("name at least one layer, or say all-linear")
        return expression(targets) if isinstance(targets, str) else targets

    @property
    def scale(self) -> float:
        """The factor the product is multiplied by."""
        return scale_of(self.alpha, self.rank, rslora=self.rslora)


def expression(text: str) -> str:
    """`text`, a regular expression. Raises ValueError for one that is none."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


def scale_of(alpha: float, rank: int, *, rslora: bool) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised adapters."""
    return alpha / (math.sqrt(rank) if rslora else rank)
