"""How much of a training step is computed again to save memory: the levels, what each keeps, and which one memory asks for.

Imports no torch, so that it serves plans too; checkpointing.py makes a model do it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Recompute(StrEnum):
    """What the backward pass computes again, from the least to the most; the more, the less memory."""

    NOTHING = "nothing"
    CHEAP = "cheap"
    """All but matrix products and attention."""
    ATTENTION = "attention"
    """All but matrix products."""
    LAYERS = "layers"
    """Everything between a layer's input and its output."""


def choose(asked: bool | None, needed: Callable[[Recompute], float], free: float) -> Recompute:
    """The least that makes training fit; everything if nothing does.

    asked: None lets memory decide, False repeats nothing, True something in any case. needed: bytes of training, of which `free`
    there are.
    """
    if asked is False:
        return Recompute.NOTHING
    levels = [level for level in Recompute if level is not Recompute.NOTHING or asked is None]
    return next((level for level in levels if needed(level) <= free), Recompute.LAYERS)


def kept_values(
    recompute: Recompute, *, layers: int, hidden: int, feed_forward: int, queries: int, keys: int
) -> int:
    """An estimate of the numbers that wait for the backward pass, for each token of a row.

    queries, keys: width of all heads together, and of all key heads. Without recomputation about 18 hidden and 5 feed-forward widths a
    layer; with it what the products gave, and everything of one layer, since the one being gone through backwards is there in full.
    """
    everything = 18 * hidden + 5 * feed_forward
    products = 4 * hidden + queries + 2 * keys + 2 * feed_forward
    if recompute is Recompute.NOTHING:
        return layers * everything
    kept = {
        Recompute.CHEAP: products + queries,
        Recompute.ATTENTION: products,
        Recompute.LAYERS: hidden,
    }[recompute]
    return layers * kept + everything
