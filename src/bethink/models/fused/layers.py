"""A transformers model whose norms, gated MLPs and attention layers do their in-between work in compiled operations.

Each such module keeps its parameters, names and attributes; its class becomes a subclass that computes the same faster, and that falls
back on the original forward for whatever the operations do not cover. Which modules are of a known kind is not read off their names:
each is tried against its original on random numbers, and stays as it was where the two differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bethink.models import attention
from bethink.models.branches import Branches
from bethink.models.fused import autograd, operations
from bethink.models.together import together

LONGEST = 4096
"""Segments of more tokens are left to torch's attention, which shares one sequence out among many cores."""
_TOKENS = (7, 5)
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class FusedNorm:
    """RMSNorm with `weight` and `variance_epsilon`."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        """x [..., D] -> the same."""
        x = hidden_states
        if x.dtype == self.weight.dtype and x.is_contiguous() and operations.usable(x, x.shape[-1]):
            return autograd.rms_norm(x, self.weight, self.variance_epsilon)
        result: Tensor = super().forward(x)  # type: ignore[misc]
        return result


class FusedMLP:
    """down(silu(gate(x)) * up(x))."""

    TOGETHER = ("gate_proj", "up_proj")

    def forward(self: Any, x: Tensor) -> Tensor:
        """x [..., D] -> the same."""
        if operations.usable(x, self.gate_proj.out_features):
            inner = autograd.swiglu(together(x, (self.gate_proj, self.up_proj)))
            result: Tensor = self.down_proj(inner)
        else:
            result = super().forward(x)  # type: ignore[misc]
        return result


class FusedAttention:
    """Rotary grouped-query attention, with or without norms of queries and keys.

    asked: the scale and the window that the original asks attention for.
    """

    asked: tuple[float, int | None]

    TOGETHER = ("q_proj", "k_proj", "v_proj")

    def forward(
        self: Any,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        *,
        segments: Any = None,
        kv_cache: attention.KVCache | None = None,
        **rest: Any,
    ) -> tuple[Tensor, None]:
        """hidden_states [B, T, D] -> the same, and no weights."""
        rows, tokens, _ = hidden_states.shape
        cos, sin = position_embeddings
        size: int = self.head_dim
        lengths = segments or (tokens,) * rows
        longest = max(part.longest if isinstance(part, Branches) else part for part in lengths)
        if not (
            operations.usable_heads(hidden_states, size)
            and cos.dtype == hidden_states.dtype
            and cos.shape[-1] == size
            and self.config._attn_implementation == attention.NAME
            and (kv_cache is not None or longest <= LONGEST)
        ):
            result: tuple[Tensor, None] = super().forward(  # type: ignore[misc]
                hidden_states,
                position_embeddings,
                attention_mask,
                segments=segments,
                kv_cache=kv_cache,
                **rest,
            )
            return result
        joint = self._project(hidden_states)
        groups = (joint.shape[-1] // size - self._heads(joint)) // 2
        heads = (self._heads(joint), groups)
        flat = joint.view(rows * tokens, -1)
        cos_NH, sin_NH = (
            table.expand(rows, tokens, size).reshape(rows * tokens, size) for table in (cos, sin)
        )
        scale, window = self.asked
        if kv_cache is None:
            output = autograd.packed_attention(flat, cos_NH, sin_NH, lengths, heads, scale, window)
        else:
            operations.rotate_(flat, sum(heads), cos_NH, sin_NH)
            by_head = joint.view(rows, tokens, -1, size).transpose(1, 2)
            query, key, value = by_head.split((heads[0], groups, groups), dim=1)
            output = kv_cache.attend(self.layer_idx, query, key, value, scale, window)
        return self.o_proj(output.reshape(rows, tokens, -1)), None

    def _heads(self: Any, joint: Tensor) -> int:
        return int(self.o_proj.in_features // self.head_dim)

    def _project(self: Any, x: Tensor) -> Tensor:
        joint = together(x, (self.q_proj, self.k_proj, self.v_proj))
        if not hasattr(self, "q_norm"):
            return joint
        heads = self._heads(joint)
        parts = joint.view(*x.shape[:-1], -1, self.head_dim)
        groups = (parts.shape[-2] - heads) // 2
        query, key, value = parts.split((heads, groups, groups), dim=-2)
        normed = (self.q_norm(query.contiguous()), self.k_norm(key.contiguous()), value)
        return torch.cat(normed, dim=-2).flatten(-2)


_NEEDED: dict[type, tuple[str, ...]] = {
    FusedNorm: ("weight", "variance_epsilon"),
    FusedMLP: ("gate_proj", "up_proj", "down_proj"),
    FusedAttention: ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "layer_idx", "config"),
}


@torch.no_grad()
def fuse_(model: PreTrainedModel) -> int:
    """Speed up the modules that can be; returns how many. Does nothing where the operations cannot be compiled, or on another device."""
    some = next(model.parameters())
    if not operations.usable(some):
        return 0
    rotary = getattr(model.get_decoder(), "rotary_emb", None)
    count = 0
    for module in model.modules():
        for kind, needed in _NEEDED.items():
            if all(hasattr(module, name) for name in needed) and _becomes(module, kind, some, rotary):
                count += 1
    return count


def _becomes(module: nn.Module, kind: type, some: Tensor, rotary: Any) -> bool:
    """Give the module the faster class if it then computes the same."""
    original = type(module)
    try:
        call = _trial(module, kind, some, rotary)
        before = call()
        module.__class__ = _class(kind, original)
        after = call()
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError):
        same = False
    else:
        spread = before.float().std()
        difference = (after.float() - before.float()).square().mean().sqrt()
        same = bool(difference <= _TOLERANCE[some.dtype] * spread)
    if not same:
        module.__class__ = original
    return same


def _class(kind: type, original: type) -> type:
    made = _CLASSES.get((kind, original))
    if made is None:
        made = _CLASSES[kind, original] = type(f"Fused{original.__name__}", (kind, original), {})
    return made


_CLASSES: dict[tuple[type, type], type] = {}


def _trial(module: Any, kind: type, some: Tensor, rotary: Any) -> Callable[[], Tensor]:
    """The module on random numbers. Raises ValueError for one whose sizes the operations do not cover."""
    generator = torch.Generator().manual_seed(0)
    if kind is FusedNorm:
        size = width = len(module.weight)
    elif kind is FusedMLP:
        size, width = module.gate_proj.out_features, module.gate_proj.in_features
    else:
        size, width = module.head_dim // 2, module.q_proj.in_features
    if not operations.usable(some, size):
        raise ValueError(f"sizes of {size} are not worked on")
    x = torch.randn((1, sum(_TOKENS), width), generator=generator).to(some.dtype)
    if kind is not FusedAttention:
        return lambda: module(x)
    tables = rotary(x, torch.arange(sum(_TOKENS))[None] * 17)
    if tables[0].shape[-1] != module.head_dim:
        raise ValueError("only a part of each head is rotated")
    listener = _Listener()
    _: Any = module(x, position_embeddings=tables, attention_mask=None, kv_cache=listener)
    module.asked = listener.asked
    return lambda: module(x, position_embeddings=tables, attention_mask=None, segments=_TOKENS)[0]


class _Listener:
    """A cache that keeps nothing but what attention is asked for."""

    asked: tuple[float, int | None]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        self.asked = (scale, window)
        return query.transpose(1, 2)
