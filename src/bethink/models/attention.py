"""One attention function for packed training and cached decoding, registered with transformers under the name "bethink".

transformers hands unknown keyword arguments of a model's forward down to its attention function and, for an implementation with no
mask function of its own, builds no mask. So `model(input_ids, position_ids, segments=...)` attends within the packed segments and
`model(input_ids, position_ids, kv_cache=...)` against a cache, on any decoder-only model, with no model patched.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from bethink.models import varlen
from bethink.models.branches import Segment, branched
from bethink.models.packed import packed

NAME = "bethink"


class KVCache(Protocol):
    """What a cache does for one layer: stores the new keys and values and attends to all that the query may see."""

    def attend(
        self,
        layer: int,
        query_BKTH: Tensor,
        key_BKTH: Tensor,
        value_BKTH: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Returns the attention output [B, T, heads, head size]."""
        ...


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: tuple[Segment, ...] | None = None,
    kv_cache: KVCache | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention.

    query [B, heads, T, head size]; key and value [B, KV heads, T, head size]. Exactly one of:
    segments: lengths of the packed samples along T (B = 1), summing to T; a token sees its own sample's earlier tokens only. Samples
    that share a prompt are one segment (`Branches`).
    kv_cache: attends to cached keys and values, and stores the new ones.
    Neither: plain causal attention over T.
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if kv_cache is not None:
        return kv_cache.attend(module.layer_idx, query, key, value, scale, sliding_window), None  # type: ignore[arg-type]
    if segments is not None:
        if (kernel := varlen.kernel_for(query, value)) is not None:
            return varlen.attend(kernel, query, key, value, segments, scale, sliding_window), None
        plain = tuple(segment for segment in segments if isinstance(segment, int))
        if len(plain) == len(segments):
            return packed(query, key, value, plain, scale, sliding_window, causal), None
        return branched(query, key, value, segments, scale, sliding_window, causal), None
    return causal(query, key, value, scale, sliding_window).transpose(1, 2), None


def causal(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """Causal attention within one block of T tokens; returns [B, heads, T, head size]."""
    tokens = query.shape[2]
    if window is None or tokens <= window:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    position = torch.arange(tokens, device=query.device)
    distance = position[:, None] - position[None, :]
    visible = (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scale, enable_gqa=True)


def register() -> str:
    """Make the function known to transformers; returns its name for `attn_implementation`."""
    AttentionInterface.register(NAME, attention)
    return NAME
