"""A micro-batch's loss and gradients against transformers' own logits and autograd, one sample at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bethink.chat.toggle import Mode
from bethink.models.lora import LoRAConfig, add_lora
from bethink.train.batch import packed_batches
from bethink.train.distill.divergence import divergence_named
from bethink.train.distill.loss import UNHEARD, Objective, compare
from bethink.train.distill.target import TargetOf, coarsened
from bethink.train.distill.teacher import Teacher
from bethink.train.memory import chunk_tokens
from bethink.train.token_store import Sample
from engine.tiny import VOCABULARY, tiny
from train.steps import assert_same, gradients

TEMPERATURE, SHARE = 1.7, 0.25
TOKENS = VOCABULARY - 13
"""The tokenizer's: the models have more rows."""


@pytest.fixture
def rng() -> np.random.Generator:
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed {seed}")
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def samples_of(rng: np.random.Generator, lengths: Sequence[tuple[int, int]]) -> list[Sample]:
    def ids(count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        return rng.integers(0, TOKENS, count, dtype=np.int32)

    return [Sample(ids(p), ids(c), (Mode.ON, Mode.OFF)[i % 2]) for i, (p, c) in enumerate(lengths)]


def plain_divergence(name: str, teacher_TV: Tensor, student_TV: Tensor) -> Tensor:
    """Of logits, with torch's own KL."""
    t, s = (logits.div(TEMPERATURE).log_softmax(-1) for logits in (teacher_TV, student_TV))

    def kl(one: Tensor, other: Tensor) -> Tensor:
        return nn.functional.kl_div(other, one, reduction="none", log_target=True).sum(-1)

    if name == "jsd":
        m = (0.3 * t.exp() + 0.7 * s.exp()).log()
        return 0.3 * kl(t, m) + 0.7 * kl(s, m)
    return kl(t, s) if name == "forward" else kl(s, t)


def reference(name: str, student: Any, teacher: Any, samples: Sequence[Sample], rows: int) -> float:
    """The loss summed over samples, of which the first `rows` have a share of cross-entropy; gradients are left in the student."""
    total = 0.0
    for number, sample in enumerate(samples):
        ids = torch.tensor([*sample.prompt_ids.tolist(), *sample.completion_ids.tolist()])
        split = slice(len(sample.prompt_ids) - 1, -1)
        logits_TV = student(input_ids=ids[None], use_cache=False).logits[0, split]
        with torch.no_grad():
            teacher_TV = teacher(input_ids=ids[None], use_cache=False).logits[0, split, :TOKENS]
        distance_T = TEMPERATURE**2 * plain_divergence(name, teacher_TV, logits_TV[:, :TOKENS])
        nll_T = nn.functional.cross_entropy(logits_TV, ids[len(sample.prompt_ids) :], reduction="none")
        share = SHARE if number < rows else 0.0
        loss = ((1 - share) * distance_T + share * nll_T).sum()
        loss.backward()
        total += float(loss.detach())
    return total


def ours(name: Any, student: Any, teacher: Any, samples: Sequence[Sample], rows: int, k: int | None) -> float:
    """The same, packed; with k only the teacher's k likeliest tokens are known."""
    objective = Objective(divergence_named(name, 0.3), TEMPERATURE, SHARE, TOKENS)
    asked = Teacher(teacher, TOKENS, TEMPERATURE)
    learned = sum(len(sample.completion_ids) for sample in samples[:rows])
    total = 0.0
    for batch in packed_batches(samples, 256):
        targets: TargetOf = asked.targets(batch, batch.source_N)
        if k is not None:
            whole = targets
            targets = lambda part, whole=whole: coarsened(whole(part).logprob_CO, k)  # noqa: E731
        found = compare(student, batch, targets, objective, batch.source_N < learned)
        torch.testing.assert_close(found.loss.detach(), found.loss_N.sum(), rtol=1e-5, atol=1e-4)
        found.loss.backward()
        total += float(found.loss.detach())
    return total


@pytest.mark.parametrize("k", [None, TOKENS])
@pytest.mark.parametrize("name", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("kind", ["lora", "tied", "untied"])
def test_loss_and_gradients_are_those_of_full_logits(
    rng: np.random.Generator, name: str, kind: str, k: int | None
) -> None:
    student = tiny(tie_word_embeddings=kind == "tied")
    teacher = tiny(hidden_size=48, vocab_size=VOCABULARY + 20)
    if kind == "lora":
        add_lora(
            student, LoRAConfig(rank=3, alpha=6, dropout=0.0, targets="all-linear"), int(rng.integers(2**31))
        )
        with torch.no_grad():
            for parameter in student.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
    samples = samples_of(rng, [(7, 100), (12, 90), (1, 40), (30, 1), (5, 60)])
    assert sum(len(s.completion_ids) for s in samples) > 2 * chunk_tokens("cpu")
    expected = reference(name, student, teacher, samples, rows=3)
    theirs = gradients(student)
    found = ours(name, student, teacher, samples, 3, k)
    assert found == pytest.approx(expected, rel=1e-5)
    # Sums over hundreds of tokens: as means they are compared to 1e-5.
    count = sum(len(s.completion_ids) for s in samples)
    assert_same(
        {n: g / count for n, g in gradients(student).items()}, {n: g / count for n, g in theirs.items()}
    )


class _Widest(TorchDispatchMode):
    """Remembers the most rows of any tensor as wide as the vocabulary."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor) and one.ndim == 2 and one.shape[1] >= TOKENS:
                self.rows = max(self.rows, one.shape[0])
        return made


def test_logits_of_a_whole_row_are_never_there(rng: np.random.Generator) -> None:
    student, teacher = tiny(), tiny()
    (batch,) = packed_batches(samples_of(rng, [(2, 100)] * 4), 512)
    objective = Objective(divergence_named("jsd", 0.5), 1.0, SHARE, TOKENS)
    asked = Teacher(teacher, TOKENS, 1.0)
    with _Widest() as widest:
        found = compare(student, batch, asked.targets(batch, batch.source_N), objective, batch.source_N >= 0)
        found.loss.backward()
    assert 0 < widest.rows <= chunk_tokens("cpu") < len(found.loss_N)


def test_figures_of_each_token(rng: np.random.Generator) -> None:
    student, teacher = tiny(), tiny()
    with torch.no_grad():  # sure enough to have next to no probability for some tokens
        student.get_output_embeddings().weight.mul_(20)
    samples = samples_of(rng, [(4, 9)])
    (batch,) = packed_batches(samples, 64)
    objective = Objective(divergence_named("forward", 0.5), 1.0, 0.0, TOKENS)
    with torch.no_grad():
        found = compare(
            student,
            batch,
            Teacher(teacher, TOKENS, 1.0).targets(batch, batch.source_N),
            objective,
            batch.source_N >= 0,
        )
        ids = torch.tensor([*samples[0].prompt_ids.tolist(), *samples[0].completion_ids.tolist()])[None]
        student_TV, teacher_TV = (
            m(input_ids=ids, use_cache=False).logits[0, 3:-1] for m in (student, teacher)
        )
    logprob_TV = student_TV.log_softmax(-1)
    torch.testing.assert_close(
        found.entropy_N, -(logprob_TV.exp() * logprob_TV).sum(-1), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        found.logprob_N, logprob_TV.gather(1, ids[0, 4:, None])[:, 0], rtol=1e-4, atol=1e-4
    )
    agree = student_TV[:, :TOKENS].argmax(-1) == teacher_TV[:, :TOKENS].argmax(-1)
    assert found.agrees_N.bool().tolist() == agree.tolist()
    chosen = teacher_TV[:, :TOKENS].argmax(-1, keepdim=True)
    unheard = logprob_TV.exp().gather(1, chosen)[:, 0] < UNHEARD
    assert found.unheard_N.bool().tolist() == unheard.tolist()
    assert unheard.any()
