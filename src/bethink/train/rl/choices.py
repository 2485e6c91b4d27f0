"""The choices a policy loss is made of; every published algorithm is a row of `ALGORITHMS`. What they compute is objective.py's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class Advantage(StrEnum):
    """How much better a completion is than its group."""

    GROUP = "group"  # centred and divided by the group's standard deviation: GRPO, arXiv 2402.03300, section 4.1.2
    CENTRED = "centred"  # centred only, so that easy and hard groups do not weigh more: Dr. GRPO, arXiv 2503.20783, section 3.2
    LEAVE_ONE_OUT = "leave_one_out"  # minus the mean of the others: RLOO, arXiv 2402.14740, section 3.3


class Ratio(StrEnum):
    """What is compared between the policy now and the policy that sampled."""

    TOKEN = "token"
    SEQUENCE = (
        "sequence"  # the geometric mean over the completion's tokens: GSPO, arXiv 2507.18071, section 4.1
    )


class Clipping(StrEnum):
    """What is done where the policies have moved apart by more than the clip range."""

    PPO = "ppo"  # no more gain beyond it: PPO, arXiv 1707.06347, equation 7
    CISPO = "cispo"  # the weight is clipped and every token keeps its gradient: MiniMax-M1, arXiv 2506.13585, section 3.1
    NONE = "none"


class Aggregation(StrEnum):
    """How token losses become the loss of an update."""

    TOKEN = "token"  # the mean over all tokens: DAPO, arXiv 2503.14476, section 3.3
    SEQUENCE = "sequence"  # the mean over each completion's tokens, then over completions: GRPO
    CONSTANT = "constant"  # the sum over tokens by the longest length allowed, then the mean over completions: Dr. GRPO


class KLEstimator(StrEnum):
    """Estimators of KL(policy ‖ reference) from sampled tokens (Schulman, "Approximating KL Divergence", 2020)."""

    K1 = "k1"  # unbiased, may be negative
    K2 = "k2"  # half the square: biased, with the gradient of the KL divergence itself
    K3 = "k3"  # unbiased and never negative


class KLPlace(StrEnum):
    """Where the KL term acts."""

    LOSS = "loss"
    REWARD = "reward"  # summed over the completion and taken off its reward, before advantages


@dataclass(frozen=True, slots=True)
class Objective:
    """One choice of each kind.

    clip_low, clip_high: the ratio's range is [1 - clip_low, 1 + clip_high]; a wider upper side is DAPO's "clip-higher".
    kl: the KL term's coefficient, 0 for none.
    """

    advantage: Advantage
    ratio: Ratio
    clipping: Clipping
    aggregation: Aggregation
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0
    kl_estimator: KLEstimator = KLEstimator.K3
    kl_place: KLPlace = KLPlace.LOSS

    def replaced(self, choices: Mapping[str, Any]) -> Objective:
        """The same with other choices, by name."""
        return replace(self, **choices)

    @property
    def kl_in_loss(self) -> bool:
        """Whether the loss holds a KL term."""
        return self.kl > 0 and self.kl_place is KLPlace.LOSS

    @property
    def kl_in_reward(self) -> bool:
        """Whether rewards are lowered by a KL term."""
        return self.kl > 0 and self.kl_place is KLPlace.REWARD


ALGORITHMS: dict[str, Objective] = {
    # Shao et al. 2024, arXiv 2402.03300, equations 3 and 4. DeepSeek-R1 sets the KL coefficient to 0.001.
    "grpo": Objective(Advantage.GROUP, Ratio.TOKEN, Clipping.PPO, Aggregation.SEQUENCE, kl=0.04),
    # Liu et al. 2025, arXiv 2503.20783, section 3.2: no division by the deviation or by the length, no KL term.
    "dr_grpo": Objective(Advantage.CENTRED, Ratio.TOKEN, Clipping.PPO, Aggregation.CONSTANT),
    # Yu et al. 2025, arXiv 2503.14476, equations 8 to 10; its dynamic sampling and overlong penalty are settings of the run.
    "dapo": Objective(Advantage.GROUP, Ratio.TOKEN, Clipping.PPO, Aggregation.TOKEN, clip_high=0.28),
    # Zheng et al. 2025, arXiv 2507.18071, equation 5, with the clip range of its section 5.1.
    "gspo": Objective(
        Advantage.GROUP, Ratio.SEQUENCE, Clipping.PPO, Aggregation.SEQUENCE, clip_low=3e-4, clip_high=4e-4
    ),
    # MiniMax 2025, arXiv 2506.13585, equations 4 and 5: no lower bound, which is one that no ratio reaches.
    "cispo": Objective(
        Advantage.GROUP, Ratio.TOKEN, Clipping.CISPO, Aggregation.TOKEN, clip_low=1.0, clip_high=0.28
    ),
    # Ahmadian et al. 2024, arXiv 2402.14740, equation 9: REINFORCE, the KL term in the reward.
    "rloo": Objective(
        Advantage.LEAVE_ONE_OUT,
        Ratio.TOKEN,
        Clipping.NONE,
        Aggregation.CONSTANT,
        kl=0.03,
        kl_estimator=KLEstimator.K1,
        kl_place=KLPlace.REWARD,
    ),
}
"""The published algorithms by name, with their papers' settings."""
