"""Completions that share a prompt attend as each would behind a prompt of its own, forward and backward."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bethink.models.attention import attention
from bethink.models.branches import Branches, Segment
from bethink.models.packed import SHORT

MIXED: tuple[Segment, ...] = (5, 3, Branches(37, (3, 20, 1)), 14, Branches(1, (2, 9)), Branches(6, (40,)), 7)
LONG: tuple[Segment, ...] = (Branches(SHORT - 20, (8, 30)), 11, Branches(9, (SHORT, 4)))


def inputs(segments: tuple[Segment, ...], heads: int, groups: int, dtype: torch.dtype) -> list[Tensor]:
    seed = random.SystemRandom().randrange(2**31)
    print(f"inputs of seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(s.tokens if isinstance(s, Branches) else s for s in segments)
    made = [torch.randn(1, tokens, n, 16, generator=generator).to(dtype) for n in (heads, groups, groups)]
    return [tensor.transpose(1, 2).detach().requires_grad_() for tensor in made]


def visibility(segments: tuple[Segment, ...], window: int | None) -> Tensor:
    """Which key each query sees, token by token: one of its own sample, no later than itself, and inside its window."""
    samples: list[list[int]] = []  # the row's tokens, sample by sample; those of a shared prompt in several
    start = 0
    for segment in segments:
        prompt, completions = (
            (segment.prompt, segment.completions) if isinstance(segment, Branches) else (segment, (0,))
        )
        split = start + prompt
        for count in completions:
            samples.append([*range(start, start + prompt), *range(split, split + count)])
            split += count
        start = split
    visible = torch.zeros(start, start, dtype=torch.bool)
    for sample in samples:
        for place, query in enumerate(sample):
            first = 0 if window is None else max(place - window + 1, 0)
            visible[query, sample[first : place + 1]] = True
    return visible


def reference(tensors: list[Tensor], visible: Tensor) -> Tensor:
    query, key, value = (tensor.float() for tensor in tensors)
    repeat = query.shape[1] // key.shape[1]
    score = query @ key.repeat_interleave(repeat, 1).transpose(2, 3) / query.shape[3] ** 0.5
    weights = score.masked_fill(~visible, float("-inf")).softmax(-1)
    return (weights @ value.repeat_interleave(repeat, 1)).transpose(1, 2)


def assert_same_forward_and_backward(
    segments: tuple[Segment, ...], heads: int, groups: int, dtype: torch.dtype, window: int | None
) -> None:
    """In float32 to 1e-5; in bfloat16 to 1/32 of what it is, or of one."""
    tolerance = 1e-5 if dtype == torch.float32 else 2**-5
    ours = inputs(segments, heads, groups, dtype)
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    output = attention(torch.nn.Module(), *ours, None, segments=segments, sliding_window=window)[0]
    expected = reference(theirs, visibility(segments, window))
    torch.testing.assert_close(output.float(), expected, rtol=tolerance, atol=tolerance)
    weight = torch.randn_like(expected).to(dtype)
    (output * weight).sum().backward()
    (expected * weight.float()).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        scale = float(other.grad.abs().max().clamp(min=1))  # a prompt's keys collect much
        torch.testing.assert_close(
            one.grad.float(), other.grad.float(), rtol=tolerance, atol=tolerance * scale
        )


@pytest.mark.parametrize("segments", [MIXED, LONG], ids=["short", "long"])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (9, 3), (4, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_group_attends_as_its_samples_apart(
    segments: tuple[Segment, ...], heads: int, groups: int, dtype: torch.dtype
) -> None:
    assert_same_forward_and_backward(segments, heads, groups, dtype, None)


@pytest.mark.parametrize("window", [1, 2, 8, 30, 45, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sliding_window_reaches_from_a_completion_into_the_prompt(window: int, dtype: torch.dtype) -> None:
    assert_same_forward_and_backward(MIXED, 4, 2, dtype, window)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 8])
def test_a_group_on_a_gpu_attends_as_on_a_cpu(window: int | None) -> None:
    ours = [tensor.detach().cuda() for tensor in inputs(MIXED, 9, 3, torch.float32)]
    output = attention(torch.nn.Module(), *ours, None, segments=MIXED, sliding_window=window)[0]
    expected = reference([tensor.cpu() for tensor in ours], visibility(MIXED, window))
    torch.testing.assert_close(output.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_where_a_group_lies_in_its_row() -> None:
    group = Branches(7, (3, 1, 4))
    assert [end - start for start, end in group.spans] == [7, 3, 1, 4]
    assert all(end == start for (_, end), (start, _) in pairwise(group.spans))
    assert (group.tokens, group.longest) == (15, 11)
