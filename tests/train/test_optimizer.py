"""The schedule, clipping, and float32 masters."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bethink.train.optimizer import MasterAdamW, learning_rate, round_compute_copies


@given(steps=st.integers(1, 400), warmup=st.floats(0, 1), floor=st.floats(0, 1))
def test_the_learning_rate_rises_to_its_peak_and_falls_to_no_less_than_its_floor(
    steps: int, warmup: float, floor: float
) -> None:
    rates = [learning_rate(step, steps, 1.0, warmup, floor) for step in range(steps)]
    warm = max(1, round(warmup * steps))
    assert all(0 < rate <= 1 for rate in rates[: steps - 1])
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm - 1 :] == sorted(rates[warm - 1 :], reverse=True)
    assert rates[min(warm, steps) - 1] == pytest.approx(1.0 if warm <= steps else steps / warm)
    assert all(rate >= floor - 1e-12 for rate in rates[warm:])


def test_the_first_step_moves_and_the_last_is_almost_still() -> None:
    rates = [learning_rate(step, 100, 1e-4, 0.05) for step in range(100)]
    assert rates[0] == pytest.approx(2e-5)
    assert rates[4] == rates[5] == 1e-4
    assert rates[-1] < 1e-7


def test_bf16_parameters_follow_a_float32_master_through_steps_too_small_for_bf16() -> None:
    torch.manual_seed(0)
    exact = nn.Linear(8, 8, bias=False)
    rounded = nn.Linear(8, 8, bias=False)
    rounded.load_state_dict(exact.state_dict())
    masters = round_compute_copies(rounded, torch.bfloat16)
    assert rounded.weight.dtype == torch.bfloat16
    assert torch.equal(masters["weight"], exact.weight)
    ours = MasterAdamW(rounded.named_parameters(), weight_decay=0.0, clip=0.0, masters=masters)
    reference = torch.optim.AdamW(exact.parameters(), lr=1e-5, weight_decay=0.0)
    for _ in range(50):
        for model in (exact, rounded):
            model.weight.sum().backward()
        ours.step(1e-5)
        reference.step()
        reference.zero_grad()
    torch.testing.assert_close(masters["weight"], exact.weight, rtol=0, atol=1e-6)
    assert torch.equal(rounded.weight, masters["weight"].bfloat16())


def test_gradients_of_micro_batches_add_up_in_float32() -> None:
    layer = nn.Linear(4, 4, bias=False).bfloat16()
    optimizer = MasterAdamW(layer.named_parameters(), weight_decay=0.0, clip=0.0)
    parts = [1.0, 2.0**-9, 2.0**-9]  # in bfloat16 the small ones would vanish beside the first
    for part in parts:
        (layer.weight.float().sum() * part).backward()
    assert layer.weight.grad is None
    assert optimizer.step(0.0) == pytest.approx(4 * sum(parts), rel=1e-6)


def test_clipping_bounds_the_update_and_reports_the_norm_before_it() -> None:
    layer = nn.Linear(3, 3, bias=False)
    optimizer = MasterAdamW(layer.named_parameters(), weight_decay=0.0, clip=1.0)
    (layer.weight.sum() * 100).backward()
    assert optimizer.step(0.0) == pytest.approx(300.0)
    (layer.weight.sum() * 100).backward()
    moment = optimizer.state_dict()["exp_avg.weight"]
    assert float(moment.norm()) == pytest.approx(0.1, rel=1e-3)


def test_a_gradient_that_is_not_finite_does_not_touch_the_weights() -> None:
    layer = nn.Linear(3, 3, bias=False)
    before = layer.weight.detach().clone()
    optimizer = MasterAdamW(layer.named_parameters(), weight_decay=0.0, clip=1.0)
    (layer.weight.sum() * math.inf).backward()
    assert not math.isfinite(optimizer.step(0.1))
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("beta2", [0.95, 0.999])
def test_the_second_moment_forgets_as_it_is_told(beta2: float) -> None:
    torch.manual_seed(0)
    ours, plain = nn.Linear(3, 3), nn.Linear(3, 3)
    plain.load_state_dict(ours.state_dict())
    optimizer = MasterAdamW(ours.named_parameters(), weight_decay=0.0, clip=0.0, beta2=beta2)
    reference = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.0, betas=(0.9, beta2))
    for scale in (1.0, 30.0, 0.1, 0.1):
        for model in (ours, plain):
            (model(torch.ones(3)).square().sum() * scale).backward()
        optimizer.step(1e-2)
        reference.step()
        reference.zero_grad()
    torch.testing.assert_close(ours.weight, plain.weight)


def test_vectors_are_not_decayed() -> None:
    layer = nn.Linear(3, 3)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    optimizer = MasterAdamW(layer.named_parameters(), weight_decay=0.1, clip=0.0)
    (sum(parameter.sum() for parameter in layer.parameters()) * 0.0).backward()  # type: ignore[union-attr]
    optimizer.step(0.5)
    torch.testing.assert_close(layer.weight.detach(), before[0] * 0.95)
    assert torch.equal(layer.bias.detach(), before[1])
