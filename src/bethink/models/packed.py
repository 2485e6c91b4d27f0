"""Causal attention inside the packed segments of a flat row, for training.

A row of T tokens holds many short samples. On a CPU in bfloat16 torch's own kernel is slow for a few hundred tokens (its backward pass
takes three to four times as long as the matrix products in it), so segments up to `SHORT` tokens go through plain batched products
(scores in float32) with their probabilities kept for the backward pass; query heads that share a key head are stacked into one product. Longer segments,
other number formats, other devices and sliding windows use torch's kernel, segment by segment.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

SHORT = 512

Causal = Callable[[Tensor, Tensor, Tensor, float, int | None], Tensor]


def packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: tuple[int, ...],
    scale: float,
    window: int | None,
    causal: Causal,
) -> Tensor:
    """Attention within each segment; query [1, heads, T, head size], key and value [1, KV heads, T, head size].

    causal: torch's kernel for one block of tokens. Returns [1, T, heads, head size].
    """
    longest = max(segments)
    plain = window is None or longest <= window
    if plain and longest <= SHORT and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        short: Tensor = _ShortSegments.apply(query, key, value, segments, scale)  # type: ignore[no-untyped-call]
        return short
    split = [tensor.split(segments, dim=2) for tensor in (query, key, value)]
    outputs = [causal(q, k, v, scale, window) for q, k, v in zip(*split, strict=True)]
    return torch.cat(outputs, dim=2).transpose(1, 2)


class _ShortSegments(torch.autograd.Function):
    """softmax(q k^T scale) v for each segment. H query heads in K groups of G; L tokens in the segment at hand."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: tuple[int, ...], scale: float
    ) -> Tensor:
        heads, groups = query.shape[1], key.shape[1]
        output_1THD = query.new_empty(1, query.shape[2], heads, query.shape[3])
        kept = []
        for start, end in pairwise(accumulate(segments, initial=0)):
            q_KMD = _stacked(query, start, end, groups)
            k_KLD, v_KLD = key[0, :, start:end], value[0, :, start:end]
            score_KML = torch.bmm(q_KMD.float(), k_KLD.float().transpose(1, 2))
            score_HLL = score_KML.view(heads, end - start, end - start)
            score_HLL.mul_(scale).add_(_future()[: end - start, : end - start])
            p_KML = score_HLL.softmax(-1).to(query.dtype).view_as(score_KML)
            output_HLD = torch.bmm(p_KML, v_KLD).view(heads, end - start, -1)
            output_1THD[0, start:end] = output_HLD.transpose(0, 1)
            kept.append(p_KML)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.segments, ctx.scale = segments, scale
        return output_1THD

    @staticmethod
    def backward(ctx: Any, grad_1THD: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        groups = key.shape[1]
        grads = [_like(tensor) for tensor in (query, key, value)]
        grad_1HTD = grad_1THD.transpose(1, 2)
        for (start, end), p_KML in zip(pairwise(accumulate(ctx.segments, initial=0)), kept, strict=True):
            q_KMD, g_KMD = (_stacked(tensor, start, end, groups) for tensor in (query, grad_1HTD))
            k_KLD, v_KLD = key[0, :, start:end], value[0, :, start:end]
            dp_KML = torch.bmm(g_KMD, v_KLD.transpose(1, 2)).float()
            p32_KML = p_KML.float()
            ds_KML = torch._softmax_backward_data(dp_KML, p32_KML, -1, torch.float32)
            ds_KML = ds_KML.mul_(ctx.scale).to(query.dtype)
            grads[0][0, :, start:end] = torch.bmm(ds_KML, k_KLD).view(-1, end - start, query.shape[3])
            grads[1][0, :, start:end] = torch.bmm(ds_KML.transpose(1, 2), q_KMD)
            grads[2][0, :, start:end] = torch.bmm(p_KML.transpose(1, 2), g_KMD)
        return (*grads, None, None)


def _stacked(tensor_1HTD: Tensor, start: int, end: int, groups: int) -> Tensor:
    """One segment's query heads, those of a key head below each other: [K, M, D] with M = G × L."""
    return tensor_1HTD[0, :, start:end].reshape(groups, -1, tensor_1HTD.shape[3])


def _like(tensor_1HTD: Tensor) -> Tensor:
    """Room for a gradient, laid out token by token like the projections that made the tensor."""
    _, heads, tokens, size = tensor_1HTD.shape
    return tensor_1HTD.new_empty(1, tokens, heads, size).transpose(1, 2)


@cache
def _future() -> Tensor:
    """Minus infinity where a key stands after its query [SHORT, SHORT]; its upper left corner serves every shorter length."""
    return torch.full((SHORT, SHORT), float("-inf")).triu_(1)
