"""Keys and values of the tokens seen so far, one slot a sequence.

A layer's cache is one block [slots, KV heads, capacity, head size], made on the layer's first use, so that models whose layers differ
are served. Decoding reads the whole block: a part of it would first be copied together by the matrix product, which costs more than
moving to a block that fits, now and then. What a slot holds, and when the block must grow or shrink, is the batch's business; here are
only the tensors and the attention over them. Two views are handed to a model's forward as `kv_cache`: `PrefillView` for packed pieces of prompts and `DecodeView` for one
new token in each slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bethink.models.attention import causal
from bethink.models.fused import operations
from bethink.models.fused.segments import cached_segments

STEP = 64
"""Capacities are multiples of this, so that few shapes occur: on CPU a new shape costs a new kernel."""


def round_up(value: int, step: int) -> int:
    """The smallest multiple of `step` that is at least `value`."""
    return -(-value // step) * step


class SlotCache:
    """The cache of every layer. `slots` sequences of up to `capacity` tokens each."""

    def __init__(self) -> None:
        self.slots = 0
        self.capacity = 0
        self.moves = 0
        """Grows whenever a block lies somewhere else than before."""
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def layers(self) -> int:
        """How many layers have stored anything."""
        return len(self._layers)

    def layer(self, index: int, key_BKTH: Tensor, value_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """The blocks [slots, KV heads, capacity, head size] of a layer, made like `key_BKTH` and `value_BKTH` on first use."""
        blocks = self._layers.get(index)
        if blocks is None:
            blocks = (self._empty_like(key_BKTH), self._empty_like(value_BKTH))
            self._layers[index] = blocks
            self.moves += 1
        return blocks

    def blocks(self, index: int) -> tuple[Tensor, Tensor]:
        """Those of a layer that has stored something."""
        return self._layers[index]

    def _empty_like(self, new_BKTH: Tensor) -> Tensor:
        # Zeros, not uninitialised memory: a masked position's weight is 0, and 0 times a stray NaN is NaN.
        return new_BKTH.new_zeros(self.slots, new_BKTH.shape[1], self.capacity, new_BKTH.shape[3])

    def resize(self, slots: int, capacity: int) -> None:
        """Make room for `slots` × `capacity` tokens; what fits of the old content is kept in place."""
        old_slots, old_capacity = min(self.slots, slots), min(self.capacity, capacity)
        self.slots, self.capacity = slots, capacity
        self.moves += 1
        for index, blocks in self._layers.items():
            grown = tuple(self._empty_like(block) for block in blocks)
            for new, old in zip(grown, blocks, strict=True):
                new[:old_slots, :, :old_capacity] = old[:old_slots, :, :old_capacity]
            # One layer at a time, so that the old blocks go as the new ones come.
            self._layers[index] = (grown[0], grown[1])

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """Give the slots `targets` the first `length` tokens of the slot `source`."""
        for blocks in self._layers.values():
            for block in blocks:
                block[list(targets), :, :length] = block[source, :, :length].clone()

    def clear(self) -> None:
        """Free all memory."""
        self._layers.clear()
        self.slots = self.capacity = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `start` to `stop` of the prompt that lives in `slot`, at the next place of a packed row."""

    slot: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class PrefillView:
    """The cache as a packed row [1, T] of prompt pieces sees it: each piece sees its own slot's earlier tokens and itself."""

    def __init__(self, cache: SlotCache, pieces: Sequence[Piece]) -> None:
        self._cache = cache
        self._pieces = pieces

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Stores key and value [1, KV heads, T, head size]; returns [1, T, heads, head size]. T past the pieces is padding."""
        keys, values = self._cache.layer(layer, key, value)
        offset = 0
        for piece in self._pieces:
            here = slice(offset, offset + len(piece))
            offset = here.stop
            keys[piece.slot, :, piece.start : piece.stop] = key[0, :, here]
            values[piece.slot, :, piece.start : piece.stop] = value[0, :, here]
        if operations.usable_heads(query, query.shape[3]):
            return self._attend_at_once(query, keys, values, scale, window)
        output = query.new_zeros(1, query.shape[1], query.shape[2], value.shape[3])
        offset = 0
        for piece in self._pieces:
            here = slice(offset, offset + len(piece))
            offset = here.stop
            if piece.start == 0:
                output[:, :, here] = causal(
                    query[:, :, here], key[:, :, here], value[:, :, here], scale, window
                )
            else:
                output[:, :, here] = F.scaled_dot_product_attention(
                    query[:, :, here],
                    keys[piece.slot, None, :, : piece.stop],
                    values[piece.slot, None, :, : piece.stop],
                    attn_mask=_continuation_mask(piece, window, query.device),
                    scale=scale,
                    enable_gqa=True,
                )
        return output.transpose(1, 2)

    def _attend_at_once(
        self, query: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Each query row is computed by itself: what a prompt gives does not depend on how it was cut into pieces."""
        query_THD = query[0].transpose(0, 1)
        output = query_THD.new_zeros(query_THD.shape)
        segments = cached_segments(
            [len(piece) for piece in self._pieces],
            [piece.slot * keys.stride(0) for piece in self._pieces],
            [piece.start for piece in self._pieces],
        )
        strides = (keys.stride(2), keys.stride(1))
        operations.attend(query_THD, keys, values, strides, output, segments, keys.shape[1], scale, window)
        return output[None]


def _continuation_mask(piece: Piece, window: int | None, device: torch.device) -> Tensor:
    """True where a token of `piece` (rows) sees a token of its prompt up to the piece's end (columns)."""
    distance = (
        torch.arange(piece.start, piece.stop, device=device)[:, None]
        - torch.arange(piece.stop, device=device)[None, :]
    )
    visible = distance >= 0
    return visible if window is None else visible & (distance < window)


class DecodeView:
    """The cache as one new token in each of the first B slots sees it.

    position_B: where the new token of each slot stands (its number of earlier tokens).
    """

    def __init__(self, cache: SlotCache, position_B: Tensor) -> None:
        self._cache = cache
        self._position_B = position_B
        self._row_B = torch.arange(len(position_B), device=position_B.device)
        self._bias: dict[tuple[int | None, int], Tensor] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Stores key and value [B, KV heads, 1, head size]; returns [B, 1, heads, head size]."""
        keys, values = self._cache.layer(layer, key, value)
        rows, heads, _, size = query.shape
        groups = key.shape[1]
        if operations.usable_heads(query, size):
            at_once = operations.attend_next(
                query[:, :, 0], key[:, :, 0], value[:, :, 0], keys, values, self._position_B, scale, window
            )
            return at_once[:, None]
        keys[self._row_B, :, self._position_B] = key[:, :, 0]
        values[self._row_B, :, self._position_B] = value[:, :, 0]
        # The query heads that share a KV head stand as rows of one product, so that no key or value is repeated. Plain products
        # are several times as fast here as scaled_dot_product_attention, which on CPU is made for long queries.
        weight = torch.baddbmm(
            self._bias_for(window, groups, query.dtype),
            query.reshape(rows * groups, heads // groups, -1),
            keys[:rows].flatten(0, 1).transpose(1, 2),
            alpha=scale,
        ).softmax(-1)
        return torch.bmm(weight, values[:rows].flatten(0, 1)).view(rows, 1, heads, -1)

    def _bias_for(self, window: int | None, groups: int, dtype: torch.dtype) -> Tensor:
        """[B * KV heads, 1, capacity]: 0 where a slot's new token sees, -inf where not; made once a step for each kind of layer."""
        bias = self._bias.get((window, groups))
        if bias is None:
            place = torch.arange(self._cache.capacity, device=self._position_B.device)
            distance = self._position_B[:, None] - place
            hidden = distance < 0
            if window is not None:
                hidden |= distance >= window
            bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            bias = bias.masked_fill_(hidden, float("-inf"))[:, None].repeat_interleave(groups, 0)
            self._bias[window, groups] = bias
        return bias
