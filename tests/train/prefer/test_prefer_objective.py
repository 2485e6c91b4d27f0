"""Losses beside their papers' formulas, and the gradient of a packed step beside the one autograd gives pair by pair."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bethink.chat.toggle import Mode
from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.train.prefer.choices import ALGORITHMS, BRADLEY_TERRY, Objective
from bethink.train.prefer.method import Facts, figures
from bethink.train.prefer.objective import pair_losses, score_gradient
from bethink.train.prefer.scores import Pair, PolicyScorer, Scorer, ValueScorer, pair_batches, scores_of
from bethink.train.prefer.value import RewardModel
from bethink.train.token_store import Sample


def one_pair(chosen: float, rejected: float, reference: tuple[float, float], sizes: tuple[int, int]) -> Any:
    return (
        torch.tensor([chosen, rejected]),
        torch.tensor([float(size) for size in sizes]),
        torch.tensor(reference),
    )


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_the_named_losses_are_those_of_their_papers() -> None:
    c, r, ref_c, ref_r, n_c, n_r = -20.0, -31.0, -24.0, -28.0, 8, 12
    score_S, length_S, reference_S = one_pair(c, r, (ref_c, ref_r), (n_c, n_r))
    ratio = (c - ref_c) - (r - ref_r)
    expected = {
        "dpo": -log_sigmoid(0.1 * ratio),
        "rpo": -log_sigmoid(0.1 * ratio) - c / n_c,
        "hinge": max(0.0, 1 - 0.1 * ratio),
        "ipo": (ratio - 1 / (2 * 0.1)) ** 2,
        "simpo": -log_sigmoid(2.0 * c / n_c - 2.0 * r / n_r - 1.0),
    }
    assert expected.keys() == ALGORITHMS.keys()
    for name, value in expected.items():
        objective = ALGORITHMS[name]
        given = reference_S if objective.reference else None
        assert pair_losses(score_S, length_S, given, objective).item() == pytest.approx(value, rel=1e-6), name
    smoothed = ALGORITHMS["dpo"].replaced({"label_smoothing": 0.2})
    value = -0.8 * log_sigmoid(0.1 * ratio) - 0.2 * log_sigmoid(-0.1 * ratio)
    assert pair_losses(score_S, length_S, reference_S, smoothed).item() == pytest.approx(value, rel=1e-6)
    assert pair_losses(score_S, length_S, None, BRADLEY_TERRY).item() == pytest.approx(-log_sigmoid(c - r))


def test_the_gradient_is_that_of_the_paper() -> None:
    """DPO, section 4: beta times the sigmoid of how wrong the implicit reward is."""
    score_S, length_S, reference_S = one_pair(-20.0, -19.0, (-21.0, -22.0), (5, 5))
    wrong = 1 / (1 + math.exp(0.1 * ((-20.0 + 21.0) - (-19.0 + 22.0))))
    gradient_S = score_gradient(score_S, length_S, reference_S, ALGORITHMS["dpo"])
    torch.testing.assert_close(gradient_S, torch.tensor([-0.1 * wrong, 0.1 * wrong]))


def random_pairs(count: int) -> list[Pair]:
    draw = np.random.default_rng(random.randrange(2**31))

    def ids(low: int, high: int) -> Any:
        return draw.integers(5, 400, draw.integers(low, high)).astype(np.int32)

    pairs = []
    for number in range(count):
        prompt, mode = ids(3, 20), (Mode.OFF, Mode.ON)[number % 2]
        pairs.append((Sample(prompt, ids(1, 25), mode), Sample(prompt, ids(1, 25), mode)))
    return pairs


def written_out_scores(model: Any, pairs: list[Pair], head: Tensor | None) -> Tensor:
    """Every completion by itself through the model, in plain torch."""
    scores = []
    for sample in (one for pair in pairs for one in pair):
        ids = torch.tensor([*sample.prompt_ids.tolist(), *sample.completion_ids.tolist()])[None]
        places = torch.arange(ids.shape[1])[None]
        options: dict[str, Any] = {"position_ids": places, "segments": (ids.shape[1],), "use_cache": False}
        if head is not None:
            hidden = model.get_decoder()(input_ids=ids, **options).last_hidden_state[0, -1]
            scores.append(hidden @ head[0])
            continue
        logprob = model(input_ids=ids, **options).logits[0].log_softmax(-1)
        start = len(sample.prompt_ids)
        scores.append(logprob[start - 1 : -1].gather(1, ids[0, start:, None]).sum())
    return torch.stack(scores)


@pytest.mark.parametrize("capacity", [2000, 64, 16])
@pytest.mark.parametrize("name", [*ALGORITHMS, "reward model"])
def test_a_packed_step_has_the_gradient_of_its_pairs_apart(
    tiny_model_dir: Path, name: str, capacity: int
) -> None:
    model = load_model(locate(str(tiny_model_dir)), dtype=torch.float32, device="cpu").requires_grad_(True)
    pairs = random_pairs(5)
    cpu = torch.device("cpu")
    scorer: Scorer = PolicyScorer(model)
    objective: Objective = BRADLEY_TERRY
    if name == "reward model":
        scorer = ValueScorer(RewardModel(model, seed=1))
    else:
        objective = ALGORITHMS[name].replaced({"label_smoothing": 0.1})
    head = scorer.module.value if isinstance(scorer, ValueScorer) else None
    trained = {n: p for n, p in scorer.module.named_parameters() if head is None or "embed" not in n}

    expected_S = written_out_scores(model, pairs, head)
    reference_P2 = (expected_S.detach() + torch.randn(10)).view(5, 2) if objective.reference else None
    facts = Facts.of(pairs, reference_P2)
    loss_P = pair_losses(expected_S, facts.length_S, facts.reference_S, objective)
    loss_P.mean().backward()
    expected = {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}
    scorer.module.zero_grad()

    torch.testing.assert_close(
        scores_of(scorer, pairs, capacity, cpu).flatten(), expected_S.detach(), rtol=1e-4, atol=1e-4
    )
    batches = pair_batches(scorer, pairs, capacity, cpu)
    assert sorted(i for batch, held in batches if batch.counted for i in held) == [0, 1, 2, 3, 4]
    if capacity == 16:
        assert len(batches) > len(pairs), "pairs are cut"
    total = 0.0
    for batch, held in batches:
        of_held = Facts.of([pairs[i] for i in held], None if reference_P2 is None else reference_P2[held])

        def weigh(score_S: Tensor, of: Facts = of_held) -> Tensor:
            return score_gradient(score_S, of.length_S, of.reference_S, objective) / len(pairs)

        loss, score_S = scorer.loss(batch, weigh)
        loss.backward()
        if batch.counted:
            sums = figures(score_S, of_held, objective, by_token=scorer.by_token)
            total += (sums["loss_on"] + sums["loss_off"]) / len(pairs)
    assert total == pytest.approx(loss_P.mean().item(), rel=1e-5)
    for n, gradient in expected.items():
        found = trained[n].grad
        assert found is not None, n
        torch.testing.assert_close(
            found, gradient, rtol=1e-3, atol=1e-5 * max(1.0, float(gradient.abs().max()))
        )


def test_accuracy_and_margin_are_counted_by_mode() -> None:
    pairs = random_pairs(4)
    facts = Facts.of(pairs, torch.zeros(4, 2))
    score_S = torch.tensor([-1.0, -3.0, -5.0, -4.0, -2.0, -2.0, -1.0, -2.0])
    sums = figures(score_S, facts, ALGORITHMS["dpo"], by_token=True)
    assert (sums["on"], sums["off"]) == (2, 2)
    assert (sums["accuracy_off"], sums["accuracy_on"]) == (1.5, 1.0)
    assert sums["margin_off"] == pytest.approx(0.2)
    assert sums["margin_on"] == pytest.approx(0.0)
    assert F.relu(torch.tensor(sums["loss_on"])) > 0
