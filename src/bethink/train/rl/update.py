"""From a step's groups to what an optimizer update learns: advantages of tokens, and the micro-batches with all that is known of each.

A completion's advantage goes to all its tokens. A process reward's credit goes to the tokens of its stretch of text on top of that,
on a scale of its own (`objective.credit_scale`). Groups without signal take no part in the backward pass, but count where the loss is a mean; with a KL
term they do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bethink.train.batch import Group as PromptGroup
from bethink.train.batch import PackedBatch, packed_batches
from bethink.train.rl.choices import Objective
from bethink.train.rl.objective import PolicyLoss, advantages, aggregation_weights, credit_scale
from bethink.train.rl.rollouts import Group, Rollout
from bethink.train.token_store import Sample

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class PolicyBatch:
    """A micro-batch: packed tokens, and the loss of the learned ones."""

    packed: PackedBatch
    policy: PolicyLoss

    def to(self, device: torch.device) -> PolicyBatch:
        """The same on another device."""
        moved: dict[str, Any] = {
            f.name: value.to(device)
            for f in fields(self.policy)
            if isinstance(value := getattr(self.policy, f.name), Tensor)
        }
        return PolicyBatch(self.packed.to(device), replace(self.policy, **moved))


class Update:
    """What one optimizer update learns: `rollouts` in order, the tokens of all one behind the other (axis M).

    capacity: tokens in a micro-batch, about; longest: tokens a completion may have at most, for the constant aggregation; cap: see
    `objective.importance_weight`. Groups without signal are left out unless a KL term acts on them.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        objective: Objective,
        decode: Decode,
        *,
        capacity: int,
        longest: int,
        cap: float,
    ) -> None:
        self.objective, self.cap, self._capacity = objective, cap, capacity
        counted = [rollout for group in groups for rollout in group.counted]
        lengths = torch.tensor([len(rollout.token_ids) for rollout in counted])
        weights = aggregation_weights(lengths, objective.aggregation, longest).tolist() if counted else []
        each = [advantage_T for group in groups for advantage_T in token_advantages(group, objective, decode)]
        self.groups = [g for g in groups if g.counted and (objective.kl > 0 or g.has_signal)]
        learned = {id(rollout) for group in self.groups for rollout in group.counted}
        chosen = [one for one in zip(counted, weights, each, strict=True) if id(one[0]) in learned]
        self.rollouts = [rollout for rollout, _, _ in chosen]
        self.advantage_M = _joined(advantage_T for _, _, advantage_T in chosen)
        self.sampler_M = sampler_logprobs(self.rollouts)
        self.weight_M = _joined(
            torch.full((len(rollout.token_ids),), weight) for rollout, weight, _ in chosen
        )
        self.sequence_M = _joined(
            torch.full((len(rollout.token_ids),), number) for number, rollout in enumerate(self.rollouts)
        )
        self.old_M: Tensor | None = None
        self.reference_M: Tensor | None = None

    @property
    def lengths(self) -> list[tuple[int, list[int]]]:
        """Tokens of each group's prompt and of its completions."""
        return [
            (len(group.counted[0].prompt_ids), [len(rollout.token_ids) for rollout in group.counted])
            for group in self.groups
        ]

    @cached_property
    def packed(self) -> list[PackedBatch]:
        """The tokens alone, in micro-batches."""
        return packed_batches(prompt_groups(self.groups), self._capacity)

    @property
    def batches(self) -> list[PolicyBatch]:
        """The micro-batches with the loss of each."""
        return [PolicyBatch(packed, self._policy(packed.source_N)) for packed in self.packed]

    def _policy(self, source_N: Tensor) -> PolicyLoss:
        return PolicyLoss(
            objective=self.objective,
            advantage_N=self.advantage_M[source_N],
            weight_N=self.weight_M[source_N],
            sampler_N=self.sampler_M[source_N],
            sequence_index_N=self.sequence_M[source_N],
            old_N=None if self.old_M is None else self.old_M[source_N],
            reference_N=None if self.reference_M is None else self.reference_M[source_N],
            cap=self.cap,
        )


def prompt_groups(groups: Sequence[Group]) -> list[PromptGroup]:
    """The completions that count, those of one prompt together so that it is computed once."""
    return [tuple(sample_of(rollout) for rollout in group.counted) for group in groups if group.counted]


def sampler_logprobs(rollouts: Sequence[Rollout]) -> Tensor:
    """The sampler's log-probability of every token [M], one completion behind the other."""
    return _joined(torch.tensor(rollout.logprobs) for rollout in rollouts)


def sample_of(rollout: Rollout) -> Sample:
    """A rollout as the packer wants it."""
    return Sample(
        np.asarray(rollout.prompt_ids, np.int32),
        np.asarray(rollout.token_ids, np.int32),
        rollout.attempt.mode,
    )


def token_advantages(group: Group, objective: Objective, decode: Decode) -> list[Tensor]:
    """The advantage of each token of every completion that counts [T], float32; the completions' own are written into them.

    Rewards are taken less their KL penalty, where there is one.
    """
    counted = group.counted
    if not counted:
        return []
    paid = [rollout.reward - (rollout.kl_penalty or 0.0) for rollout in counted]
    reward_G = torch.tensor(paid, dtype=torch.float32)
    for rollout, advantage in zip(counted, advantages(reward_G, objective.advantage).tolist(), strict=True):
        rollout.advantage = advantage
    credits = [token_credits(rollout, decode) for rollout in counted]
    largest_G = torch.stack([credit_T.abs().max() for credit_T in credits])
    scale = credit_scale(reward_G, largest_G, objective.advantage)
    return [rollout.advantage + scale * credit_T for rollout, credit_T in zip(counted, credits, strict=True)]


def token_credits(rollout: Rollout, decode: Decode) -> Tensor:
    """What process rewards gave to each of a completion's tokens [T], float32, times their weights: a credit goes to every token that
    holds a character of its stretch, whole or in part."""
    credit_T = torch.zeros(len(rollout.token_ids))
    for credit in rollout.scored.credits:
        first, last = tokens_of(decode, rollout.token_ids, credit.start, credit.end)
        credit_T[first:last] += credit.value
    return credit_T


def tokens_of(decode: Decode, token_ids: Sequence[int], start: int, end: int) -> tuple[int, int]:
    """The stretch of tokens [first, last) that hold the characters [start, end) of their text.

    A character may be up to four tokens, of a byte each. What the decoder writes for a part of one is not in the whole text, and tells the
    part apart; some decoders then spoil the whole characters before it, too, so that these are counted where they were still whole.
    """
    text = decode(token_ids)

    def whole(count: int) -> tuple[int, bool]:
        """Characters that are complete after so many tokens, and whether a part of the next one is there."""
        found = decode(token_ids[:count])
        complete = _shared(found, text)
        if complete == len(found):
            return complete, False
        before = range(max(count - 3, 0), count)
        return max(complete, *(_shared(decode(token_ids[:n]), text) for n in before)), True

    counts = range(len(token_ids) + 1)
    return (
        bisect_left(counts, start + 1, key=lambda count: sum(whole(count))) - 1,
        bisect_left(counts, end, key=lambda count: whole(count)[0]),
    )


def _shared(found: str, text: str) -> int:
    """How many characters both begin with."""
    if text.startswith(found):
        return len(found)
    return bisect_left(range(len(found)), True, key=lambda last: not text.startswith(found[: last + 1]))


def _joined(parts: Iterable[Tensor]) -> Tensor:
    found = list(parts)
    return torch.cat(found) if found else torch.empty(0)
