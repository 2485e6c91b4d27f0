"""What a teacher says of some positions, of every token or of its likeliest alone, and a student's distance from it.

Where a teacher's k likeliest tokens are known and no others, both distributions are looked at coarsely: k outcomes are tokens, one more
is all other tokens together (the rest). The divergence of the coarse distributions is never more than that of the whole ones (the data
processing inequality), is zero only where the k tokens and the rest have the teacher's mass, and is the whole one at k = V. Leaving the rest
out, or spreading the k tokens' mass to 1, would be no divergence: the student could win by moving mass to or from unknown tokens.
C: positions; V: the vocabulary both models know; K: the teacher's likeliest tokens; O: outcomes, V of them or K + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bethink.train.distill.divergence import Divergence, logit_gradient

NEVER = -1e4
"""The log-probability of what has no mass: finite, so that 0 · log 0 is 0, and its exponential is 0."""


@dataclass(frozen=True, slots=True)
class Target:
    """The teacher's log-probabilities at some positions, float32, each row's adding up to 1.

    logprob_CO: of every token in the order of their ids; or, with token_ids_CK, of those tokens, the likeliest first, and of the rest.
    """

    logprob_CO: Tensor
    token_ids_CK: Tensor | None = None

    @property
    def likeliest(self) -> Tensor:
        """The token the teacher would choose, at each position [C]."""
        return self.logprob_CO.argmax(1) if self.token_ids_CK is None else self.token_ids_CK[:, 0]


TargetOf = Callable[[slice], Target]
"""Which of a micro-batch's learned positions → what the teacher says of them."""


def tempered(logits_CV: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of logits divided by a temperature, float32; a new tensor."""
    if temperature == 1:
        return logits_CV.log_softmax(1, dtype=torch.float32)
    return (logits_CV.float() / temperature).log_softmax(1)


def coarsened(logprob_CV: Tensor, k: int) -> Target:
    """The k likeliest tokens and the rest; the log-probabilities given are written over."""
    top_CK, token_ids_CK = logprob_CV.topk(k, dim=1)
    return Target(_with_rest(top_CK, logprob_CV.scatter_(1, token_ids_CK, -torch.inf)), token_ids_CK)


def distance(
    logits_CV: Tensor, target: Target, divergence: Divergence, temperature: float
) -> tuple[Tensor, Tensor]:
    """The divergence between target and student at each position [C], and its gradient with respect to the logits [C, V]; float32.

    logits_CV: the student's, of the vocabulary both know; temperature: what they are divided by, as the teacher's were.
    """
    logprob_CV = tempered(logits_CV, temperature)
    if target.token_ids_CK is None:
        value_C, pull_CV = divergence(target.logprob_CO, logprob_CV)
        return value_C, logit_gradient(pull_CV, logprob_CV).div_(temperature)
    token_ids_CK = target.token_ids_CK
    rest_CV = logprob_CV.scatter(1, token_ids_CK, -torch.inf)
    student_CO = _with_rest(logprob_CV.gather(1, token_ids_CK), rest_CV)
    value_C, pull_CO = divergence(target.logprob_CO, student_CO)
    grad_CO = logit_gradient(pull_CO, student_CO)
    # The rest's gradient goes to its tokens by their share of it.
    grad_CV = rest_CV.sub_(student_CO[:, -1:]).exp_().mul_(grad_CO[:, -1:])
    return value_C, grad_CV.scatter_(1, token_ids_CK, grad_CO[:, :-1]).div_(temperature)


def _with_rest(logprob_CK: Tensor, rest_CV: Tensor) -> Tensor:
    """The outcomes: K tokens, and what the others are together. rest_CV: log-probabilities, of the K tokens minus infinity."""
    return torch.cat([logprob_CK, rest_CV.logsumexp(1, keepdim=True).clamp_min(NEVER)], dim=1)
