"""The policy that a KL term holds on to: the model below its adapter, or the trained parameters as they were at some step.

Where the reference is the model below the adapter the adapter is switched off and nothing is kept. Everything else is a copy of what is
trained: a few million numbers of an adapter, or a second copy of a model that is trained as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from bethink.models.lora import trainable, without_adapter

_PREFIX = "reference."


class Reference(Protocol):
    """What the training method asks of either."""

    def acting(self) -> AbstractContextManager[None]:
        """Within the block the model is the reference."""
        ...

    def before(self, step: int) -> None:
        """Called before every step (0-based)."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run cannot make again."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        ...


class AdapterOff:
    """The model below its adapter. Takes no memory and has no state."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def acting(self) -> AbstractContextManager[None]:
        """Within the block the adapter is off."""
        return without_adapter(self._model)

    def before(self, step: int) -> None:
        """It stays what it is."""

    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """There is nothing to put back."""


class FrozenCopy:
    """A copy of what is trained. every: after so many steps it becomes the policy of then (DeepSeek-R1-Zero: 400); 0 keeps the first."""

    def __init__(self, model: nn.Module, every: int) -> None:
        self._model, self._every = model, every
        self._kept = self._copies()

    @staticmethod
    def bytes_of(model: nn.Module) -> int:
        """Memory that a model's copy takes."""
        return sum(parameter.numel() * parameter.element_size() for _, parameter in trainable(model))

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Within the block the trained parameters are the kept ones."""
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
        """Take the policy over where it is time to."""
        if self._every and step and step % self._every == 0:
            self._kept = self._copies()

    def tensors(self) -> dict[str, Tensor]:
        """The copy, where it is not the one the run began with."""
        return {f"{_PREFIX}{name}": tensor for name, tensor in self._kept.items()} if self._every else {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name, kept in self._kept.items():
            if (saved := tensors.get(_PREFIX + name)) is not None:
                kept.copy_(saved)

    @torch.no_grad()
    def _copies(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in trainable(self._model)}
