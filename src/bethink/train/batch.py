"""Packing: samples of one optimizer step into flat rows that hold no padding between them.

A row is one sequence of T tokens with the lengths of its samples beside it (`segments`); attention stays inside a segment and
positions start at 0 in each. Packing reorders samples inside a step, never across steps, so that a curriculum keeps its order.
Longest first, each into the fullest row it still fits (best-fit decreasing); then rows are padded to a multiple of 32 tokens: the CPU's
matrix library builds kernels for every new length (some 25 ms) and keeps about a thousand of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bethink.chat.toggle import Mode
from bethink.train.token_store import Sample

_GRAIN = 32


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One micro-batch: a flat row of T tokens.

    token_ids_T, position_ids_T: int64; segments: lengths along T, padding being the last one.
    target_index_N: the positions whose token is learned (completion tokens); never the first of a segment.
    loss_weight_N: the weight of each (float32). thinking_N: whether it belongs to a thinking-on sample.
    tokens: useful tokens (prompt and completion, no padding).
    """

    token_ids_T: Tensor
    position_ids_T: Tensor
    segments: tuple[int, ...]
    target_index_N: Tensor
    loss_weight_N: Tensor
    thinking_N: Tensor
    tokens: int

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on another device."""
        return PackedBatch(
            self.token_ids_T.to(device),
            self.position_ids_T.to(device),
            self.segments,
            self.target_index_N.to(device),
            self.loss_weight_N.to(device),
            self.thinking_N.to(device),
            self.tokens,
        )


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in rows of at most `capacity` tokens; a longer sample has a row of its own.

    Best-fit decreasing, O(n log n). Deterministic: ties keep the order of `lengths`.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        slot = bisect_left(room, (length, -1))
        if slot < len(room):
            free, row = room.pop(slot)
        else:
            free, row = max(capacity, length), len(rows)
            rows.append([])
        rows[row].append(index)
        insort(room, (free - length, row))
    return rows


def padded_length(tokens: int) -> int:
    """`tokens` rounded up to a multiple of 32."""
    return -(-tokens // _GRAIN) * _GRAIN


def packed_batch(samples: Sequence[Sample], length: int) -> PackedBatch:
    """The samples side by side in one row, padded to `length` tokens."""
    tokens = sum(len(sample) for sample in samples)
    padding = max(length - tokens, 0)
    token_ids = np.zeros(tokens + padding, np.int64)
    position_ids = np.zeros(tokens + padding, np.int64)
    targets, thinking = [], []
    start = 0
    for sample in samples:
        split, end = start + len(sample.prompt_ids), start + len(sample)
        token_ids[start:split] = sample.prompt_ids
        token_ids[split:end] = sample.completion_ids
        position_ids[start:end] = np.arange(end - start)
        targets.append(np.arange(split, end))
        thinking.append(np.full(end - split, sample.mode is Mode.ON))
        start = end
    position_ids[tokens:] = np.arange(padding)
    target_index_N = torch.from_numpy(np.concatenate(targets))
    segments = tuple(len(sample) for sample in samples)
    return PackedBatch(
        torch.from_numpy(token_ids),
        torch.from_numpy(position_ids),
        (*segments, padding) if padding else segments,
        target_index_N,
        torch.ones(len(target_index_N)),
        torch.from_numpy(np.concatenate(thinking)),
        tokens,
    )


def packed_batches(samples: Sequence[Sample], capacity: int) -> list[PackedBatch]:
    """The samples of one step as micro-batches of about `capacity` tokens, the longest samples first."""
    lengths = [len(sample) for sample in samples]
    return [
        packed_batch([samples[i] for i in row], padded_length(sum(lengths[i] for i in row)))
        for row in pack(lengths, capacity)
    ]
