"""Adapted linear layers of one input as one differentiable operation.

Plain autograd computes the layer and the adapter as separate tensors and adds them, forward and backward: [T, out] and [T, in] sums
that cost more than the thin products themselves. Here the thin products are accumulated into the wide ones' outputs, and the
gradient of the frozen weight is never asked for. Layers that read the same input (queries, keys and values; gate and up) are
computed together: their weights and their A stand below each other, their B along a diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bethink.models import blocks
from bethink.models.fused import operations


class FrozenWeights:
    """The frozen weights [out, in] and biases [out] of layers that read one input.

    `rearrange` keeps copies in the matrix library's blocks, for both directions: twice the weights' memory for a twentieth of a step.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        self.weights, self.biases = tuple(weights), tuple(biases)
        self._made_of = _identity(weights)
        self._forward: Tensor | None = None
        self._backward: Tensor | None = None
        self._bias: Tensor | None = None

    def of(self, weights: Sequence[Tensor]) -> bool:
        """Whether these are the weights, unchanged."""
        return self._made_of == _identity(weights)

    def rearrange(self) -> None:
        """Make the copies."""
        joint = torch.cat(self.weights)
        self._forward, self._backward = blocks.rearranged(joint), blocks.rearranged(joint.T)
        self._bias = blocks.joint_bias(self.weights, self.biases)

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> the layers' outputs side by side [..., sum of out]."""
        if self._forward is not None:
            return blocks.product(x, self._forward, self._bias)
        parts: list[Tensor] = [F.linear(x, *layer) for layer in zip(self.weights, self.biases, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def transposed_product(self, grad_NO: Tensor) -> Tensor:
        """The gradient with respect to x [N, in] from that of the outputs [N, sum of out]."""
        if self._backward is not None:
            return blocks.product(grad_NO, self._backward)
        parts = grad_NO.split([len(weight) for weight in self.weights], dim=1)
        total: Tensor = parts[0] @ self.weights[0]
        for part, weight in zip(parts[1:], self.weights[1:], strict=True):
            total.addmm_(part, weight)
        return total


def _identity(weights: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((weight.data_ptr(), weight._version) for weight in weights)


def adapted_product(
    x: Tensor, frozen: FrozenWeights, adapters: Sequence[tuple[Tensor, Tensor]], scales: Sequence[float]
) -> Tensor:
    """x W^T + bias + scale · (x A^T) B^T for each layer, side by side [..., sum of out]; a new tensor.

    x [..., in] is of the frozen weights' dtype; each A [rank, in] and B [out, rank] is float32 and is cast to it.
    """
    each_a, each_b = zip(*adapters, strict=True)
    compiled = operations.usable_products(x, x.shape[-1], *map(len, each_b)) and all(
        tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in (*each_a, *each_b)
    )
    product = _CompiledProduct if compiled else _AdaptedProduct
    # Flattened out here: what the function returns is then a tensor of its own, which may be worked on in place.
    y: Tensor = product.apply(x.reshape(-1, x.shape[-1]), frozen, list(scales), *each_a, *each_b)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


class _CompiledProduct(torch.autograd.Function):
    """N: rows; I: in; O, R: sums of out and of ranks. The adapters' part, joined and cast on the way, in one call each way."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, frozen: FrozenWeights, scales: list[float], *flat: Tensor) -> Tensor:
        each_a, each_b = list(flat[: len(scales)]), list(flat[len(scales) :])
        x_NI = _rows(x_NI)
        y_NO = frozen.product(x_NI)
        inner_NR = operations.adapt_seen_(x_NI, y_NO, each_a, each_b, scales)
        ctx.save_for_backward(x_NI, inner_NR, *flat)
        ctx.frozen, ctx.scales = frozen, scales
        return y_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, inner_NR, *flat = ctx.saved_tensors
        each_a, each_b = flat[: len(ctx.scales)], flat[len(ctx.scales) :]
        grad_NO = _rows(grad_NO)
        grad_x_NI = ctx.frozen.transposed_product(grad_NO) if ctx.needs_input_grad[0] else None
        grads_a, grads_b = operations.adapt_backward(
            x_NI, inner_NR, grad_NO, each_a, each_b, ctx.scales, grad_x_NI
        )
        return (grad_x_NI, None, None, *grads_a, *grads_b)


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class _AdaptedProduct(torch.autograd.Function):
    """The same in torch's own operations: the layers' A below each other, their B along a diagonal."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, frozen: FrozenWeights, scales: list[float], *flat: Tensor) -> Tensor:
        each_a, each_b = flat[: len(scales)], flat[len(scales) :]
        a_RI = (each_a[0] if len(each_a) == 1 else torch.cat(each_a)).to(x_NI.dtype)
        b_OR = _diagonal(each_b, scales, x_NI.dtype)
        inner_NR = x_NI @ a_RI.T
        y_NO = frozen.product(x_NI)
        y_NO.addmm_(inner_NR, b_OR.T)
        ctx.save_for_backward(x_NI, inner_NR, a_RI, b_OR)
        ctx.frozen, ctx.scales = frozen, scales
        ctx.ranks, ctx.outs = [len(a) for a in each_a], [len(b) for b in each_b]
        return y_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, inner_NR, a_RI, b_OR = ctx.saved_tensors
        grad_inner_NR = grad_NO @ b_OR
        grad_x_NI = None
        if ctx.needs_input_grad[0]:
            grad_x_NI = ctx.frozen.transposed_product(grad_NO)
            grad_x_NI.addmm_(grad_inner_NR, a_RI)
        grads_a = (grad_inner_NR.T @ x_NI).float().split(ctx.ranks)
        grad_b_OR = grad_NO.T @ inner_NR
        grads_b: list[Tensor] = []
        out = rank = 0
        for index, scale in enumerate(ctx.scales):
            block = grad_b_OR[out : out + ctx.outs[index], rank : rank + ctx.ranks[index]]
            grads_b.append(block.float().mul_(scale))
            out, rank = out + ctx.outs[index], rank + ctx.ranks[index]
        return (grad_x_NI, None, None, *grads_a, *grads_b)


def _diagonal(each_b: Sequence[Tensor], scales: Sequence[float], dtype: torch.dtype) -> Tensor:
    """The scaled B of each layer along the diagonal [sum of out, sum of ranks]."""
    scaled = [(b * scale).to(dtype) for b, scale in zip(each_b, scales, strict=True)]
    return scaled[0] if len(scaled) == 1 else torch.block_diag(*scaled)
