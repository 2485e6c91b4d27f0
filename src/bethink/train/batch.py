"""Packing: samples of one optimizer step into flat rows that hold no padding between them.

A row is one sequence of T tokens with the lengths of its samples beside it (`segments`); attention stays inside a segment and
positions start at 0 in each. Packing reorders samples inside a step, never across steps, so that a curriculum keeps its order.
Longest first, each into the fullest row it still fits (best-fit decreasing); then rows are padded to a multiple of 32 tokens: the CPU's
matrix library builds kernels for every new length (some 25 ms) and keeps about a thousand of them.

Samples given as a group share their prompt: it stands in the row once, with all their completions behind it, each at the positions it
would have alone (models/branches.py computes their attention). The result is that of the samples apart, from fewer tokens.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bethink.chat.toggle import Mode
from bethink.core.errors import DataError
from bethink.models.branches import Branches, Segment
from bethink.train.token_store import Sample

_GRAIN = 32

Group = Sequence[Sample]
"""Samples with the same prompt, which is computed once for all of them."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One micro-batch: a flat row of T tokens, N of which are learned.

    token_ids_T, position_ids_T: int64; segments: what stands side by side along T, padding being the last one.
    target_index_N: the positions whose token is learned (completion tokens). predictor_index_N: the positions whose hidden states
    predict them: those before, or the prompt's last for the first token of each completion that shares it.
    source_N: where each stands among all completion tokens of the step, one sample after the other in the order they were given;
    what a trainer knows of every token (advantages, the sampler's log-probabilities) is found there.
    loss_weight_N: the weight of each (float32). thinking_N: whether it belongs to a thinking-on sample.
    tokens: useful tokens (prompt and completion, no padding; a shared prompt counts once).
    """

    token_ids_T: Tensor
    position_ids_T: Tensor
    segments: tuple[Segment, ...]
    target_index_N: Tensor
    predictor_index_N: Tensor
    source_N: Tensor
    loss_weight_N: Tensor
    thinking_N: Tensor
    tokens: int

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            n: value.to(device) for n, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


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


def packed_batches(items: Sequence[Sample | Group], capacity: int) -> list[PackedBatch]:
    """The samples and groups of one step as micro-batches of about `capacity` tokens, the longest first.

    A group that does not fit is split, each part with the prompt again. Raises DataError for a group whose prompts differ, and for an
    empty prompt or completion.
    """
    pieces = list(_pieces(items, capacity))
    lengths = [len(piece) for piece in pieces]
    return [
        _packed_batch([pieces[i] for i in row], padded_length(sum(lengths[i] for i in row)))
        for row in pack(lengths, capacity)
    ]


@dataclass(frozen=True, slots=True)
class _Piece:
    """What stands in a row as one segment: samples with one prompt, and the place in the step of each one's first completion token."""

    samples: Sequence[Sample]
    sources: Sequence[int]

    def __len__(self) -> int:
        return len(self.samples[0].prompt_ids) + sum(len(sample.completion_ids) for sample in self.samples)

    @property
    def segment(self) -> Segment:
        """A sample that shares its prompt with no other is a plain length."""
        first = self.samples[0]
        if len(self.samples) == 1:
            return len(first)
        return Branches(len(first.prompt_ids), tuple(len(sample.completion_ids) for sample in self.samples))


def _pieces(items: Sequence[Sample | Group], capacity: int) -> Iterator[_Piece]:
    """Every sample and group in order, those of more than `capacity` tokens in parts no longer than that or than their longest sample."""
    source = 0
    for item in items:
        group = (item,) if isinstance(item, Sample) else item
        _check(group)
        lengths = [len(sample.completion_ids) for sample in group]
        sources = [source + before for before in accumulate(lengths, initial=0)]
        room = max(capacity - len(group[0].prompt_ids), *lengths)
        for part in pack(lengths, room):
            chosen = sorted(part)
            yield _Piece([group[i] for i in chosen], [sources[i] for i in chosen])
        source = sources[-1]


def _check(group: Group) -> None:
    if not group:
        raise DataError("a group holds no sample")
    if any(len(sample.prompt_ids) == 0 or len(sample.completion_ids) == 0 for sample in group):
        raise DataError("a sample has no prompt, or no completion to learn")
    if any(not np.array_equal(sample.prompt_ids, group[0].prompt_ids) for sample in group[1:]):
        raise DataError("the samples of a group have different prompts", fix="give them one by one")


def _packed_batch(pieces: Sequence[_Piece], length: int) -> PackedBatch:
    """The pieces side by side in one row, padded to `length` tokens."""
    tokens = sum(len(piece) for piece in pieces)
    padding = max(length - tokens, 0)
    token_ids = np.zeros(tokens + padding, np.int64)
    position_ids = np.zeros(tokens + padding, np.int64)
    targets, predictors, sources, thinking = [], [], [], []
    end = 0
    for piece in pieces:
        prompt_ids = piece.samples[0].prompt_ids
        start, split = end, end + len(prompt_ids)
        token_ids[start:split] = prompt_ids
        position_ids[start:split] = np.arange(len(prompt_ids))
        end = split
        for sample, source in zip(piece.samples, piece.sources, strict=True):
            count = len(sample.completion_ids)
            target = np.arange(end, end + count)
            token_ids[target] = sample.completion_ids
            position_ids[target] = np.arange(len(prompt_ids), len(sample))
            targets.append(target)
            predictors.append(np.concatenate([[split - 1], target[:-1]]))
            sources.append(np.arange(source, source + count))
            thinking.append(np.full(count, sample.mode is Mode.ON))
            end += count
    position_ids[tokens:] = np.arange(padding)
    segments = tuple(piece.segment for piece in pieces)
    target_index_N, predictor_index_N, source_N, thinking_N = (
        torch.from_numpy(np.concatenate(parts)) for parts in (targets, predictors, sources, thinking)
    )
    return PackedBatch(
        token_ids_T=torch.from_numpy(token_ids),
        position_ids_T=torch.from_numpy(position_ids),
        segments=(*segments, padding) if padding else segments,
        target_index_N=target_index_N,
        predictor_index_N=predictor_index_N,
        source_N=source_N,
        loss_weight_N=torch.ones(len(target_index_N)),
        thinking_N=thinking_N,
        tokens=tokens,
    )
