"""The compiled operations as differentiable ones. Each keeps what its own backward pass reads and nothing that can be had again cheaply."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bethink.models.branches import Segment
from bethink.models.fused import operations
from bethink.models.fused.segments import segments_of


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last axis; x contiguous, x and weight of one dtype."""
    if torch.is_grad_enabled() and (x.requires_grad or weight_D.requires_grad):
        result: Tensor = _RMSNorm.apply(x, weight_D, eps)  # type: ignore[no-untyped-call]
        return result
    return operations.rms_norm(x, weight_D, eps)


def swiglu(both: Tensor) -> Tensor:
    """silu(gate) * up, of [..., gate | up], contiguous."""
    if torch.is_grad_enabled() and both.requires_grad:
        result: Tensor = _SwiGLU.apply(both)  # type: ignore[no-untyped-call]
        return result
    return operations.swiglu(both)


def packed_attention(
    joint_NC: Tensor,
    cos_NH: Tensor,
    sin_NH: Tensor,
    segments: tuple[Segment, ...],
    heads: tuple[int, int],
    scale: float,
    window: int | None,
) -> Tensor:
    """Rotary positions and causal attention within packed segments; [N, H * head size].

    joint: for each token its query heads, key heads and value heads side by side, contiguous; it is rotated IN PLACE, so nobody else may
    read it afterwards. heads: numbers of query heads and of key heads. Backward: Dao et al. 2022 (arXiv 2205.14135), section 3.1.
    """
    result: Tensor = _PackedAttention.apply(joint_NC, cos_NH, sin_NH, segments, heads, scale, window)  # type: ignore[no-untyped-call]
    return result


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        inverse = torch.empty(x.shape[:-1])
        ctx.save_for_backward(x, weight_D, inverse)
        return operations.rms_norm(x, weight_D, eps, inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_D, inverse = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = operations.rms_norm_backward(grad, x, weight_D, inverse) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            normed = (x.float() * inverse[..., None]).to(x.dtype)
            grad_weight = (grad.float() * normed.float()).flatten(0, -2).sum(0).to(weight_D.dtype)
        return grad_x, grad_weight, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        return operations.swiglu(both)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return operations.swiglu_backward(grad.contiguous(), *ctx.saved_tensors)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        joint_NC: Tensor,
        cos_NH: Tensor,
        sin_NH: Tensor,
        segments: tuple[Segment, ...],
        heads: tuple[int, int],
        scale: float,
        window: int | None,
    ) -> Tensor:
        tokens = len(joint_NC)
        operations.rotate_seen_(joint_NC, sum(heads), cos_NH, sin_NH)
        query, key, value = _split(joint_NC, heads)
        size = query.shape[2]
        out = joint_NC.new_empty(tokens, heads[0] * size)
        log_total_NH = torch.empty(tokens, heads[0])
        rows = segments_of(segments, joint_NC.stride(0))
        operations.attend(
            query,
            key,
            value,
            (joint_NC.stride(0), size),
            out.view(tokens, heads[0], size),
            rows,
            heads[1],
            scale,
            window,
            log_total_NH,
        )
        ctx.save_for_backward(joint_NC, cos_NH, sin_NH, log_total_NH)
        ctx.rows, ctx.heads, ctx.scale, ctx.window = rows, heads, scale, window
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        joint_NC, cos_NH, sin_NH, log_total_NH = ctx.saved_tensors
        grad_joint = torch.empty_like(joint_NC)
        qkv = _split(joint_NC, ctx.heads)
        shape = qkv[0].shape
        operations.attend_backward(
            qkv,
            grad.contiguous().view(shape),
            log_total_NH,
            _split(grad_joint, ctx.heads),
            ctx.rows,
            ctx.scale,
            ctx.window,
        )
        operations.rotate_(grad_joint, sum(ctx.heads), cos_NH, sin_NH, back=True)
        return grad_joint, None, None, None, None, None, None


def _split(joint_NC: Tensor, heads: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Views [N, H, D], [N, K, D] and [N, K, D] of the queries, keys and values."""
    count, groups = heads
    rows = joint_NC.view(len(joint_NC), count + 2 * groups, -1)
    return rows[:, :count], rows[:, count : count + groups], rows[:, count + groups :]
