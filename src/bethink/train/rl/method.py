"""Reinforcement learning with verifiable rewards as the training loop sees it: a step is rollouts and one or more updates on them.

The algorithm, in the order of `updates`: draw problems, sample a group of completions for each, grade and reward them (drawing further
problems while groups have no signal, where asked for), find what a KL term takes off the rewards, turn rewards into advantages, split the groups
into updates, and give each one's micro-batches to the loop. Where there is one update a step the policy that sampled is the policy that
learns, and no pass is spent on its log-probabilities; without a KL term none is spent on a reference.

Sources: GRPO (arXiv 2402.03300) and the papers named in choices.py.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bethink.core.seeds import derive_seed
from bethink.models.prepacked import sampling_weights
from bethink.train.batch import PackedBatch, packed_batches
from bethink.train.curricula.api import Curriculum
from bethink.train.floor import StepFloor
from bethink.train.forward import forward, logprobs
from bethink.train.rl.ahead import Ahead
from bethink.train.rl.choices import Objective
from bethink.train.rl.held_out import HeldOut
from bethink.train.rl.log import RolloutLog
from bethink.train.rl.objective import clipped, kl_divergence
from bethink.train.rl.preflight import FirstBatch
from bethink.train.rl.reference import Reference
from bethink.train.rl.rollouts import Group, Sampler
from bethink.train.rl.summary import summarize
from bethink.train.rl.update import PolicyBatch, Update, prompt_groups, sampler_logprobs
from bethink.train.rl.watch import Watch


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of a run. steps: of the whole run; refills: further draws a step may make in place of groups without signal. longest: tokens of a completion.

    cap: of the importance weight between sampler and trainer. capacity: tokens in a micro-batch. temperature: of the policy that is
    sampled and trained.
    """

    steps: int
    problems_per_step: int
    updates_per_step: int
    refills: int
    longest: int
    cap: float
    capacity: int
    seed: int
    temperature: float = 1.0


class GRPOMethod:
    """A `loop.Method`. first: judges the first rollouts of a run; watch: says when rewards are won without the task being done.

    floor: what learning takes at least, or None where the device's speed is not known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sampler: Sampler,
        curriculum: Curriculum,
        objective: Objective,
        plan: Plan,
        log: RolloutLog,
        *,
        device: torch.device,
        first: FirstBatch,
        watch: Watch,
        reference: Reference | None = None,
        held_out: HeldOut | None = None,
        floor: StepFloor | None = None,
    ) -> None:
        self.held_out = held_out
        self.model, self.sampler, self.curriculum = model, sampler, curriculum
        self.ahead = Ahead(sampler, curriculum, count=plan.problems_per_step, steps=plan.steps)
        self.objective, self.plan, self.log, self.device = objective, plan, log, device
        self.reference, self.first, self.watch, self.floor = reference, first, watch, floor
        self._groups: list[Group] = []
        self._sampled: list[Group] = []
        self._worst_mismatch = 0.0
        self._kl_in_reward = 0.0
        self._rollout_seconds = 0.0
        self._floor_seconds = 0.0

    def updates(self, step: int) -> Iterator[Sequence[PolicyBatch]]:
        """Sample, then give the micro-batches of each optimizer update."""
        if self.reference is not None:
            self.reference.before(step)
        started, least = time.perf_counter(), self.sampler.floor_seconds()
        self._groups = self._collect(step)
        self._rollout_seconds = time.perf_counter() - started
        self._floor_seconds = self.sampler.floor_seconds() - least
        self.model.train()
        if self.objective.kl_in_reward:
            self._find_kl_penalties()
        updates = self._split(step)
        trained = frozenset(id(group) for update in updates for group in update.groups)
        self.log.write(step + 1, self._sampled, trained)
        self._look_ahead(updates)
        self._add_floor(updates)
        self._worst_mismatch = 0.0
        for update in updates:
            yield update.batches

    def _collect(self, step: int) -> list[Group]:
        """The groups of a step; those without signal are replaced by further draws, as often as the plan allows."""
        asked = self.ahead.take(step)
        with sampling_weights(self.model):
            self.model.eval()
            groups = self.sampler.groups(asked)
            self._sampled = list(groups)
            for refill in range(1, self.plan.refills + 1):
                lacking = len({(group.index, group.occurrence) for group in groups if not group.has_signal})
                if not lacking:
                    break
                asked = self.sampler.ask(step, self.curriculum.draw(step, lacking, refill), refill)
                more = self.sampler.groups(asked)
                self._sampled += more
                useful = [group for group in more if group.has_signal]
                groups = _replaced(groups, useful)
        self.first.judge(step, self._sampled)
        self.ahead.settle(step, _pass_rates(self._sampled))
        return groups

    def _split(self, step: int) -> list[Update]:
        """The groups in random order, in equal parts: one an update."""
        groups = sorted(
            self._groups,
            key=lambda g: derive_seed(self.plan.seed, "update", step, g.problem.id, g.mode.value),
        )
        count = min(self.plan.updates_per_step, len(groups))
        parts = [groups[number::count] for number in range(count)]
        decode = self.sampler.dialogue.renderer.tokenizer.decode
        plan = self.plan
        return [
            Update(part, self.objective, decode, capacity=plan.capacity, longest=plan.longest, cap=plan.cap)
            for part in parts
        ]

    def _look_ahead(self, updates: Sequence[Update]) -> None:
        """Log-probabilities that are gone once the weights move: of the policy that sampled, for all updates but the first."""
        for number, update in enumerate(updates):
            if number:
                update.old_M = self._logprobs(update.packed, len(update.sampler_M))
            if self.reference is not None and self.objective.kl_in_loss:
                with self.reference.acting():
                    update.reference_M = self._logprobs(update.packed, len(update.sampler_M))

    def _logprobs(self, packed: Sequence[PackedBatch], count: int) -> Tensor:
        return logprobs(self.model, packed, count, temperature=self.plan.temperature)

    def _add_floor(self, updates: Sequence[Update]) -> None:
        """What learning from the rollouts takes at least."""
        if self.floor is None:
            return
        for number, update in enumerate(updates):
            passes = int(number > 0) + int(self.reference is not None)
            self._floor_seconds += self.floor.shared_seconds(update.lengths, passes)

    def _find_kl_penalties(self) -> None:
        """What each completion's reward is lowered by: its KL divergence from the reference, summed over its tokens."""
        assert self.reference is not None
        rollouts = [rollout for group in self._groups for rollout in group.counted]
        sampler_M = sampler_logprobs(rollouts)
        packed = packed_batches(prompt_groups(self._groups), self.plan.capacity)
        with self.reference.acting():
            reference_M = self._logprobs(packed, len(sampler_M))
        kl_M = kl_divergence(sampler_M, reference_M, self.objective.kl_estimator)
        self._kl_in_reward = float(kl_M.sum())
        each_T = kl_M.split([len(rollout.token_ids) for rollout in rollouts])
        for rollout, kl_T in zip(rollouts, each_T, strict=True):
            rollout.kl_penalty = self.objective.kl * float(kl_T.sum())

    def loss(self, batch: PolicyBatch) -> tuple[Tensor, Mapping[str, float]]:
        """The micro-batch's share of the update's loss, and sums over its tokens."""
        batch = batch.to(self.device)
        policy = batch.policy
        token_loss = policy.seeing_all if policy.needs_all else policy
        result = forward(
            self.model,
            batch.packed,
            token_loss,
            entropy=True,
            needs_all=policy.needs_all,
            temperature=self.plan.temperature,
        )
        logprob_N = result.logprob_N
        old_N = logprob_N if policy.old_N is None else policy.old_N
        chosen = self.objective
        log_ratio_N = policy.log_ratio(logprob_N, slice(None), policy.sequences(logprob_N))
        clipped_N = clipped(
            log_ratio_N, policy.advantage_N, chosen.clipping, chosen.clip_low, chosen.clip_high
        )
        off_N = old_N - policy.sampler_N
        self._worst_mismatch = max(self._worst_mismatch, float(off_N.abs().max()))
        assert result.entropy_N is not None
        sums = {
            "loss": float(result.loss.detach()),
            "learned": len(logprob_N),
            "clipped": float(clipped_N.sum()),
            "entropy": float(result.entropy_N.sum()),
            "mismatch": float(off_N.abs().sum()),
            # The sampler drew the tokens: KL(sampler ‖ trainer), never negative.
            "mismatch_kl": float((off_N.exp() - 1 - off_N).sum()),
            "capped": float((off_N.exp() > policy.cap).sum()) if policy.cap else 0.0,
        }
        if policy.reference_N is not None:
            sums["kl"] = float(
                kl_divergence(logprob_N, policy.reference_N, self.objective.kl_estimator).sum()
            )
        return result.loss, sums

    def summary(self, step: int, sums: Mapping[str, float]) -> dict[str, Any]:
        """The step's metrics: rewards, pass rates and compliance by mode, lengths, and what the loss and the two policies did."""
        # Of the same tokens as the other sums: with a KL term all completions that count are learned from.
        own = {"kl": self._kl_in_reward} if self.objective.kl_in_reward else {}
        row = summarize(self._sampled, self._groups, Counter({**sums, **own}))
        row["mismatch_max"] = round(self._worst_mismatch, 6) if row["learned_tokens"] else None
        row |= {f"curriculum/{name}": value for name, value in self.ahead.metrics.items()}
        if self.floor is not None:
            row["floor_seconds"] = self._floor_seconds
        row["rollout_seconds"] = round(self._rollout_seconds, 3)
        row["warnings"] = self.watch.see(row)
        return row

    def shown(self, row: Mapping[str, Any]) -> dict[str, str]:
        """What a person watches."""
        passed = {name: row.get(f"pass_{name}") for name in ("on", "off")}
        return {
            "reward": f"{row['reward']:.3f}",
            **{f"pass {name}": f"{value:.0%}" for name, value in passed.items() if value is not None},
            "tokens": f"{row['completion_tokens_mean']:.0f}",
            **({} if row["mismatch"] is None else {"mismatch": f"{row['mismatch']:.1e}"}),
        }

    def evaluate(self, step: int) -> dict[str, Any]:
        """Shares of held-out problems solved, by mode; nothing where none are asked."""
        if self.held_out is None:
            return {}
        with sampling_weights(self.model):
            self.model.eval()
            return self.held_out.evaluate(step)

    def state_dict(self) -> dict[str, Any]:
        """The curriculum's, as the step left it."""
        return {"curriculum": self.ahead.state}

    def tensors(self) -> Mapping[str, Tensor]:
        """The reference's, where it has moved on."""
        return {} if self.reference is None else self.reference.tensors()

    def load_state_dict(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` and `tensors` gave."""
        self.ahead.load(state["curriculum"])
        if self.reference is not None:
            self.reference.load(tensors)


def _replaced(groups: list[Group], useful: list[Group]) -> list[Group]:
    """The groups, some of those without signal replaced by useful ones; never more groups than before."""
    spare = iter(useful)
    return [group if group.has_signal else next(spare, group) for group in groups]


def _pass_rates(groups: Sequence[Group]) -> dict[int, float]:
    """Of each problem: the share of its gradable completions that were correct, in both modes together."""
    verdicts: dict[int, list[bool]] = {}
    for group in groups:
        for rollout in group.rollouts:
            if rollout.attempt.verdict.counts:
                verdicts.setdefault(group.index, []).append(rollout.attempt.verdict.correct)
    return {index: sum(found) / len(found) for index, found in verdicts.items()}
