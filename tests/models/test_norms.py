"""Norms that are written out become one operation where, and only where, they compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bethink.models.norms import fuse_norms
from engine.tiny import tiny


@torch.no_grad()
def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens, use_cache=False).logits.float()


@pytest.mark.parametrize(
    ("kind", "norms"), [("llama", 5), ("qwen2", 5), ("qwen3", 9), ("mistral", 5), ("olmo2", 9), ("gemma2", 0)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_computes_the_same(kind: str, norms: int, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    model = tiny(kind, **({"head_dim": 16} if kind in ("gemma2", "qwen3") else {}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    model = model.to(dtype)
    names = [name for name, _ in model.named_parameters()]
    tokens = torch.randint(300, (2, 20))
    before = logits(model, tokens)
    assert fuse_norms(model) == norms
    assert sum(isinstance(module, nn.RMSNorm) for module in model.modules()) == norms
    assert [name for name, _ in model.named_parameters()] == names
    after = logits(model, tokens)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert torch.allclose(after, before, rtol=tolerance, atol=tolerance * float(before.abs().max()))


def test_gradients_are_the_same() -> None:
    torch.manual_seed(2)
    model = tiny()
    tokens = torch.randint(300, (1, 30))

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    before = gradients()
    fuse_norms(model)
    for name, gradient in gradients().items():
        assert torch.allclose(gradient, before[name], rtol=1e-4, atol=1e-6), name
