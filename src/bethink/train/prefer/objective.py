"""The preference losses, made of the independent choices of `choices.py`: pure functions of the completions' scores.

A score is what a model says of a whole completion: its log-probability, or a reward model's value. Axes: P pairs, S completions, of which
2p is the chosen and 2p + 1 the rejected one of pair p.

A pair's loss depends on sums over all tokens of both completions, and its gradient reaches every token of one with the same factor. So the
scores are computed first and the factors from them; what is then summed over tokens (factor × log-probability) has the loss's gradient,
however the tokens are spread over rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bethink.train.prefer.choices import Comparison, Length, Objective


def differences(score_S: Tensor, length_S: Tensor, reference_S: Tensor | None, chosen: Objective) -> Tensor:
    """By how much more the chosen completion of each pair gained than the rejected one [P], in nats (a token, where lengths are meant).

    score_S: each completion's score; length_S: its tokens; reference_S: its score before training, None where there is no reference.
    """
    gain_S = score_S if reference_S is None else score_S - reference_S
    if chosen.length is Length.MEAN:
        gain_S = gain_S / length_S
    return gain_S[0::2] - gain_S[1::2]


def compared(difference_P: Tensor, kind: Comparison, beta: float) -> Tensor:
    """What each pair costs [P]; a larger difference never costs more, but where it is squared."""
    if kind is Comparison.SIGMOID:
        return -F.logsigmoid(beta * difference_P)
    if kind is Comparison.HINGE:
        return (1 - beta * difference_P).clamp(min=0)
    return (difference_P - 1 / (2 * beta)).square()


def pair_losses(score_S: Tensor, length_S: Tensor, reference_S: Tensor | None, chosen: Objective) -> Tensor:
    """The loss of each pair [P], differentiable in `score_S` (see `differences` for the arguments)."""
    difference_P = differences(score_S, length_S, reference_S, chosen)
    wanted, share = chosen.margin / chosen.beta, chosen.label_smoothing
    loss_P = compared(difference_P - wanted, chosen.comparison, chosen.beta)
    if share:
        swapped_P = compared(-difference_P - wanted, chosen.comparison, chosen.beta)
        loss_P = (1 - share) * loss_P + share * swapped_P
    if chosen.sft:
        loss_P = loss_P - chosen.sft * score_S[0::2] / length_S[0::2]
    return loss_P


def score_gradient(
    score_S: Tensor, length_S: Tensor, reference_S: Tensor | None, chosen: Objective
) -> Tensor:
    """How the sum of the pairs' losses changes with each score [S]: the factor of every token of the completion."""
    with torch.enable_grad():
        leaf_S = score_S.detach().requires_grad_()
        loss_P = pair_losses(leaf_S, length_S, reference_S, chosen)
        (gradient_S,) = torch.autograd.grad(loss_P.sum(), leaf_S)
    return gradient_S
