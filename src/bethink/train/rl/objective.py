"""The policy loss, made of the independent choices of `choices.py`.

advantage × ratio × clipping × aggregation, and a KL term. Each choice is a pure function of tensors, one value a token or a completion;
nothing here knows models, rollouts or rewards. Axes: G completions of one group, N completion tokens of one micro-batch, S completions.

A loss is given to the head one chunk of tokens at a time (train/head.py), so it is a function of each token's log-probability alone.
What a token needs of its whole completion (the sequence ratio) is computed before and enters as a constant, in the form of which GSPO's
authors show that it has the same gradient (arXiv 2507.18071, section 4.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bethink.train.head import TokenLoss
from bethink.train.rl.choices import Advantage, Aggregation, Clipping, KLEstimator, Objective, Ratio

_EPS = 1e-6
"""Added to a group's standard deviation: a group whose rewards are equal has no advantage, not an infinite one."""


def advantages(reward_G: Tensor, kind: Advantage) -> Tensor:
    """Each completion's advantage within its group [G].

    reward_G: of the completions that count, float32. A group of one, and one whose rewards are all the same, has none.
    """
    count = len(reward_G)
    if count < 2 or bool((reward_G == reward_G[0]).all()):
        return torch.zeros_like(reward_G)
    centred_G = reward_G - reward_G.mean()
    if kind is Advantage.LEAVE_ONE_OUT:
        return centred_G * (count / (count - 1))
    if kind is Advantage.GROUP:
        return centred_G / (float(reward_G.std()) + _EPS)
    return centred_G


def credit_scale(reward_G: Tensor, credit_G: Tensor, kind: Advantage) -> float:
    """What process credits of a group are multiplied by before they are added to the advantages of their tokens.

    credit_G: the largest credit that a token of each completion has, as a magnitude, 0 for none. Where advantages are not divided by a
    deviation, credits are not either: the scale is 1. Otherwise they have a deviation of their own, as in GRPO's process supervision
    (arXiv 2402.03300, section 4.1.3), with two differences. It is taken about 0, which is what a step without fault earns, since a mean
    over faults alone would take all of them for ordinary. And the variance of the rewards is added, so that weights keep their meaning:
    where rewards differ much, a credit weighs as it would in the reward; where they hardly differ, it does not blow up with them. No credit
    becomes larger than √(G - 1); the largest advantage a reward can give is (G - 1)/√G.
    """
    if kind is not Advantage.GROUP:
        return 1.0
    degrees = max(len(reward_G) - 1, 1)
    centred_G = reward_G - reward_G.mean()
    variance = float(centred_G.square().sum() + credit_G.square().sum()) / degrees
    return 1.0 / (math.sqrt(variance) + _EPS)


def log_ratio(logprob_N: Tensor, old_N: Tensor, sequence_N: Tensor | None) -> Tensor:
    """Log of the ratio between the policy now and the one that sampled [N], differentiable in `logprob_N`.

    sequence_N: None for the token ratio; for the sequence ratio its logarithm without gradient (`sequence_log_ratio`).
    """
    if sequence_N is None:
        return logprob_N - old_N
    return sequence_N + logprob_N - logprob_N.detach()


def sequence_log_ratio(logprob_N: Tensor, old_N: Tensor, sequence_index_N: Tensor) -> Tensor:
    """The mean of logprob - old over each token's completion, at every token [N]. sequence_index_N: which completion it belongs to."""
    _, index_N, count_S = torch.unique(sequence_index_N, return_inverse=True, return_counts=True)
    total_S = torch.zeros(len(count_S), dtype=logprob_N.dtype, device=logprob_N.device)
    total_S.index_add_(0, index_N, logprob_N - old_N)
    mean_S: Tensor = total_S / count_S
    return mean_S[index_N]


def token_objective(
    log_ratio_N: Tensor, logprob_N: Tensor, advantage_N: Tensor, clipping: Clipping, low: float, high: float
) -> Tensor:
    """What is to be made large, at each token [N]: its ratio times its advantage, clipped."""
    ratio_N = log_ratio_N.exp()
    if clipping is Clipping.NONE:
        return ratio_N * advantage_N
    clipped_N = ratio_N.clamp(1 - low, 1 + high)
    if clipping is Clipping.CISPO:
        return clipped_N.detach() * advantage_N * logprob_N
    return torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N)


def clipped(log_ratio_N: Tensor, advantage_N: Tensor, clipping: Clipping, low: float, high: float) -> Tensor:
    """Where clipping acts [N], boolean: under PPO a token that gets no gradient, under CISPO one whose weight is cut."""
    if clipping is Clipping.NONE:
        return torch.zeros_like(log_ratio_N, dtype=torch.bool)
    ratio_N = log_ratio_N.exp()
    above_N, below_N = ratio_N > 1 + high, ratio_N < 1 - low
    if clipping is Clipping.CISPO:
        return above_N | below_N
    return (above_N & (advantage_N > 0)) | (below_N & (advantage_N < 0))


def kl_divergence(logprob_N: Tensor, reference_N: Tensor, estimator: KLEstimator) -> Tensor:
    """The estimate of KL(policy ‖ reference) at each token [N], in nats, differentiable in `logprob_N`."""
    log_N = reference_N - logprob_N
    if estimator is KLEstimator.K1:
        return -log_N
    if estimator is KLEstimator.K2:
        return log_N.square() / 2
    return log_N.exp() - 1 - log_N


def importance_weight(trainer_N: Tensor, sampler_N: Tensor, cap: float) -> Tensor:
    """How much likelier the trainer makes a token than the sampler that drew it, at most `cap` [N]; no gradient.

    Truncated importance sampling between two programs that compute the same policy (Yao et al. 2025, "Your Efficient RL Framework
    Secretly Brings You Off-Policy RL Training"). cap 0: no correction.
    """
    if not cap:
        return torch.ones_like(trainer_N)
    return (trainer_N - sampler_N).detach().exp().clamp(max=cap)


def aggregation_weights(length_S: Tensor, kind: Aggregation, longest: int) -> Tensor:
    """The weight of each token of every completion [S], such that the weighted sum over tokens is the update's loss.

    length_S: tokens of each completion that counts, those without signal included: they are part of the mean.
    """
    count, length_S = len(length_S), length_S.to(torch.float32)
    if kind is Aggregation.TOKEN:
        return torch.full((count,), 1.0) / length_S.sum()
    if kind is Aggregation.SEQUENCE:
        return 1.0 / (length_S * count)
    return torch.full((count,), 1.0 / (longest * count))


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The loss of a micro-batch as `forward` wants it: of some of its tokens, given their log-probabilities.

    old_N: log-probabilities under the trainer's policy that the completions were sampled from; None when that is the policy now, which
    saves a pass. sampler_N: those the engine gave. advantage_N, weight_N: see `advantages`, `aggregation_weights`. reference_N: of
    the reference policy, None without a KL term in the loss. sequence_index_N: the completion of each token. cap: see `importance_weight`.
    """

    objective: Objective
    advantage_N: Tensor
    weight_N: Tensor
    sampler_N: Tensor
    sequence_index_N: Tensor
    old_N: Tensor | None = None
    reference_N: Tensor | None = None
    cap: float = 0.0

    @property
    def needs_all(self) -> bool:
        """Whether every token's log-probability must be known before the loss of any (`seeing_all`)."""
        return self.objective.ratio is Ratio.SEQUENCE and self.old_N is not None

    def log_ratio(self, logprob_N: Tensor, part: slice, sequence_N: Tensor | None) -> Tensor:
        """Of some tokens. sequence_N: of all tokens, where `needs_all`."""
        old_C = logprob_N.detach() if self.old_N is None else self.old_N[part]
        return log_ratio(logprob_N, old_C, None if sequence_N is None else sequence_N[part])

    def sequences(self, logprob_N: Tensor) -> Tensor | None:
        """The sequence ratio's logarithm at each token [N], from the log-probabilities of all; None where the loss has no use for it."""
        if not self.needs_all or self.old_N is None:
            return None
        return sequence_log_ratio(logprob_N, self.old_N, self.sequence_index_N)

    def seeing_all(self, logprob_N: Tensor) -> TokenLoss:
        """The loss, made from the log-probabilities of all tokens."""
        sequence_N = self.sequences(logprob_N)
        return lambda logprob_C, part: self(logprob_C, part, sequence_N)

    def __call__(self, logprob_C: Tensor, part: slice, sequence_N: Tensor | None = None) -> Tensor:
        """The weighted loss of each of the tokens `part` [C], differentiable in `logprob_C`."""
        chosen = self.objective
        log_ratio_C = self.log_ratio(logprob_C, part, sequence_N)
        gain_C = token_objective(
            log_ratio_C, logprob_C, self.advantage_N[part], chosen.clipping, chosen.clip_low, chosen.clip_high
        )
        trainer_C = logprob_C.detach() if self.old_N is None else self.old_N[part]
        loss_C = -gain_C * importance_weight(trainer_C, self.sampler_N[part], self.cap)
        if self.reference_N is not None:
            loss_C = loss_C + chosen.kl * kl_divergence(
                logprob_C, self.reference_N[part], chosen.kl_estimator
            )
        return loss_C * self.weight_N[part]
