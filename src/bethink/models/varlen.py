"""Attention inside the segments of a packed row as one kernel, on CUDA.

The kernels are flash attention for sequences of varying length (Dao 2023, arXiv 2307.08691): torch's own (`varlen_attn`), or the
flash-attn package's where torch was built without. They take a row's tokens one after the other and where each segment starts, group
query heads themselves and know sliding windows, but no float32 and no heads wider than 256. Completions that share a prompt get its keys
gathered before their own. A kernel is tried on a few tokens before it is trusted; where none serves, packed.py and branches.py go
through the segments one by one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from bethink.models.branches import Branches, Segment, runs

_FORMATS = (torch.bfloat16, torch.float16)
_WIDEST = 256
_AMPERE = (8, 0)
_NEEDED = {"scale", "window_size", "enable_gqa"}
_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the sequences of a packed row lie. S: sequences; N: keys, those of a shared prompt once for each of its completions.

    query_starts, key_starts: where each begins, and the end [S + 1] (int32); longest_query, longest_key: tokens of the longest.
    key_index: which of the row's tokens the keys are [N]; None when they are the row's own, in order.
    """

    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int
    key_index: Tensor | None


Kernel = Callable[[Tensor, Tensor, Tensor, Layout, float, int], Tensor]
"""(query [T, H, D], key and value [N, K, D], layout, scale, left) → [T, H, D]; the last query of a sequence stands at its last key.

Causal; a token sees `left` earlier ones, or all of them when that is -1.
"""


def kernel_for(query: Tensor, value: Tensor) -> Kernel | None:
    """The kernel for queries [..., D] and values [..., Dv] like these, or None."""
    if query.device.type != "cuda" or query.dtype not in _FORMATS:
        return None
    size = query.shape[-1]
    if size != value.shape[-1] or size % 8 or size > _WIDEST:
        return None
    return _trusted(query.device)


@cache
def _trusted(device: torch.device) -> Kernel | None:
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return None
    kernels = (torch_kernel(), flash_attn_kernel())
    return next((kernel for kernel in kernels if kernel is not None and proved(kernel, device)), None)


def torch_kernel() -> Kernel | None:
    """`torch.nn.attention.varlen.varlen_attn`, where this torch has it with all we need and its flash kernels compiled in."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    if not inspect.signature(varlen_attn).parameters.keys() >= _NEEDED:
        return None
    return by_torch if torch.backends.cuda.is_flash_attention_available() else None


def by_torch(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, left: int) -> Tensor:
    """See `Kernel`."""
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        query,
        key,
        value,
        layout.query_starts,
        layout.key_starts,
        layout.longest_query,
        layout.longest_key,
        scale=scale,
        window_size=(left, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, Tensor)  # a pair only where more was asked for
    return output


def flash_attn_kernel() -> Kernel | None:
    """The flash-attn package's kernel, where it is installed."""
    try:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None

    def by_flash_attn(
        query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, left: int
    ) -> Tensor:
        output: Tensor = flash_attn_varlen_func(
            query,
            key,
            value,
            layout.query_starts,
            layout.key_starts,
            layout.longest_query,
            layout.longest_key,
            softmax_scale=scale,
            causal=True,
            window_size=(left, 0),
        )
        return output

    return by_flash_attn


def attend(
    kernel: Kernel,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: tuple[Segment, ...],
    scale: float,
    window: int | None,
) -> Tensor:
    """Causal attention within each segment; query [1, heads, T, D], key and value [1, KV heads, T, D] → [1, T, heads, D].

    window: how many tokens one sees, itself included. No layer waits for the device: the lengths are known here.
    """
    layout = layout_of(segments, query.device)
    q_THD, k_NKD, v_NKD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if layout.key_index is not None:
        k_NKD, v_NKD = (tensor.index_select(0, layout.key_index) for tensor in (k_NKD, v_NKD))
    left = -1 if window is None or window >= layout.longest_key else window - 1
    return kernel(q_THD, k_NKD, v_NKD, layout, scale, left)[None]


@lru_cache(maxsize=4)
def layout_of(segments: tuple[Segment, ...], device: torch.device) -> Layout:
    """The layout of a row of these segments, made once for all layers of a batch."""
    queries: list[int] = []
    index: list[int] = []
    keys: list[int] = []
    for run in runs(segments):
        prompt, own = range(run.prompt, run.prompt + run.shared), range(run.first, run.end)
        queries.append(len(own))
        keys.append(len(prompt) + len(own))
        index += (*prompt, *own)
    # Ordinary tensors in inference mode too: the next step may train on the same segments.
    with torch.inference_mode(False):
        return Layout(
            _starts(queries, device),
            _starts(keys, device),
            max(queries),
            max(keys),
            torch.tensor(index, device=device) if len(index) > sum(queries) else None,
        )


def _starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32, device=device)


@torch.no_grad()
def proved(kernel: Kernel, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> bool:
    """Whether the kernel computes what it should: with and without a window, where keys are shared, alone, and more than queries."""
    segments: tuple[Segment, ...] = (3, Branches(9, (4, 1)), 6)
    tokens, heads, groups, size = 23, 4, 2, 16
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, count, tokens, size, generator=generator).to(device, dtype)
        for count in (heads, groups, groups)
    )
    for window in (None, 5):
        try:
            found = attend(kernel, q, k, v, segments, 0.3, window).float()
        except (RuntimeError, TypeError):
            return False
        if not torch.allclose(found, _plainly(q, k, v, segments, 0.3, window), rtol=0, atol=_TOLERANCE):
            return False
    return True


def _plainly(
    query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float, window: int | None
) -> Tensor:
    """What `attend` is to compute, by a mask over the whole row, in float32."""
    sample: list[int] = []
    parts: list[int] = []
    position: list[int] = []
    for number, segment in enumerate(segments):
        spans = segment.spans if isinstance(segment, Branches) else [(0, segment)]
        for part, (first, end) in enumerate(spans):
            shared = segment.prompt if isinstance(segment, Branches) and part else 0
            sample += [number] * (end - first)
            parts += [part] * (end - first)
            position += range(shared, shared + end - first)
    sample_T, part_T, position_T = (torch.tensor(column) for column in (sample, parts, position))
    distance_TT = position_T[:, None] - position_T
    visible_TT = (sample_T[:, None] == sample_T) & (distance_TT >= 0)
    visible_TT &= (part_T[:, None] == part_T) | (part_T == 0)
    if window is not None:
        visible_TT &= distance_TT < window
    repeat = query.shape[1] // key.shape[1]
    q, k, v = query[0].float(), *(tensor[0].float().repeat_interleave(repeat, 0) for tensor in (key, value))
    score_HTT = (q @ k.transpose(1, 2) * scale).masked_fill(~visible_TT.to(q.device), float("-inf"))
    return (score_HTT.softmax(-1) @ v).transpose(0, 1)[None]
