"""Packed rows through a kernel for sequences of varying length give what going segment by segment gives.

Without a GPU a kernel written with torch's plain operations stands where flash attention would.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bethink.models import varlen
from bethink.models.attention import attention
from bethink.models.branches import Branches, Segment
from bethink.models.varlen import Layout

PACKED: tuple[Segment, ...] = (1, 37, 2, 90, 14)
SHARED: tuple[Segment, ...] = (5, Branches(21, (9, 30, 1)), 17, Branches(3, (8,)))


def tokens_of(segments: tuple[Segment, ...]) -> int:
    return sum(s.tokens if isinstance(s, Branches) else s for s in segments)


def inputs(
    segments: tuple[Segment, ...], heads: int, groups: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    seed = random.SystemRandom().randrange(2**31)
    print(f"inputs of seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, tokens_of(segments), count, 16) for count in (heads, groups, groups)]
    made = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return [tensor.transpose(1, 2).detach().requires_grad_() for tensor in made]


def plain_kernel(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, left: int, *, top: bool = False
) -> Tensor:
    """The kernel's contract, sequence by sequence; top: the mistake of aligning queries with the first keys."""
    outputs = []
    bounds = (layout.query_starts.tolist(), layout.key_starts.tolist())
    assert max(b - a for a, b in zip(bounds[0], bounds[0][1:], strict=False)) == layout.longest_query
    assert max(b - a for a, b in zip(bounds[1], bounds[1][1:], strict=False)) == layout.longest_key
    for q0, q1, k0, k1 in zip(bounds[0], bounds[0][1:], bounds[1], bounds[1][1:], strict=False):
        repeat = query.shape[1] // key.shape[1]
        q = query[q0:q1].transpose(0, 1)
        k, v = (t[k0:k1].transpose(0, 1).repeat_interleave(repeat, 0) for t in (key, value))
        place = torch.arange(q1 - q0) + (0 if top else (k1 - k0) - (q1 - q0))
        distance = place[:, None] - torch.arange(k1 - k0)
        hidden = (distance < 0) | (distance > left if left >= 0 else False)
        score = (q @ k.transpose(1, 2) * scale).masked_fill(hidden, float("-inf"))
        outputs.append((score.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("segments", [PACKED, SHARED])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (9, 3), (4, 1)])
@pytest.mark.parametrize("window", [None, 8, 1000])
def test_one_kernel_gives_what_each_segment_alone_gives(
    segments: tuple[Segment, ...], heads: int, groups: int, window: int | None
) -> None:
    ours = inputs(segments, heads, groups)
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    output = varlen.attend(plain_kernel, *ours, segments, 0.3, window)
    expected = attention(
        torch.nn.Module(), *theirs, None, scaling=0.3, segments=segments, sliding_window=window
    )[0]
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(expected)
    (output * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_a_kernel_that_computes_something_else_is_not_trusted() -> None:
    device = torch.device("cpu")

    def without_window(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, left: int) -> Tensor:
        return plain_kernel(q, k, v, layout, scale, -1)

    def without_scale(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, left: int) -> Tensor:
        return plain_kernel(q, k, v, layout, 0.25, left)

    def aligned_at_the_top(
        q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, left: int
    ) -> Tensor:
        return plain_kernel(q, k, v, layout, scale, left, top=True)

    def missing(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, left: int) -> Tensor:
        raise RuntimeError("no kernel image is available")

    for dtype in (torch.float32, torch.bfloat16):
        assert varlen.proved(plain_kernel, device, dtype)
        for wrong in (without_window, without_scale, aligned_at_the_top, missing):
            assert not varlen.proved(wrong, device, dtype), wrong.__name__


def test_a_batch_has_one_layout_that_training_may_keep() -> None:
    segments: tuple[Segment, ...] = (random.randint(2, 10**6), 5)
    device = torch.device("cpu")
    with torch.inference_mode():
        first = varlen.layout_of(segments, device)
    assert varlen.layout_of(segments, device) is first
    assert not first.query_starts.is_inference()
    assert first.key_index is None
    assert first.query_starts.dtype == torch.int32


@pytest.fixture
def fake() -> Iterator[None]:
    """Tensors without memory, on devices that need not be there; none of them may outlive the block."""
    varlen.layout_of.cache_clear()
    with FakeTensorMode():
        yield
    varlen.layout_of.cache_clear()


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("segments", [PACKED, (Branches(100, (20, 24)),)])
def test_torchs_operator_takes_what_we_give_it(segments: tuple[Segment, ...]) -> None:
    tensors = [
        torch.empty(1, heads, 144, 64, dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)
    ]
    output = varlen.attend(varlen.by_torch, *tensors, segments, 0.3, 8)
    assert output.shape == (1, 144, 4, 64)
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    for tensor in tensors:
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape


@pytest.mark.usefixtures("fake")
def test_what_the_kernels_do_not_compute_goes_segment_by_segment() -> None:
    def unserved(device: str, dtype: torch.dtype, *sizes: int) -> bool:
        query, value = (torch.empty(1, 4, 8, size, dtype=dtype, device=device) for size in sizes)
        return varlen.kernel_for(query, value) is None

    assert unserved("cpu", torch.bfloat16, 64, 64)
    assert unserved("cuda", torch.float32, 64, 64)
    assert unserved("cuda", torch.bfloat16, 12, 12)
    assert unserved("cuda", torch.bfloat16, 264, 264)
    assert unserved("cuda", torch.bfloat16, 64, 32)


@pytest.mark.gpu
@pytest.mark.parametrize("segments", [PACKED, SHARED])
@pytest.mark.parametrize("window", [None, 8])
def test_on_a_gpu_a_kernel_is_found_and_right(segments: tuple[Segment, ...], window: int | None) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    theirs = inputs(segments, 8, 2, torch.bfloat16)
    ours = [tensor.detach().cuda().requires_grad_() for tensor in theirs]
    assert varlen.kernel_for(ours[0], ours[2]) is not None
    theirs = [tensor.detach().float().requires_grad_() for tensor in theirs]
    outputs = [
        attention(torch.nn.Module(), *tensors, None, segments=segments, sliding_window=window)[0]
        for tensors in (ours, theirs)
    ]
    torch.testing.assert_close(outputs[0].cpu().float(), outputs[1], rtol=0.03, atol=0.03)
    weight = torch.randn_like(outputs[1])
    (outputs[0].float() * weight.cuda()).sum().backward()
    (outputs[1] * weight).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.cpu().float(), other.grad, rtol=0.05, atol=0.1)
