"""One optimizer step's gradients, packed as the trainers do and by transformers alone, one sample at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bethink.models.lora import trainable
from bethink.train.batch import Group, packed_batches
from bethink.train.forward import forward
from bethink.train.losses import cross_entropy
from bethink.train.token_store import Sample


def packed_step(model: Any, items: Sequence[Sample | Group], capacity: int) -> float:
    """Gradients of one optimizer step, packed; returns its loss."""
    batches = packed_batches(items, capacity)
    learned = sum(len(batch.target_index_N) for batch in batches)
    total = 0.0
    for batch in batches:
        weight_N = batch.loss_weight_N
        result = forward(model, batch, lambda logprob, part, w=weight_N: cross_entropy(logprob, w[part]))
        (result.loss / learned).backward()
        total += float(result.loss.detach()) / learned
    return total


def reference_step(model: Any, samples: Sequence[Sample]) -> float:
    """The same with transformers alone, one sample at a time, through the model's own forward and loss over its logits."""
    learned = sum(len(sample.completion_ids) for sample in samples)
    total = 0.0
    for sample in samples:
        ids = torch.tensor([*sample.prompt_ids.tolist(), *sample.completion_ids.tolist()])
        logits_TV = model(input_ids=ids[None], use_cache=False).logits[0]
        split = len(sample.prompt_ids)
        loss = nn.functional.cross_entropy(logits_TV[split - 1 : -1], ids[split:], reduction="sum") / learned
        loss.backward()
        total += float(loss.detach())
    return total


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of everything that is trained, by name; they are cleared."""
    found = {name: p.grad.clone() for name, p in trainable(model) if p.grad is not None}
    model.zero_grad()
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Equal to rounding in float32."""
    assert one.keys() == other.keys()
    assert one
    for name, gradient in one.items():
        torch.testing.assert_close(
            gradient, other[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
