"""How far a student's distribution is from a teacher's, as pure functions that bring their gradient along.

C: positions; O: outcomes, the same for both. Each function takes the log-probabilities of the teacher's outcomes (p) and the student's
(q), both [C, O], finite, and gives the divergence at each position in nats [C] and its pull, q · dD/dq [C, O] (up to a multiple of q,
which changes no gradient). With logits behind q, dD/dlogits = pull - q · sum(pull): `logit_gradient`.

Sources: forward and reverse KL and the generalized Jensen-Shannon divergence as in GKD (Agarwal et al. 2024, arXiv 2306.13649, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bethink.train.distill.config import DivergenceName

Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(teacher's log-probabilities [C, O], student's [C, O]) → (divergence [C], pull [C, O])."""


def forward_kl(teacher_CO: Tensor, student_CO: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || student): the student must cover everything the teacher would say. dD/dlogits = q - p."""
    p_CO = teacher_CO.exp()
    return (p_CO * (teacher_CO - student_CO)).sum(1), p_CO.neg_()


def reverse_kl(teacher_CO: Tensor, student_CO: Tensor) -> tuple[Tensor, Tensor]:
    """KL(student || teacher): the student must say nothing that the teacher would not."""
    pull_CO = student_CO.exp() * (student_CO - teacher_CO)
    return pull_CO.sum(1), pull_CO


def jensen_shannon(teacher_CO: Tensor, student_CO: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.

    Divided by beta it is near the forward KL for a small beta, and by 1 - beta near the reverse one for a beta near 1.
    """
    mixture_CO = torch.logaddexp(teacher_CO + math.log(beta), student_CO + math.log1p(-beta))
    pull_CO = (student_CO - mixture_CO).mul_(student_CO.exp()).mul_(1 - beta)
    of_teacher_CO = (teacher_CO - mixture_CO).mul_(teacher_CO.exp())
    return beta * of_teacher_CO.sum(1) + pull_CO.sum(1), pull_CO


def divergence_named(name: DivergenceName, beta: float) -> Divergence:
    """The divergence that the option names."""
    if name == "jsd":
        return partial(jensen_shannon, beta=beta)
    return forward_kl if name == "forward" else reverse_kl


def logit_gradient(pull_CO: Tensor, student_CO: Tensor) -> Tensor:
    """dD/dlogits [C, O], where the student's outcomes are the softmax of logits; written over the pull."""
    return pull_CO.addcmul_(student_CO.exp(), pull_CO.sum(1, keepdim=True), value=-1)
