"""Causal attention in a packed row where several completions go on from one prompt, for training.

The prompt stands in the row once and each completion behind it, so that G completions of a prompt cost P + ΣR tokens instead of
Σ(P + R). A completion attends to the whole prompt and to itself, which is what it would see if it stood behind the prompt alone; the
prompt's keys collect the gradients of all its completions. Nowhere is there a mask over the row: a completion's queries meet the prompt's
keys and its own, and nothing else is computed.

On a CPU the compiled operations do this in one pass where they serve (fused/attention.cpp). Elsewhere, as in packed.py: plain products in
bfloat16 on a CPU as long as prompt and completion are short (the probabilities are kept for the backward pass), torch's kernel for
everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bethink.models.packed import SHORT, Causal, packed


@dataclass(frozen=True, slots=True)
class Branches:
    """Part of a packed row: a prompt of `prompt` tokens, then completions of these lengths, each of which goes on from the prompt."""

    prompt: int
    completions: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens in the row."""
        return self.prompt + sum(self.completions)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest completion."""
        return self.prompt + max(self.completions)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where the prompt and each completion start and end, counted from the prompt's first token."""
        return list(pairwise(accumulate((self.prompt, *self.completions), initial=0)))


Segment = int | Branches
"""Part of a packed row: the length of a sample that stands alone, or a prompt with its completions."""


@dataclass(frozen=True, slots=True)
class Run:
    """A sample, prompt or completion in a row: its tokens are those from `first` to `end`, and it goes on from `shared` tokens that begin
    at `prompt` (none, but for a completion behind a shared prompt)."""

    first: int
    end: int
    prompt: int
    shared: int


def runs(segments: Iterable[Segment]) -> Iterator[Run]:
    """The samples, prompts and completions of a row in order, each prompt's completions right behind it."""
    start = 0
    for segment in segments:
        spans = segment.spans if isinstance(segment, Branches) else [(0, segment)]
        for first, end in spans:
            yield Run(start + first, start + end, start, spans[0][1] if first else 0)
        start += spans[-1][1]


def branched(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: tuple[Segment, ...],
    scale: float,
    window: int | None,
    causal: Causal,
) -> Tensor:
    """Attention within each segment; query [1, heads, T, head size], key and value [1, KV heads, T, head size].

    causal: torch's kernel for one block of tokens. Returns [1, T, heads, head size].
    """
    parts = list(_parts(segments))
    lengths = [part.tokens if isinstance(part, Branches) else sum(part) for part in parts]
    split = [tensor.split(lengths, dim=2) for tensor in (query, key, value)]
    outputs = [
        _group(q, k, v, part, scale, window, causal)
        if isinstance(part, Branches)
        else packed(q, k, v, part, scale, window, causal)
        for part, q, k, v in zip(parts, *split, strict=True)
    ]
    return torch.cat(outputs, dim=1)


def _parts(segments: tuple[Segment, ...]) -> Iterator[tuple[int, ...] | Branches]:
    """The segments in order, neighbours that stand alone together."""
    alone: list[int] = []
    for segment in segments:
        if isinstance(segment, int):
            alone.append(segment)
            continue
        if alone:
            yield tuple(alone)
            alone = []
        yield segment
    if alone:
        yield tuple(alone)


def _group(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    branches: Branches,
    scale: float,
    window: int | None,
    causal: Causal,
) -> Tensor:
    """One prompt and its completions; returns [1, T, heads, head size]."""
    plain = window is None or branches.longest <= window
    if plain and branches.longest <= SHORT and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        short: Tensor = _ShortBranches.apply(query, key, value, branches, scale)  # type: ignore[no-untyped-call]
        return short
    lengths = (branches.prompt, *branches.completions)
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    outputs = [causal(queries[0], keys[0], values[0], scale, window)]
    seen = branches.prompt if window is None else min(branches.prompt, window - 1)
    past_key, past_value = (tensor[0][:, :, branches.prompt - seen :] for tensor in (keys, values))
    for q, k, v in zip(queries[1:], keys[1:], values[1:], strict=True):
        k, v = torch.cat([past_key, k], dim=2), torch.cat([past_value, v], dim=2)
        visible = _visible(q.shape[2], k.shape[2], window, query.device)
        outputs.append(
            F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale, enable_gqa=True)
        )
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _visible(tokens: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Which of the keys each of the last `tokens` of them may see [tokens, keys]."""
    earlier = keys - tokens
    visible = torch.ones(tokens, keys, dtype=torch.bool, device=device).tril_(earlier)
    return visible if window is None else visible.triu_(earlier - window + 1)


class _ShortBranches(torch.autograd.Function):
    """softmax(q k^T scale) v, the prompt first, then each completion over [the prompt's keys; its own].

    H query heads in K groups of G; L tokens of the prompt or completion at hand, which see N keys; M = G × L; P prompt tokens.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, branches: Branches, scale: float
    ) -> Tensor:
        (_, heads, tokens, size), groups = query.shape, key.shape[1]
        output_1THD = query.new_empty(1, tokens, heads, size)
        q_HTD, k_KTD, v_KTD = query[0].float().mul_(scale), key[0].float(), value[0]
        longest = max(branches.prompt, *branches.completions)
        future = torch.full((longest, longest), float("-inf")).triu_(1)
        kept = []
        for start, end in branches.spans:
            length = end - start
            k_KND, v_KND = (_seen(tensor, branches.prompt, start, end) for tensor in (k_KTD, v_KTD))
            score_KMN = torch.bmm(q_HTD[:, start:end].reshape(groups, -1, size), k_KND.transpose(1, 2))
            score_HLN = score_KMN.view(heads, length, -1)
            score_HLN[:, :, -length:].add_(future[:length, :length])
            p_KMN = score_HLN.softmax(-1).to(query.dtype).view_as(score_KMN)
            output_HLD = torch.bmm(p_KMN, v_KND).view(heads, length, size)
            output_1THD[0, start:end] = output_HLD.transpose(0, 1)
            kept.append(p_KMN)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.branches, ctx.scale = branches, scale
        return output_1THD

    @staticmethod
    def backward(ctx: Any, grad_1THD: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        prompt, groups, size = ctx.branches.prompt, key.shape[1], query.shape[3]
        grad_q, grad_k, grad_v = (torch.empty_like(tensor) for tensor in (query, key, value))
        sum_k_KPD, sum_v_KPD = torch.zeros(2, groups, prompt, size)  # over all completions, in float32
        q_HTD, k_KTD, v_KTD, grad_HTD = query[0], key[0], value[0], grad_1THD[0].transpose(0, 1)
        for (start, end), p_KMN in zip(ctx.branches.spans, kept, strict=True):
            q_KMD, g_KMD = (t[:, start:end].reshape(groups, -1, size) for t in (q_HTD, grad_HTD))
            k_KND, v_KND = (_seen(tensor, prompt, start, end) for tensor in (k_KTD, v_KTD))
            dp_KMN = torch.bmm(g_KMD, v_KND.transpose(1, 2)).float()
            ds_KMN = torch._softmax_backward_data(dp_KMN, p_KMN.float(), -1, torch.float32)
            ds_KMN = ds_KMN.mul_(ctx.scale).to(query.dtype)
            grad_q[0, :, start:end] = torch.bmm(ds_KMN, k_KND).view(-1, end - start, size)
            grad_k_KND = torch.bmm(ds_KMN.transpose(1, 2), q_KMD)
            grad_v_KND = torch.bmm(p_KMN.transpose(1, 2), g_KMD)
            sum_k_KPD += grad_k_KND[:, :prompt]
            sum_v_KPD += grad_v_KND[:, :prompt]
            if start:
                grad_k[0, :, start:end] = grad_k_KND[:, prompt:]
                grad_v[0, :, start:end] = grad_v_KND[:, prompt:]
        grad_k[0, :, :prompt], grad_v[0, :, :prompt] = sum_k_KPD, sum_v_KPD
        return grad_q, grad_k, grad_v, None, None


def _seen(tensor_KTD: Tensor, prompt: int, start: int, end: int) -> Tensor:
    """The keys or values that the tokens from `start` to `end` see: the prompt's and, unless it is the prompt itself, their own."""
    own_KLD = tensor_KTD[:, start:end]
    return torch.cat([tensor_KTD[:, :prompt], own_KLD], dim=1) if start else own_KLD
