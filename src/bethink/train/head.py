"""The output head of a training step: the loss of the learned tokens and the gradients behind it, in one pass.

The vocabulary is wide (49,152 logits a token for a 135M model), so logits exist for one chunk of positions at a time: loss,
gradient with respect to the hidden states and, when the head is trained, to the head's weight are computed chunk by chunk, and no [T, V]
tensor is ever alive. Any loss that is a sum over positions of a function of each position's logits fits (`chunked_loss`); most are functions
of the token's log-probability alone (`head_loss`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bethink.models.fused import operations
from bethink.models.lora_product import FrozenWeights
from bethink.train.memory import chunk_tokens

TokenLoss = Callable[[Tensor, slice], Tensor]
"""(logprob_C, which of the N positions) → loss_C; differentiable in logprob_C, element by element."""

ChunkLoss = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor | None]]
"""(logits_CV, which of the N positions, whether the gradient is wanted) → the chunk's loss sum, and its gradient [C, V] if wanted.

Computed without autograd; the gradient is of the logits' dtype and may be written over them."""


def head_loss(
    hidden_ND: Tensor, head: FrozenWeights, target_N: Tensor, token_loss: TokenLoss, *, entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """sum(token_loss(log_softmax(hidden W^T + b)[target])), differentiable; each log-probability; each entropy if asked for.

    hidden_ND, head: see `chunked_loss`.
    """
    logprob_N = torch.empty(len(target_N), device=hidden_ND.device)
    entropy_N = torch.empty(len(target_N), device=hidden_ND.device) if entropy else None

    def of_chunk(logits_CV: Tensor, part: slice, wanted: bool) -> tuple[Tensor, Tensor | None]:
        target_C = target_N[part]
        logprob_C, entropy_C, log_total_C = target_logprobs(logits_CV, target_C, entropy=entropy)
        logprob_N[part] = logprob_C
        if entropy_N is not None and entropy_C is not None:
            entropy_N[part] = entropy_C
        if not wanted:
            return token_loss(logprob_C, part).sum(), None
        with torch.enable_grad():
            leaf_C = logprob_C.requires_grad_()
            loss_C = token_loss(leaf_C, part)
            (grad_C,) = torch.autograd.grad(loss_C.sum(), leaf_C)
        return loss_C.detach().sum(), target_logprobs_backward(logits_CV, target_C, log_total_C, grad_C)

    return chunked_loss(hidden_ND, head, of_chunk), logprob_N, entropy_N


def chunked_loss(hidden_ND: Tensor, head: FrozenWeights, chunk_loss: ChunkLoss) -> Tensor:
    """The sum of `chunk_loss` over the logits hidden W^T + b of all chunks of positions, differentiable.

    hidden_ND: of the head's dtype. head: its weight [V, D] and bias [V]; gradients reach them where they ask for it.
    """
    weight_VD, bias_V = head.weights[0], head.biases[0]
    if not torch.is_grad_enabled():  # a trained head would otherwise ask for its gradient in evaluation too
        weight_VD, bias_V = weight_VD.detach(), bias_V.detach() if bias_V is not None else None
    loss: Tensor = _ChunkedLoss.apply(hidden_ND, weight_VD, bias_V, head, chunk_loss)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedLoss(torch.autograd.Function):
    """The gradients are computed in the forward pass, while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        head: FrozenWeights,
        chunk_loss: ChunkLoss,
    ) -> Tensor:
        want_hidden, want_weight, want_bias = ctx.needs_input_grad[:3]
        wanted = want_hidden or want_weight or want_bias
        count, device = len(hidden_ND), hidden_ND.device
        total = torch.zeros((), device=device)
        grad_hidden_ND = torch.empty_like(hidden_ND) if want_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if want_weight else None
        grad_bias_V = (
            torch.zeros_like(bias_V, dtype=torch.float32) if want_bias and bias_V is not None else None
        )
        chunk = chunk_tokens(device.type)
        for start in range(0, count, chunk):
            part = slice(start, min(start + chunk, count))
            hidden_CD = hidden_ND[part]
            loss, grad_logits_CV = chunk_loss(head.product(hidden_CD), part, wanted)
            total += loss
            if grad_logits_CV is None:
                continue
            if grad_hidden_ND is not None:
                grad_hidden_ND[part] = head.transposed_product(grad_logits_CV)
            if grad_weight_VD is not None:
                grad_weight_VD += grad_logits_CV.T @ hidden_CD
            if grad_bias_V is not None:
                grad_bias_V += grad_logits_CV.sum(0, dtype=torch.float32)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD, grad_bias_V)
        return total

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if grad is None else grad * grad_loss.to(grad.dtype) for grad in ctx.saved_tensors)
        return (*scaled, None, None)


def target_logprobs(
    logits_CV: Tensor, target_C: Tensor, *, entropy: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Log-probability of each target, entropy if asked for, and the log of the sum of e^logit; float32 [C] each."""
    if operations.usable(logits_CV, logits_CV.shape[1]):
        logprob_C, log_total_C, entropy_C = operations.log_softmax(logits_CV, target_C, entropy=entropy)
        return logprob_C, entropy_C, log_total_C
    work_CV = logits_CV.float()
    log_total_C = work_CV.amax(1)
    log_total_C = log_total_C + (work_CV - log_total_C[:, None]).exp_().sum(1).log_()
    logprob_C = work_CV.gather(1, target_C[:, None])[:, 0] - log_total_C
    if not entropy:
        return logprob_C, None, log_total_C
    logprob_CV = work_CV - log_total_C[:, None]
    return logprob_C, -(logprob_CV.exp() * logprob_CV).sum(1), log_total_C


def target_logprobs_backward(
    logits_CV: Tensor, target_C: Tensor, log_total_C: Tensor, grad_C: Tensor
) -> Tensor:
    """d loss / d logits = grad (onehot - softmax); may be written over the logits."""
    if operations.usable(logits_CV, logits_CV.shape[1]):
        operations.log_softmax_backward_(logits_CV, target_C, log_total_C, grad_C.contiguous())
        return logits_CV
    work_CV = (logits_CV.float() - log_total_C[:, None]).exp_().mul_(-grad_C[:, None])
    work_CV.scatter_add_(1, target_C[:, None], grad_C[:, None])
    return work_CV.to(logits_CV.dtype)
