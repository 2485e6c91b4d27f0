"""What "thinking on" and "off" mean, and every way a client can say it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """Whether the model thinks before it answers."""

    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class ThinkFormat:
    """How a model marks its thinking. The tags are data, so that models with other tags need no code."""

    open: str = "<think>"
    close: str = "</think>"


DEFAULT_FORMAT = ThinkFormat()
