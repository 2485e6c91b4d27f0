"""The distillation loss of a micro-batch: the student's logits beside the teacher's targets, one chunk of positions at a time.

As in every trainer the gradient is computed while a chunk's logits are there (train/head.py), so that of neither model the logits
of a whole row are ever alive. The loss of a token is temperature² · divergence, or of a row's token, where cross-entropy has a share,
(1 - share) · temperature² · divergence + share · cross-entropy. The square keeps gradients the same size at any temperature (Hinton et al.
2015, arXiv 1503.02531, section 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bethink.models.lora_layer import frozen_weights
from bethink.train.batch import PackedBatch
from bethink.train.distill.divergence import Divergence
from bethink.train.distill.target import TargetOf, distance
from bethink.train.forward import hidden_states
from bethink.train.head import chunked_loss, target_logprobs, target_logprobs_backward

UNHEARD = 1e-3
"""Below this probability a mode-seeking divergence hardly moves a token."""


@dataclass(frozen=True, slots=True)
class Objective:
    """divergence at a temperature, over the first `vocabulary` tokens; cross_entropy: its share of the loss of a row's token."""

    divergence: Divergence
    temperature: float
    cross_entropy: float
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Compared:
    """loss: the sum over the batch's tokens, differentiable. The rest is of each learned token, detached.

    loss_N, divergence_N: its loss, and the divergence in it; logprob_N: the student's log-probability of it; entropy_N: of the student's
    distribution, in nats; agrees_N: whether both models would choose the same token; unheard_N: whether the student has less than UNHEARD of
    its probability for the teacher's choice.
    """

    loss: Tensor
    loss_N: Tensor
    divergence_N: Tensor
    logprob_N: Tensor
    entropy_N: Tensor
    agrees_N: Tensor
    unheard_N: Tensor


def compare(
    model: PreTrainedModel, batch: PackedBatch, targets: TargetOf, objective: Objective, of_row_N: Tensor
) -> Compared:
    """The student `model` on a micro-batch. of_row_N: which learned tokens are a row's, not the student's own."""
    hidden_ND = hidden_states(model, batch).index_select(0, batch.predictor_index_N)
    head = frozen_weights([model.get_output_embeddings()])
    target_N = batch.token_ids_T[batch.target_index_N]
    loss_N, divergence_N, logprob_N, entropy_N, agrees_N, unheard_N = torch.empty(
        6, len(target_N), device=hidden_ND.device
    )
    share_N = of_row_N * objective.cross_entropy
    vocabulary, temperature = objective.vocabulary, objective.temperature

    def of_chunk(logits_CV: Tensor, part: slice, wanted: bool) -> tuple[Tensor, Tensor | None]:
        target, share_C = targets(part), share_N[part]
        logprob_C, entropy_C, log_total_C = target_logprobs(logits_CV, target_N[part], entropy=True)
        known_CV = logits_CV[:, :vocabulary]
        likeliest_C = target.likeliest
        agrees_N[part] = (known_CV.argmax(1) == likeliest_C).float()
        of_likeliest_C = known_CV.gather(1, likeliest_C[:, None])[:, 0] - log_total_C
        unheard_N[part] = (of_likeliest_C < math.log(UNHEARD)).float()
        divergence_C, grad_CV = distance(known_CV, target, objective.divergence, temperature)
        weight_C = (1 - share_C) * temperature**2
        loss_N[part] = weight_C * divergence_C - share_C * logprob_C
        divergence_N[part], logprob_N[part], entropy_N[part] = divergence_C, logprob_C, entropy_C
        if not wanted:
            return loss_N[part].sum(), None
        if objective.cross_entropy:
            whole_CV = target_logprobs_backward(logits_CV, target_N[part], log_total_C, -share_C)
        else:
            whole_CV = logits_CV.zero_()
        whole_CV[:, :vocabulary] += grad_CV.mul_(weight_C[:, None])
        return loss_N[part].sum(), whole_CV

    loss = chunked_loss(hidden_ND, head, of_chunk)
    return Compared(loss, loss_N, divergence_N, logprob_N, entropy_N, agrees_N, unheard_N)
