"""The choices a preference loss is made of; every published algorithm is a row of `ALGORITHMS`. What they compute is objective.py's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class Comparison(StrEnum):
    """What a pair costs, by how much more its chosen completion gained than its rejected one."""

    SIGMOID = "sigmoid"  # minus the log-probability of the preference after Bradley and Terry: DPO, arXiv 2305.18290, equation 7
    HINGE = "hinge"  # nothing beyond a difference of 1 / beta: SLiC, arXiv 2305.10425; on ratios: RSO, arXiv 2309.06657, section 3.2
    SQUARED = "squared"  # the squared distance from a difference of 1 / (2 beta): IPO, arXiv 2310.12036, equation 17


class Length(StrEnum):
    """How the log-probabilities of a completion's tokens become one number."""

    SUM = "sum"
    MEAN = "mean"  # so that a completion gains nothing by its length: SimPO, arXiv 2405.14734, equation 3


@dataclass(frozen=True, slots=True)
class Objective:
    """One choice of each kind.

    reference: what counts is the gain over the policy as it was before training, not the log-probability itself.
    beta: how much a difference counts. margin: by how much, times beta, the chosen completion has to win (SimPO's gamma).
    label_smoothing: the share of pairs taken to be the wrong way round (conservative DPO: Mitchell 2023, "A note on DPO with noisy
    preferences"). sft: the weight of the chosen completions' cross-entropy beside it, each completion's a mean over its tokens.
    """

    comparison: Comparison
    reference: bool = True
    length: Length = Length.SUM
    beta: float = 0.1
    margin: float = 0.0
    label_smoothing: float = 0.0
    sft: float = 0.0

    def replaced(self, choices: Mapping[str, Any]) -> Objective:
        """The same with other choices, by name."""
        return replace(self, **choices)


ALGORITHMS: dict[str, Objective] = {
    # Rafailov et al. 2023, arXiv 2305.18290, equation 7; beta of its section 6.
    "dpo": Objective(Comparison.SIGMOID),
    # Pang et al. 2024 (iterative RPO), arXiv 2404.19733, equation 1: DPO, and the cross-entropy of what was chosen.
    "rpo": Objective(Comparison.SIGMOID, sft=1.0),
    # Liu et al. 2023 (RSO), arXiv 2309.06657, section 3.2: SLiC's hinge on DPO's ratios.
    "hinge": Objective(Comparison.HINGE),
    # Azar et al. 2023, arXiv 2310.12036, equation 17, where beta is called tau.
    "ipo": Objective(Comparison.SQUARED),
    # Meng et al. 2024, arXiv 2405.14734, equation 6: no reference; gamma / beta of 0.5, with which its section 4 begins.
    "simpo": Objective(Comparison.SIGMOID, reference=False, length=Length.MEAN, beta=2.0, margin=1.0),
}
"""The published algorithms by name, with their papers' settings."""

BRADLEY_TERRY = Objective(Comparison.SIGMOID, reference=False, beta=1.0)
"""A reward model's: minus the log-probability that the chosen completion's reward is the higher one (arXiv 2203.02155, equation 1)."""
