"""The fused adapted layer computes what its formula says, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bethink.models.lora_layer import LoRALinear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12), (12,)])
def test_output_and_gradients_equal_the_formula(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(12, 9, bias=bias), rank=3, scale=1.7)
    nn.init.normal_(layer.lora_A)
    nn.init.normal_(layer.lora_B)
    x, same_x = (
        torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)
    )
    a, b = (parameter.detach().clone().requires_grad_() for parameter in (layer.lora_A, layer.lora_B))
    ours = layer(x)
    formula = nn.functional.linear(same_x, layer.base.weight, layer.base.bias) + 1.7 * (same_x @ a.T @ b.T)
    torch.testing.assert_close(ours, formula)
    weight = torch.randn(ours.shape)
    (ours * weight).sum().backward()
    (formula * weight).sum().backward()
    torch.testing.assert_close(x.grad, same_x.grad)
    torch.testing.assert_close(layer.lora_A.grad, a.grad)
    torch.testing.assert_close(layer.lora_B.grad, b.grad)
    assert layer.base.weight.grad is None


def test_an_input_that_needs_no_gradient_gets_none() -> None:
    layer = LoRALinear(nn.Linear(4, 4), rank=2, scale=1.0)
    x = torch.randn(3, 4)
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.lora_B.grad is not None
