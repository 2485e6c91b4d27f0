"""Attention over packed segments equals attention over each segment alone, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bethink.models.attention import attention

_SEGMENTS = (1, 37, 2, 90, 14)


def _inputs(heads: int, groups: int, dtype: torch.dtype, tokens: int = sum(_SEGMENTS)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(heads)
    shapes = [(1, count, tokens, 16) for count in (heads, groups, groups)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def _reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    repeat = query.shape[1] // key.shape[1]
    pieces = [
        F.scaled_dot_product_attention(
            q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1), is_causal=True
        )
        for q, k, v in zip(*(x.float().split(_SEGMENTS, dim=2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (9, 3), (4, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_packed_attention_equals_each_segment_alone(
    heads: int, groups: int, dtype: torch.dtype, tolerance: float
) -> None:
    ours, theirs = _inputs(heads, groups, dtype), _inputs(heads, groups, dtype)
    output = attention(torch.nn.Module(), *ours, None, segments=_SEGMENTS)[0]
    expected = _reference(*theirs)
    torch.testing.assert_close(output.float(), expected, rtol=tolerance, atol=tolerance)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (output * weight).sum().backward()
    (expected * weight.float()).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad.float(), other.grad.float(), rtol=tolerance, atol=2 * tolerance)


def test_a_sliding_window_stays_inside_its_segment() -> None:
    query, key, value = _inputs(4, 4, torch.float32)
    packed = attention(torch.nn.Module(), query, key, value, None, segments=_SEGMENTS, sliding_window=8)[0]
    alone = [
        attention(torch.nn.Module(), q, k, v, None, sliding_window=8)[0]
        for q, k, v in zip(*(x.split(_SEGMENTS, dim=2) for x in (query, key, value)), strict=True)
    ]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-5, atol=1e-5)
