"""Every divergence against its definition written out plainly, value and gradient, of all tokens and of the likeliest alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from bethink.train.distill.divergence import divergence_named
from bethink.train.distill.target import NEVER, Target, coarsened, distance, tempered

NAMES: Any = ["forward", "reverse", "jsd"]
POSITIONS, VOCABULARY = 11, 37


@pytest.fixture
def generator() -> torch.Generator:
    seed = random.SystemRandom().randrange(2**31)
    print(f"logits of seed {seed}")
    return torch.Generator().manual_seed(seed)


def logits(generator: torch.Generator, spread: float = 2.0) -> Tensor:
    return torch.randn(POSITIONS, VOCABULARY, generator=generator, dtype=torch.float64) * spread


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of probabilities, an outcome without mass in p counting nothing."""
    return torch.where(p > 0, p * (p.log() - q.log()), 0.0).sum(1)


def plain(name: str, beta: float, p: Tensor, q: Tensor) -> Tensor:
    """The definition, of probabilities."""
    if name == "forward":
        return kl(p, q)
    if name == "reverse":
        return kl(q, p)
    mixture = beta * p + (1 - beta) * q
    return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)


def grouped(p: Tensor, token_ids: Tensor) -> Tensor:
    """Probabilities of some tokens and of all others together."""
    return torch.cat([p.gather(1, token_ids), 1 - p.gather(1, token_ids).sum(1, keepdim=True)], 1)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_those_of_the_definition(
    generator: torch.Generator, name: Any, beta: float, temperature: float
) -> None:
    teacher, student = logits(generator), logits(generator).requires_grad_()
    expected = plain(name, beta, (teacher / temperature).softmax(1), (student / temperature).softmax(1))
    (gradient,) = torch.autograd.grad(expected.sum(), student)
    target = Target(tempered(teacher.float(), temperature))
    value, found = distance(student.detach().float(), target, divergence_named(name, beta), temperature)
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.double(), gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5, 36])
@pytest.mark.parametrize("name", NAMES)
def test_the_likeliest_tokens_and_the_rest_are_a_divergence_of_their_own(
    generator: torch.Generator, name: Any, k: int
) -> None:
    teacher, student = logits(generator), logits(generator).requires_grad_()
    target = coarsened(tempered(teacher.float(), 1.5), k)
    assert target.token_ids_CK is not None
    p, q = (teacher / 1.5).softmax(1), (student / 1.5).softmax(1)
    expected = plain(name, 0.3, grouped(p, target.token_ids_CK), grouped(q, target.token_ids_CK))
    (gradient,) = torch.autograd.grad(expected.sum(), student)
    value, found = distance(student.detach().float(), target, divergence_named(name, 0.3), 1.5)
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.double(), gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_looking_coarsely_never_finds_more_and_with_all_tokens_finds_it_all(
    generator: torch.Generator, name: Any
) -> None:
    teacher, student = logits(generator).float(), logits(generator).float()
    divergence = divergence_named(name, 0.5)
    whole, gradient = distance(student, Target(tempered(teacher, 1.0)), divergence, 1.0)
    before = torch.zeros(POSITIONS)
    for k in (1, 2, 4, 8, 16, 32, VOCABULARY):
        value, found = distance(student, coarsened(tempered(teacher, 1.0), k), divergence, 1.0)
        assert (value >= before - 1e-5).all()
        before = value
    torch.testing.assert_close(value, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [3, None])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_zero_with_no_gradient_at_the_teacher_and_positive_elsewhere(
    generator: torch.Generator, name: Any, k: int | None
) -> None:
    teacher = logits(generator).float()
    logprob = tempered(teacher, 1.0)
    target = Target(logprob) if k is None else coarsened(logprob.clone(), k)
    divergence = divergence_named(name, 0.5)
    value, gradient = distance(teacher + 7, target, divergence, 1.0)  # logits are known up to a constant
    assert value.abs().max() < 1e-5
    assert gradient.abs().max() < 1e-5
    other, pushed = distance(logits(generator).float(), target, divergence, 1.0)
    assert (other > 1e-4).all()
    torch.testing.assert_close(pushed.sum(1), torch.zeros(POSITIONS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_give_finite_numbers(generator: torch.Generator, name: Any) -> None:
    teacher, student = logits(generator, 300.0).float(), logits(generator, 300.0).float()
    for target in (
        Target(tempered(teacher, 1.0)),
        coarsened(tempered(teacher, 1.0), 2),
        coarsened(tempered(teacher, 1.0), VOCABULARY),
    ):
        value, gradient = distance(student, target, divergence_named(name, 0.5), 1.0)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()
        assert (target.logprob_CO >= NEVER).all()


def test_jensen_shannon_lies_between_the_two_and_is_bounded(generator: torch.Generator) -> None:
    teacher, student = logits(generator, 1.0).float(), logits(generator, 1.0).float()
    target = Target(tempered(teacher, 1.0))

    def value(name: Any, beta: float) -> Tensor:
        return distance(student, target, divergence_named(name, beta), 1.0)[0]

    torch.testing.assert_close(value("jsd", 1e-3) / 1e-3, value("forward", 0.5), rtol=0.05, atol=1e-2)
    torch.testing.assert_close(value("jsd", 1 - 1e-3) / 1e-3, value("reverse", 0.5), rtol=0.05, atol=1e-2)
    assert (value("jsd", 0.5) <= torch.log(torch.tensor(2.0))).all()


@pytest.mark.parametrize("name", ["reverse", "jsd"])
def test_only_the_forward_divergence_teaches_what_a_student_never_says(name: Any) -> None:
    """Where the teacher is sure of a token and the student of another, two of the three have next to no gradient."""
    teacher, student = torch.tensor([[8.0, -8.0]]), torch.tensor([[-8.0, 8.0]])
    target = Target(tempered(teacher, 1.0))
    largest = {
        n: distance(student, target, divergence_named(n, 0.5), 1.0)[1].abs().max() for n in ("forward", name)
    }
    assert largest["forward"] > 0.99
    assert largest[name] < 1e-3
