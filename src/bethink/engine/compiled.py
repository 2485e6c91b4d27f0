"""Decoding steps on a CPU in one compiled call each, where the model allows it, and otherwise as the model does them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bethink.engine.kv_cache import SlotCache
from bethink.models.fused.decoder import Decoder, agree


class CompiledSteps:
    """step: the model's own, (token_B, position_B) → logits [B, V], which stores keys and values in `cache`."""

    def __init__(self, model: Any, step: Callable[[Tensor, Tensor], Tensor], cache: SlotCache) -> None:
        self._model, self._step, self._cache = model, step, cache
        self._decoder: Decoder | None = None
        self._tried = False
        self._agreed: bool | None = None
        """Whether a compiled step gave what the model's own did: a matter of its build, not of its weights, and so tried once."""
        self._moves = -1

    def forget(self) -> None:
        """The weights may be others from now on."""
        self._decoder, self._tried, self._moves = None, False, -1

    def decode(self, token_B: Tensor, position_B: Tensor) -> Tensor:
        """Logits [B, V] after one more token in each of the first B slots, which stands at `position_B`."""
        if not self._tried:
            self._tried = True
            self._decoder = self._made(token_B, position_B)
        if self._decoder is None:
            return self._step(token_B, position_B)
        if self._moves != self._cache.moves:
            self._lay(self._decoder)
        return self._decoder.step(token_B, position_B)

    def _made(self, token_B: Tensor, position_B: Tensor) -> Decoder | None:
        """The model's compiled step, if there is one and it gives the same as the model's own."""
        try:
            decoder = Decoder(self._model)
        except (AttributeError, TypeError, ValueError):
            return None
        if self._agreed is None:
            self._agreed = self._agrees(decoder, token_B, position_B)
        return decoder if self._agreed else None

    @torch.inference_mode()
    def _agrees(self, decoder: Decoder, token_B: Tensor, position_B: Tensor) -> bool:
        expected = self._step(token_B, position_B)
        self._lay(decoder)
        try:
            return agree(decoder.step(token_B, position_B), expected)
        except TypeError:
            return False

    def _lay(self, decoder: Decoder) -> None:
        decoder.lay(self._cache.blocks)
        self._moves = self._cache.moves
