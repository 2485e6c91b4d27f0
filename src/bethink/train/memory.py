"""How much memory training takes, as arithmetic: of a model in memory (preflight.py) or one that is only planned with. Imports no torch."""

from __future__ import annotations

from bethink.models.recompute import Recompute, kept_values


def chunk_tokens(device: str) -> int:
    """How many completion positions have logits at a time (head.py): on a CPU what stays in its cache, elsewhere more, as the head's
    weight is read once for each."""
    return 128 if device == "cpu" else 1024


def training_memory(
    *,
    weights: int,
    trained: int,
    layers: int,
    hidden: int,
    feed_forward: int,
    queries: int,
    keys: int,
    vocabulary: int,
    number_bytes: int,
    row_tokens: int,
    recompute: Recompute,
    device: str,
) -> int:
    """An estimate of the bytes at the peak, with micro-batches of `row_tokens` tokens.

    weights: bytes of all parameters; trained: bytes of master, gradient and two moments of what is trained; queries, keys: width of all
    heads and of all key heads together; number_bytes: of a number that is computed with. Added are the activations that wait for the
    backward pass (`models.recompute`) and the logits of one chunk.
    """
    kept = kept_values(
        recompute, layers=layers, hidden=hidden, feed_forward=feed_forward, queries=queries, keys=keys
    )
    logits = chunk_tokens(device) * vocabulary * 12
    return weights + trained + kept * number_bytes * row_tokens + logits
