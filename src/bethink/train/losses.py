"""Losses as pure functions of tensors, one value a token. N: the completion tokens of one micro-batch."""

from __future__ import annotations

from torch import Tensor


def cross_entropy(logprob_N: Tensor, weight_N: Tensor) -> Tensor:
    """Supervised fine-tuning: minus the weighted log-probability of each completion token, in nats [N].

    The step's loss is the sum over all its micro-batches divided by the completion tokens of the whole optimizer step: the mean
    over tokens, not a mean of means.
    """
    return -logprob_N * weight_N
