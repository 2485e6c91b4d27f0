"""Every published algorithm against its formula written out plainly, loss and gradient."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from bethink.train.rl.choices import ALGORITHMS, Advantage, Aggregation, KLEstimator, Ratio
from bethink.train.rl.objective import (
    PolicyLoss,
    advantages,
    aggregation_weights,
    clipped,
    importance_weight,
    kl_divergence,
)

LONGEST = 24


@dataclass
class Groups:
    """Random groups: for each completion its reward and its tokens' log-probabilities under four policies."""

    reward_PG: Tensor
    new: list[list[Tensor]]
    old: list[list[Tensor]]
    sampler: list[list[Tensor]]
    reference: list[list[Tensor]]

    def each(self) -> list[tuple[int, int]]:
        return [(p, g) for p in range(len(self.new)) for g in range(len(self.new[p]))]


@pytest.fixture
def groups() -> Groups:
    seed = random.SystemRandom().randrange(2**31)
    print(f"groups of seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, LONGEST + 1, (3, 5), generator=generator)

    def near(like: list[list[Tensor]] | None, spread: float) -> list[list[Tensor]]:
        return [
            [
                torch.randn(int(n), generator=generator, dtype=torch.float64) * spread
                + (like[p][g].detach() if like else -2)
                for g, n in enumerate(row)
            ]
            for p, row in enumerate(lengths)
        ]

    old = near(None, 0.5)
    rewards = torch.randint(0, 4, (3, 5), generator=generator).float() / 2
    rewards[0] = 1.0  # a group without signal
    rewards[1, 0], rewards[1, 1] = 0.0, 1.0
    found = Groups(rewards, near(old, 0.3), old, near(old, 0.02), near(old, 0.5))
    for row in found.new:
        for logprob_T in row:
            logprob_T.requires_grad_()
    return found


def plain_advantages(name: str, reward_PG: Tensor) -> Tensor:
    mean_P1 = reward_PG.mean(1, keepdim=True)
    if name in ("grpo", "dapo", "gspo", "cispo"):
        return (reward_PG - mean_P1) / (reward_PG.std(1, keepdim=True) + 1e-6)
    if name == "dr_grpo":
        return reward_PG - mean_P1
    count = reward_PG.shape[1]
    others_PG = (reward_PG.sum(1, keepdim=True) - reward_PG) / (count - 1)
    return reward_PG - others_PG


def ppo(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def k3(new_T: Tensor, reference_T: Tensor) -> Tensor:
    return (reference_T - new_T).exp() - (reference_T - new_T) - 1


def plain_loss(name: str, groups: Groups) -> Tensor:
    """The papers' formulas, one completion after the other."""
    advantage_PG = plain_advantages(name, groups.reward_PG)
    every = groups.each()
    tokens = sum(len(groups.new[p][g]) for p, g in every)
    total = torch.zeros((), dtype=torch.float64)
    for p, g in every:
        new_T, old_T, a = groups.new[p][g], groups.old[p][g], float(advantage_PG[p, g])
        ratio_T, length = (new_T - old_T).exp(), len(new_T)
        if name == "grpo":
            kl_T = k3(new_T, groups.reference[p][g])
            total = total + (ppo(ratio_T, a, 0.2, 0.2) - 0.04 * kl_T).sum() / length / len(every)
        elif name == "dr_grpo":
            total = total + ppo(ratio_T, a, 0.2, 0.2).sum() / LONGEST / len(every)
        elif name == "dapo":
            total = total + ppo(ratio_T, a, 0.2, 0.28).sum() / tokens
        elif name == "gspo":
            sequence = ((new_T - old_T).sum() / length).exp()
            total = total + ppo(sequence, a, 3e-4, 4e-4) / len(every)
        elif name == "cispo":
            weight_T = ratio_T.clamp(max=1.28).detach()
            total = total + (weight_T * a * new_T).sum() / tokens
        elif name == "rloo":
            total = total + a * ratio_T.sum() / LONGEST / len(every)
    return -total


def ours(name: str, groups: Groups, *, old: bool = True, cap: float = 0.0) -> Tensor:
    """The same from the pieces the trainer uses."""
    chosen = ALGORITHMS[name]
    every = groups.each()
    advantage_PG = torch.stack([advantages(reward_G, chosen.advantage) for reward_G in groups.reward_PG])
    lengths = torch.tensor([len(groups.new[p][g]) for p, g in every])
    weight_S = aggregation_weights(lengths, chosen.aggregation, LONGEST)

    def of_tokens(value: Callable[[int, int], float]) -> Tensor:
        return torch.cat([torch.full_like(groups.old[p][g], value(p, g)) for p, g in every])

    number = {pair: index for index, pair in enumerate(every)}
    policy = PolicyLoss(
        objective=chosen,
        advantage_N=of_tokens(lambda p, g: float(advantage_PG[p, g])),
        weight_N=of_tokens(lambda p, g: float(weight_S[number[p, g]])),
        sampler_N=torch.cat([groups.sampler[p][g] for p, g in every]),
        sequence_index_N=of_tokens(lambda p, g: number[p, g]).long(),
        old_N=torch.cat([groups.old[p][g] for p, g in every]) if old else None,
        reference_N=torch.cat([groups.reference[p][g] for p, g in every]) if chosen.kl_in_loss else None,
        cap=cap,
    )
    new_N = torch.cat([groups.new[p][g] for p, g in every])
    sequence_N = policy.sequences(new_N.detach())
    # In chunks, as the head asks for it.
    cuts = [slice(start, start + 7) for start in range(0, len(new_N), 7)]
    return torch.cat([policy(new_N[part], part, sequence_N) for part in cuts]).sum()


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_an_algorithm_is_its_formula(name: str, groups: Groups) -> None:
    leaves = [logprob_T for row in groups.new for logprob_T in row]
    expected, found = plain_loss(name, groups), ours(name, groups)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(expected, leaves), torch.autograd.grad(found, leaves), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_where_the_policy_that_sampled_learns_no_old_pass_is_needed(name: str, groups: Groups) -> None:
    groups.old = [[logprob_T.detach().clone() for logprob_T in row] for row in groups.new]
    leaves = [logprob_T for row in groups.new for logprob_T in row]
    with_pass, without = (torch.autograd.grad(ours(name, groups, old=old), leaves) for old in (True, False))
    for one, other in zip(with_pass, without, strict=True):
        torch.testing.assert_close(one, other)
    assert any(grad.abs().sum() > 0 for grad in without)


def test_a_clipped_token_gets_no_gradient_under_ppo_and_keeps_it_under_cispo() -> None:
    log_ratio_N = torch.tensor([0.5, 0.5, -0.5, -0.5, 0.0])
    advantage_N = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    for name, expected in (("dapo", [1, 0, 0, 1, 0]), ("cispo", [1, 1, 0, 0, 0]), ("rloo", [0] * 5)):
        chosen = ALGORITHMS[name]
        found = clipped(log_ratio_N, advantage_N, chosen.clipping, chosen.clip_low, chosen.clip_high)
        assert found.tolist() == [bool(value) for value in expected], name


def test_equal_rewards_have_no_advantage_and_scaling_does_not_matter_to_the_normalized_one() -> None:
    for kind in Advantage:
        assert advantages(torch.full((6,), 0.3), kind).tolist() == [0.0] * 6
        assert advantages(torch.tensor([1.0]), kind).tolist() == [0.0]
        assert float(advantages(torch.tensor([0.0, 1.0, 0.5]), kind).sum()) == pytest.approx(0, abs=1e-6)
    reward_G = torch.tensor([0.0, 1.0, 1.0, 3.0])
    one, other = (advantages(factor * reward_G, Advantage.GROUP) for factor in (1, 100))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_weights_of_a_mean_add_up_to_one_completion_or_one_token() -> None:
    lengths = torch.tensor([3, 10, 7])
    for kind in (Aggregation.TOKEN, Aggregation.SEQUENCE):
        assert float((aggregation_weights(lengths, kind, 50) * lengths).sum()) == pytest.approx(1)
    assert aggregation_weights(lengths, Aggregation.CONSTANT, 50).tolist() == pytest.approx([1 / 150] * 3)


def test_kl_estimators_agree_with_the_divergence_and_two_are_never_negative() -> None:
    generator = torch.Generator().manual_seed(random.SystemRandom().randrange(2**31))
    policy_V = torch.randn(50, generator=generator).log_softmax(0)
    reference_V = (policy_V + 0.1 * torch.randn(50, generator=generator)).log_softmax(0)
    true = float((policy_V.exp() * (policy_V - reference_V)).sum())
    for kind in KLEstimator:
        each_V = kl_divergence(policy_V, reference_V, kind)
        mean = float((policy_V.exp() * each_V).sum())
        assert mean == pytest.approx(true, rel=0.2 if kind is KLEstimator.K2 else 1e-3)
        assert kind is KLEstimator.K1 or bool((each_V >= 0).all())


def test_importance_weights_are_capped_and_off_at_zero() -> None:
    trainer_N, sampler_N = torch.tensor([-1.0, -1.0, -5.0]), torch.tensor([-1.0, -4.0, -1.0])
    assert importance_weight(trainer_N, sampler_N, 2.0).tolist() == pytest.approx([1.0, 2.0, math.exp(-4)])
    assert importance_weight(trainer_N, sampler_N, 0.0).tolist() == [1.0, 1.0, 1.0]


def test_the_choices_are_independent(groups: Groups) -> None:
    """Any ratio goes with any advantage, aggregation and clipping."""
    leaves = [logprob_T for row in groups.new for logprob_T in row]
    for name, chosen in list(ALGORITHMS.items()):
        for ratio in Ratio:
            ALGORITHMS["mixed"] = replace(chosen, ratio=ratio, kl=0.0)
            try:
                grads = torch.autograd.grad(ours("mixed", groups, cap=2.0), leaves)
            finally:
                del ALGORITHMS["mixed"]
            assert all(bool(grad.isfinite().all()) for grad in grads), (name, ratio)
