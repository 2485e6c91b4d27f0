"""From a step's groups to what an optimizer update learns: advantages of tokens, and the micro-batches with all that is known of each.

A completion's advantage goes to all its tokens. A process reward's credit goes to the tokens of its stretch of text on top of that,
on the same scale. Groups without signal take no part in the backward pass, but count where the loss is a mean.
"""

from __future__ import annotations

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
from bethink.train.rl.objective import PolicyLoss, advantages, aggregation_weights
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
    `objective.importance_weight`. Groups without signal are left out unless a KL term in the loss acts on them.
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
        scales: list[float] = []
        for group in groups:
            scales += [_set_advantages(group, objective)] * len(group.counted)
        self.groups = [g for g in groups if g.counted and (objective.kl_in_loss or g.has_signal)]
        learned = {id(rollout) for group in self.groups for rollout in group.counted}
        chosen = [one for one in zip(counted, weights, scales, strict=True) if id(one[0]) in learned]
        self.rollouts = [rollout for rollout, _, _ in chosen]
        self.advantage_M = _joined(token_advantages(rollout, scale, decode) for rollout, _, scale in chosen)
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


def token_advantages(rollout: Rollout, scale: float, decode: Decode) -> Tensor:
    """The advantage of each of a completion's tokens, float32. scale: what rewards of its group were multiplied by."""
    advantage_T = torch.full((len(rollout.token_ids),), rollout.advantage)
    for credit in rollout.scored.credits:
        first = tokens_before(decode, rollout.token_ids, credit.start + 1) - 1
        last = tokens_before(decode, rollout.token_ids, credit.end)
        advantage_T[first:last] += scale * credit.value
    return advantage_T


def tokens_before(decode: Decode, token_ids: Sequence[int], characters: int) -> int:
    """The fewest tokens whose text has so many characters; all of them where the text is shorter."""
    low, high = 0, len(token_ids)
    while low < high:
        middle = (low + high) // 2
        if len(decode(token_ids[:middle])) >= characters:
            high = middle
        else:
            low = middle + 1
    return low


def _set_advantages(group: Group, objective: Objective) -> float:
    """Give each completion that counts its advantage; returns what rewards of the group were multiplied by."""
    counted = group.counted
    reward_G = torch.tensor([rollout.reward for rollout in counted], dtype=torch.float32)
    found_G, scale = advantages(reward_G, objective.advantage)
    for rollout, advantage in zip(counted, found_G.tolist(), strict=True):
        rollout.advantage = advantage
    return scale


def _joined(parts: Iterable[Tensor]) -> Tensor:
    found = list(parts)
    return torch.cat(found) if found else torch.empty(0)
