"""Next-token training as the training loop sees it: which texts a step takes, and their loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bethink.core.console import note
from bethink.core.seeds import derive_seed
from bethink.train.batch import PackedBatch, packed_batches
from bethink.train.floor import StepFloor
from bethink.train.forward import forward
from bethink.train.loop import Stateless
from bethink.train.losses import cross_entropy
from bethink.train.token_store import TokenStore

_EVALUATED_AT_ONCE = 64


class Order:
    """Which texts a step takes: as many as hold `tokens_per_step` tokens, of all texts in an order that is new for every pass.

    Pass after pass makes one long row of texts; a step's are those that begin in its stretch of tokens. Nothing needs to be kept to go on
    at any step.
    """

    def __init__(self, lengths: np.ndarray[Any, Any], tokens_per_step: int, seed: int) -> None:
        self.lengths, self.tokens_per_step, self.seed = lengths, tokens_per_step, seed
        self.pass_tokens = int(lengths.sum())
        self._pass = lru_cache(maxsize=2)(self._make_pass)

    def of(self, step: int) -> list[int]:
        """The texts of step `step` (0-based)."""
        first, last = step * self.tokens_per_step, (step + 1) * self.tokens_per_step
        found: list[int] = []
        for number in range(first // self.pass_tokens, -(-last // self.pass_tokens)):
            order, starts = self._pass(number)
            offset = number * self.pass_tokens
            low, high = np.searchsorted(starts, [first - offset, last - offset])
            found += order[low:high].tolist()
        return found

    def _make_pass(self, number: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        order = np.random.default_rng(derive_seed(self.seed, "pass", number)).permutation(len(self.lengths))
        ends = np.cumsum(self.lengths[order])
        return order, ends - self.lengths[order]


class PretrainMethod(Stateless):
    """A `loop.Method`. capacity: tokens in a packed row; floor: what a step takes at least, or None where the device's speed is not known."""

    def __init__(
        self,
        model: PreTrainedModel,
        store: TokenStore,
        held_out: TokenStore,
        order: Order,
        *,
        capacity: int,
        device: torch.device,
        floor: StepFloor | None = None,
    ) -> None:
        self.model, self.store, self.held_out, self.order = model, store, held_out, order
        self.capacity, self.device, self.floor = capacity, device, floor
        self._lengths: list[int] = []
        self._learned = 1

    def updates(self, step: int) -> Iterator[Sequence[PackedBatch]]:
        """The step's texts, packed: one update."""
        self.model.train()
        samples = [self.store[i] for i in self.order.of(step)]
        batches = packed_batches(samples, self.capacity)
        self._lengths = [len(sample) for sample in samples]
        self._learned = max(1, sum(len(batch.target_index_N) for batch in batches))
        yield batches

    def loss(self, batch: PackedBatch) -> tuple[Tensor, Mapping[str, float]]:
        """The micro-batch's sum over tokens, divided by those of the whole step."""
        weight_N = batch.loss_weight_N.to(self.device)
        result = forward(
            self.model,
            batch.to(self.device),
            lambda logprob_C, part: cross_entropy(logprob_C, weight_N[part]),
        )
        return result.loss / self._learned, {"loss": float(result.loss.detach()), "tokens": batch.tokens}

    def summary(self, step: int, sums: Mapping[str, float]) -> dict[str, Any]:
        """Mean loss in nats a token, token counts, how far in the data the run is, and what the step takes at least."""
        seen = (step + 1) * self.order.tokens_per_step
        least = self.floor and {"floor_seconds": self.floor.seconds(self._lengths, self._learned)}
        return {
            **(least or {}),
            "loss": sums["loss"] / self._learned,
            "tokens": int(sums["tokens"]),
            "samples": len(self._lengths),
            "epoch": round(seen / self.order.pass_tokens, 6),
        }

    def shown(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The loss."""
        return {"loss": f"{row['loss']:.4f}"}

    def evaluate(self, step: int) -> dict[str, Any]:
        """The held-out loss in nats a token, as eval_loss."""
        if not len(self.held_out):
            return {}
        self.model.eval()
        total, learned = 0.0, 0
        with torch.inference_mode():
            for start in range(0, len(self.held_out), _EVALUATED_AT_ONCE):
                rows = [
                    self.held_out[i]
                    for i in range(start, min(start + _EVALUATED_AT_ONCE, len(self.held_out)))
                ]
                for batch in packed_batches(rows, self.capacity):
                    total += self.loss(batch)[1]["loss"]
                    learned += len(batch.target_index_N)
        note(f"step {step}, held out: {total / learned:.4f}")
        return {"eval_loss": total / learned}
