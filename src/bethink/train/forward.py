"""The forward pass of every trainer: packed rows through the decoder, the head on completion positions only.

The vocabulary is wide (49,152 logits a token for a 135M model), so logits exist for one chunk of positions at a time: loss,
gradient with respect to the hidden states and, when the head is trained, to the head's weight are computed chunk by chunk in one
pass, and no [T, V] tensor is ever alive. Any loss that is a sum over tokens of a function of each token's log-probability fits:
cross-entropy here, clipped policy-gradient objectives elsewhere. Knows nothing of optimizers or data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from bethink.core.errors import ModelError
from bethink.train.batch import PackedBatch

CHUNK = 128

TokenLoss = Callable[[Tensor, slice], Tensor]
"""(logprob_C, which of the N positions) → loss_C; differentiable in logprob_C, element by element."""


@dataclass(frozen=True, slots=True)
class Forward:
    """loss: the sum over the batch's tokens, differentiable. logprob_N: each completion token's, detached, float32."""

    loss: Tensor
    logprob_N: Tensor


def forward(model: PreTrainedModel, batch: PackedBatch, token_loss: TokenLoss) -> Forward:
    """Loss sum and log-probabilities of the batch's completion tokens."""
    hidden_ND = hidden_states(model, batch)[batch.target_index_N - 1]
    head = model.get_output_embeddings()
    target_N = batch.token_ids_T[batch.target_index_N]
    weight_VD, bias_V = head.weight, head.bias
    if not torch.is_grad_enabled():  # a trained head would otherwise ask for its gradient in evaluation too
        weight_VD, bias_V = weight_VD.detach(), bias_V.detach() if bias_V is not None else None
    loss, logprob_N = _HeadLoss.apply(hidden_ND, weight_VD, bias_V, target_N, token_loss)  # type: ignore[no-untyped-call]
    return Forward(loss, logprob_N)


def hidden_states(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """The decoder's last hidden states of a packed row [T, D]; no token sees another segment."""
    output = model.get_decoder()(
        input_ids=batch.token_ids_T[None],
        position_ids=batch.position_ids_T[None],
        segments=batch.segments,
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state[0]
    return states


class _HeadLoss(torch.autograd.Function):
    """sum(token_loss(log_softmax(hidden W^T + b)[target])), gradients computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        token_loss: TokenLoss,
    ) -> tuple[Tensor, Tensor]:
        want_hidden, want_weight, want_bias = ctx.needs_input_grad[:3]
        count = len(target_N)
        loss = torch.zeros((), device=hidden_ND.device)
        logprob_N = torch.empty(count, device=hidden_ND.device)
        grad_hidden_ND = torch.empty_like(hidden_ND) if want_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if want_weight else None
        grad_bias_V = (
            torch.zeros_like(bias_V, dtype=torch.float32) if want_bias and bias_V is not None else None
        )
        for start in range(0, count, CHUNK):
            part = slice(start, min(start + CHUNK, count))
            hidden_CD, target_C1 = hidden_ND[part], target_N[part, None]
            work_CV = F.linear(hidden_CD, weight_VD, bias_V).float()
            chosen_C = work_CV.gather(1, target_C1)[:, 0]
            highest_C = work_CV.amax(1)
            work_CV.sub_(highest_C[:, None]).exp_()
            total_C = work_CV.sum(1)
            logprob_C = chosen_C - highest_C - total_C.log()
            logprob_N[part] = logprob_C
            if not (want_hidden or want_weight or want_bias):
                loss += token_loss(logprob_C, part).sum()
                continue
            with torch.enable_grad():
                leaf_C = logprob_C.requires_grad_()
                loss_C = token_loss(leaf_C, part)
                (grad_C,) = torch.autograd.grad(loss_C.sum(), leaf_C)
            loss += loss_C.detach().sum()
            # d logprob / d logits = onehot - softmax, written over the exponentials.
            work_CV.mul_((-grad_C / total_C)[:, None])
            work_CV.scatter_add_(1, target_C1, grad_C[:, None])
            grad_logits_CV = work_CV.to(weight_VD.dtype)
            if grad_hidden_ND is not None:
                grad_hidden_ND[part] = grad_logits_CV @ weight_VD
            if grad_weight_VD is not None:
                grad_weight_VD += grad_logits_CV.T @ hidden_CD
            if grad_bias_V is not None:
                grad_bias_V += work_CV.sum(0)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD, grad_bias_V)
        ctx.mark_non_differentiable(logprob_N)
        return loss, logprob_N

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if grad is None else grad * grad_loss.to(grad.dtype) for grad in ctx.saved_tensors)
        return (*scaled, None, None)


def prove_head(model: PreTrainedModel, tolerance: float = 0.02) -> None:
    """Check that decoder + head are all the model does: some models scale or cap their logits afterwards.

    Compares the log-probabilities of a few tokens with the model's own forward. Raises ModelError when they differ.
    """
    device = next(model.parameters()).device
    token_ids_T = torch.arange(8, device=device)
    batch = PackedBatch(
        token_ids_T, token_ids_T, (8,), token_ids_T[1:], torch.ones(7), torch.zeros(7, dtype=torch.bool), 8
    )
    with torch.no_grad():
        ours_N = forward(model, batch, lambda logprob_C, _: logprob_C).logprob_N
        logits_TV = model(
            input_ids=token_ids_T[None], position_ids=token_ids_T[None], segments=(8,), use_cache=False
        ).logits[0]
    theirs_N = logits_TV[:-1].float().log_softmax(-1).gather(1, token_ids_T[1:, None])[:, 0]
    if not torch.allclose(ours_N, theirs_N, rtol=tolerance, atol=tolerance):
        raise ModelError(
            f"{type(model).__name__} changes its logits after the head (scaling or capping), which this trainer does not do",
            fix="use a model whose logits are the head's output",
        )
