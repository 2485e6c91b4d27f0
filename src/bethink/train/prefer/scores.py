"""What a model says of whole completions, in packed rows: a policy their log-probabilities, a reward model its values.

Both completions of a pair stand behind their prompt once. A pair that is longer than a row is cut in two, each with the prompt again; its
scores are then computed before, without a gradient, so that either half knows both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bethink.train.batch import Group, PackedBatch, packed_batches
from bethink.train.forward import forward
from bethink.train.head import TokenLoss
from bethink.train.prefer.value import RewardModel
from bethink.train.token_store import Sample

Pair = tuple[Sample, Sample]
"""The chosen and the rejected completion of one prompt."""

Weigh = Callable[[Tensor], Tensor]
"""The scores of a batch's completions [S] → the factor of each: how the loss changes with it [S]."""


@dataclass(frozen=True, slots=True)
class ScoreBatch:
    """A micro-batch with the S completions of some groups.

    group_G: which groups, of those that were packed together. sequence_N: the completion of each of the row's learned tokens.
    score_S: known scores, of a pair of which the row holds only one completion. counted: it stands for its completions in the metrics,
    which a pair's second half does not.
    """

    packed: PackedBatch
    group_G: Tensor
    sequence_N: Tensor
    count: int
    score_S: Tensor | None = None
    counted: bool = True

    def to(self, device: torch.device) -> ScoreBatch:
        """The same on another device."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in values.items()
            if isinstance(value, Tensor | PackedBatch)
        }
        return replace(self, **moved)

    def summed(self, value_N: Tensor) -> Tensor:
        """The sum over each completion's tokens [S]; 0 for one that stands in another row."""
        return value_N.new_zeros(self.count).index_add(0, self.sequence_N, value_N)

    def ends(self) -> Tensor:
        """Which of the learned tokens are the last of their completion [N], boolean."""
        change_N = self.sequence_N[1:] != self.sequence_N[:-1]
        return torch.cat([change_N, change_N.new_ones(1)])


def score_batches(groups: Sequence[Group], capacity: int) -> list[ScoreBatch]:
    """Groups of one size, packed: whole, or in parts where one is longer than `capacity`."""
    size = len(groups[0])
    lengths = torch.tensor([len(sample.completion_ids) for group in groups for sample in group])
    sequence_M = torch.arange(len(lengths)).repeat_interleave(lengths)
    batches = []
    for packed in packed_batches(groups, capacity):
        sequence_N = sequence_M[packed.source_N]
        group_G, place_N = (sequence_N // size).unique(return_inverse=True)
        batches.append(
            ScoreBatch(packed, group_G, place_N * size + sequence_N % size, count=size * len(group_G))
        )
    return batches


class Scorer(Protocol):
    """What is trained, as far as preferences see it. by_token: a score is a sum over the completion's tokens."""

    by_token: bool

    @property
    def module(self) -> nn.Module:
        """All of it."""
        ...

    def now(self, batch: ScoreBatch) -> Tensor:
        """The scores [S], without a gradient; 0 for a completion that stands in another row."""
        ...

    def loss(self, batch: ScoreBatch, weigh: Weigh) -> tuple[Tensor, Tensor]:
        """A loss that has, in each score, the gradient `weigh` says; and the scores [S] without one."""
        ...


class PolicyScorer:
    """Of a policy: the log-probability of the completion, the sum over its tokens."""

    by_token = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.module = model

    @torch.no_grad()
    def now(self, batch: ScoreBatch) -> Tensor:
        """The log-probability of each completion [S]."""
        found = forward(self.module, batch.packed, lambda logprob_C, _: torch.zeros_like(logprob_C))
        return batch.summed(found.logprob_N)

    def loss(self, batch: ScoreBatch, weigh: Weigh) -> tuple[Tensor, Tensor]:
        """Each token's log-probability times its completion's factor, summed."""

        def weighted(score_S: Tensor) -> TokenLoss:
            factor_N = weigh(score_S)[batch.sequence_N]
            return lambda logprob_C, part: factor_N[part] * logprob_C

        if batch.score_S is not None:
            return forward(self.module, batch.packed, weighted(batch.score_S)).loss, batch.score_S
        result = forward(
            self.module, batch.packed, lambda logprob_N: weighted(batch.summed(logprob_N)), needs_all=True
        )
        return result.loss, batch.summed(result.logprob_N)


class ValueScorer:
    """Of a reward model: its value of the completion."""

    by_token = False

    def __init__(self, model: RewardModel) -> None:
        self.module = model

    @torch.no_grad()
    def now(self, batch: ScoreBatch) -> Tensor:
        """The value of each completion [S]."""
        return self._values(batch)

    def loss(self, batch: ScoreBatch, weigh: Weigh) -> tuple[Tensor, Tensor]:
        """Each value times its factor, summed."""
        value_S = self._values(batch)
        score_S = value_S.detach() if batch.score_S is None else batch.score_S
        return (weigh(score_S) * value_S).sum(), score_S

    def _values(self, batch: ScoreBatch) -> Tensor:
        last_N = batch.ends()
        value_L: Tensor = self.module(batch.packed, batch.packed.target_index_N[last_N])
        return value_L.new_zeros(batch.count).index_add(0, batch.sequence_N[last_N], value_L)


def scores_of(scorer: Scorer, groups: Sequence[Group], capacity: int, device: torch.device) -> Tensor:
    """The scores of groups of one size [groups, size], without a gradient, on the CPU."""
    found_GS = torch.zeros(len(groups), len(groups[0]))
    for batch in score_batches(groups, capacity):
        score_S = scorer.now(batch.to(device)).cpu()
        found_GS[batch.group_G] += score_S.view(len(batch.group_G), -1)
    return found_GS


def pair_batches(
    scorer: Scorer, pairs: Sequence[Pair], capacity: int, device: torch.device
) -> list[tuple[ScoreBatch, list[int]]]:
    """The pairs packed, and which of them each batch holds. One longer than `capacity` is cut, both halves with the scores of both."""
    whole = [i for i, pair in enumerate(pairs) if _length(pair) <= capacity]
    batches: list[tuple[ScoreBatch, list[int]]] = []
    if whole:
        for batch in score_batches([pairs[i] for i in whole], capacity):
            batches.append((batch, [whole[place] for place in batch.group_G.tolist()]))
    for i in sorted(set(range(len(pairs))) - set(whole)):
        score_S = scores_of(scorer, [pairs[i]], capacity, device).flatten()
        for number, part in enumerate(score_batches([pairs[i]], capacity)):
            batches.append((replace(part, score_S=score_S, counted=not number), [i]))
    return batches


def _length(pair: Pair) -> int:
    return len(pair[0]) + len(pair[1].completion_ids)
