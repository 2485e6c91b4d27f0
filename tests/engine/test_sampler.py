"""A drawn token follows the distribution its parameters say, and comes from its own uniform number alone."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bethink.engine.api import SamplingParams
from bethink.engine.sampler import Rules, draw, rules_of, uniforms

CPU = torch.device("cpu")


def rules(*params: SamplingParams, vocabulary: int = 49_152) -> tuple[Rules, ...]:
    """As for a large vocabulary, so that few rows are worked on at a time."""
    return rules_of(params, vocabulary, CPU)


def even_uniforms(count: int) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def distribution(logits_V: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """The textbook: temperature, then top-k, then top-p on what is left, then min-p; float64, everything sorted."""
    probability_V = (logits_V.double() / params.temperature).softmax(-1)
    order = probability_V.argsort(descending=True, stable=True)
    sorted_V = probability_V[order].clone()
    if params.top_k:
        sorted_V[params.top_k :] = 0
    sorted_V /= sorted_V.sum()
    before_V = sorted_V.cumsum(0) - sorted_V
    if params.top_p < 1:
        sorted_V[before_V >= params.top_p] = 0
    sorted_V[sorted_V < params.min_p * sorted_V[0]] = 0
    return torch.zeros_like(sorted_V).scatter(0, order, sorted_V / sorted_V.sum())


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 3000) | st.integers(1, 190).map(lambda sixteens: 16 * sixteens),
    st.floats(0.2, 3.0),
    st.sampled_from([0, 0, 1, 5, 64, 300, 5000]),
    st.sampled_from([1.0, 1.0, 0.3, 0.95, 0.999]),
    st.sampled_from([0.0, 0.0, 0.05, 0.5]),
)
def test_draws_follow_the_textbook_distribution(
    seed: int, vocabulary: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits_V = torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * 3
    params = SamplingParams(1, temperature, top_p, top_k, min_p)
    expected_V = distribution(logits_V, params)
    count = 1000
    token_B, _ = draw(
        logits_V.expand(count, -1).clone(), rules(*[params] * count, vocabulary=10), even_uniforms(count)
    )
    share_V = torch.bincount(token_B, minlength=vocabulary).double() / count
    # Evenly spread uniforms hit every token as often as its probability says, to within one draw at each end.
    assert (share_V - expected_V).abs().max() <= 2.01 / count
    assert expected_V[token_B].min() > 0


def test_seeded_draws_pass_a_chi_square_test() -> None:
    logits_V = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -2.0, 1.5])
    count = 20_000
    seeds = [random.SystemRandom().randrange(2**63) for _ in range(count)]
    for params in (SamplingParams(1, 0.8), SamplingParams(1, 0.8, top_p=0.9)):
        uniform_B = torch.from_numpy(uniforms(seeds, [0] * count))
        token_B, _ = draw(
            logits_V.expand(count, -1).clone(), rules(*[params] * count, vocabulary=10), uniform_B
        )
        expected = distribution(logits_V, params) * count
        seen = torch.bincount(token_B, minlength=7).double()
        possible = expected > 0
        assert seen[~possible].sum() == 0
        statistic = ((seen - expected)[possible] ** 2 / expected[possible]).sum()
        # Six degrees of freedom at most: exceeded once in a million runs.
        assert statistic < 38


def test_uniforms_are_uniform_and_independent() -> None:
    values = uniforms([7] * 50_000, list(range(50_000)))
    other = uniforms([8] * 50_000, list(range(50_000)))
    first = uniforms(list(range(50_000)), [0] * 50_000)
    for column in (values, other, first):
        assert 0 <= column.min() <= column.max() < 1
        assert abs(column.mean() - 0.5) < 0.01
        assert np.histogram(column, 50)[0].std() < 4 * math.sqrt(1000)
        assert abs(np.corrcoef(column[1:], column[:-1])[0, 1]) < 0.03
    assert abs(np.corrcoef(values, other)[0, 1]) < 0.03


@settings(deadline=None)
@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**40))
def test_a_uniform_depends_on_its_own_seed_and_index_alone(seed: int, index: int) -> None:
    assert uniforms([1, seed, 2], [5, index, 9])[1] == uniforms([seed], [index])[0]


def test_rows_of_all_kinds_in_one_batch_draw_as_they_do_alone() -> None:
    generator = torch.Generator().manual_seed(random.SystemRandom().randrange(2**31))
    kinds = [
        SamplingParams(1),
        SamplingParams(1, 0.7),
        SamplingParams(1, 1.3, top_k=3),
        SamplingParams(1, 0.6, top_p=0.95),
        SamplingParams(1, 1.0, min_p=0.1),
        SamplingParams(1, 5.0, top_p=0.99),
    ]
    params = [random.choice(kinds) for _ in range(40)]
    logits_BV = torch.randn(40, 2000, generator=generator)
    uniform_B = torch.rand(40, generator=generator, dtype=torch.float64)
    token_B, logprob_B = draw(logits_BV.clone(), rules(*params), uniform_B)
    for row, param in enumerate(params):
        token, logprob = draw(logits_BV[row : row + 1].clone(), rules(param), uniform_B[row : row + 1])
        assert token == token_B[row]
        assert torch.allclose(logprob, logprob_B[row], atol=1e-5)
    expected = logits_BV.log_softmax(-1).gather(-1, token_B[:, None])[:, 0]
    assert torch.allclose(logprob_B, expected, atol=1e-5)


def test_greedy_is_the_first_argmax() -> None:
    for vocabulary in (1000, 1024):
        logits_BV = torch.randn(8, vocabulary).round(decimals=1)
        token_B, _ = draw(logits_BV, rules(*[SamplingParams(1)] * 8), even_uniforms(8))
        first_B = (logits_BV == logits_BV.amax(-1, keepdim=True)).int().argmax(-1)
        assert torch.equal(token_B, first_B)


def test_a_forced_token_is_taken_with_its_own_logprob() -> None:
    logits_BV = torch.randn(3, 50)
    token_B, logprob_B = draw(
        logits_BV.clone(),
        rules(*[SamplingParams(1, 1.0)] * 3),
        even_uniforms(3),
        torch.tensor([-1, 17, -1]),
    )
    assert token_B[1] == 17
    assert torch.isclose(logprob_B[1], logits_BV[1].log_softmax(-1)[17])


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_tokens_of_no_probability_are_never_drawn(uniform: float) -> None:
    logits_BV = torch.full((2, 1000), float("-inf"))
    logits_BV[:, 300:310] = 0.0
    for params in (
        SamplingParams(1, 1.0),
        SamplingParams(1, 1.0, top_p=0.9),
        SamplingParams(1, 1.0, top_k=100),
    ):
        token_B, logprob_B = draw(
            logits_BV.clone(), rules(params, params), torch.full((2,), uniform, dtype=torch.float64)
        )
        assert ((token_B >= 300) & (token_B < 310)).all()
        assert torch.allclose(logprob_B, torch.tensor(-math.log(10.0)))


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0, 1e-5, exclude_max=True),
    st.sampled_from([0, 5]),
    st.sampled_from([1.0, 0.9]),
    st.integers(0, 2**32 - 1),
)
def test_a_temperature_that_is_next_to_nothing_is_greedy_and_leaves_the_neighbours_alone(
    temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    logits_BV = torch.randn(3, 700, generator=torch.Generator().manual_seed(seed)) * 5
    warm = SamplingParams(1, 1.0)
    uniform_B = torch.full((3,), 0.999, dtype=torch.float64)
    token_B, _ = draw(logits_BV, rules(warm, SamplingParams(1, temperature, top_p, top_k), warm), uniform_B)
    assert token_B[1] == logits_BV[1].argmax()
    alone_B, _ = draw(logits_BV[::2].clone(), rules(warm, warm), uniform_B[::2])
    assert token_B[::2].tolist() == alone_B.tolist()
