"""The policy that a KL term holds on to: the trained parameters as they were at some step.

Only what is trained is kept. For an adapter that is a few million numbers, and a fresh adapter's reference is the model with its adapter
off; for a model trained as a whole it is a second copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bethink.models.lora import trainable

_PREFIX = "reference."


class Reference:
    """every: after so many steps the reference becomes the policy of then (DeepSeek-R1-Zero: 400); 0 keeps the first for good."""

    def __init__(self, model: nn.Module, every: int) -> None:
        self._model, self._every = model, every
        self._kept = self._copies()

    @staticmethod
    def bytes_of(model: nn.Module) -> int:
        """Memory that a model's reference takes."""
        return sum(parameter.numel() * parameter.element_size() for _, parameter in trainable(model))

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Within the block the model is the reference."""
        parameters = dict(trainable(self._model))
        policy = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self._kept[name]
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = policy[name]

    def before(self, step: int) -> None:
        """Called before every step: take the policy over where it is time to."""
        if self._every and step and step % self._every == 0:
            self._kept = self._copies()

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run cannot make again."""
        return {f"{_PREFIX}{name}": tensor for name, tensor in self._kept.items()} if self._every else {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name, kept in self._kept.items():
            if (saved := tensors.get(_PREFIX + name)) is not None:
                kept.copy_(saved)

    @torch.no_grad()
    def _copies(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in trainable(self._model)}
