"""The adapted linear layer as one differentiable operation.

Plain autograd computes the layer and the adapter as separate tensors and adds them, forward and backward: [T, out] and [T, in] sums
that cost more than the thin products themselves. Here the thin products are accumulated into the wide ones' outputs, and the
gradient of the frozen weight is never asked for. A tenth of a training step on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def adapted_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, lora_a: Tensor, lora_b: Tensor, scale: float
) -> Tensor:
    """x W^T + bias + scale · (x A^T) B^T.

    x [..., in] and the frozen weight [out, in] are of one dtype; A [rank, in] and B [out, rank] are float32 and are cast to it.
    """
    result: Tensor = _AdaptedLinear.apply(x, weight, bias, lora_a, lora_b, scale)  # type: ignore[no-untyped-call]
    return result


class _AdaptedLinear(torch.autograd.Function):
    """N: all axes of x but the last, flattened; I, O: in and out; R: rank."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        lora_a: Tensor,
        lora_b: Tensor,
        scale: float,
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        a_RI, b_OR = lora_a.to(x.dtype), (lora_b * scale).to(x.dtype)
        inner_NR = x_NI @ a_RI.T
        y_NO = F.linear(x_NI, weight_OI, bias_O)
        y_NO.addmm_(inner_NR, b_OR.T)
        ctx.save_for_backward(x_NI, inner_NR, weight_OI, a_RI, b_OR)
        ctx.shape, ctx.scale = x.shape, scale
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, inner_NR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        grad_NO = grad.reshape(-1, grad.shape[-1])
        grad_inner_NR = grad_NO @ b_OR
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x_NI = grad_NO @ weight_OI
            grad_x = grad_x_NI.addmm_(grad_inner_NR, a_RI).view(ctx.shape)
        grad_a_RI = (grad_inner_NR.T @ x_NI).float()
        grad_b_OR = (grad_NO.T @ inner_NR).float() * ctx.scale
        return grad_x, None, None, grad_a_RI, grad_b_OR, None
