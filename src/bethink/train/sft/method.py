"""Supervised fine-tuning as the training loop sees it: which rows a step takes, and their loss.

Leaves packing to batch.py, the forward pass to forward.py, and everything that outlives a step to loop.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bethink.core.console import note
from bethink.train.batch import PackedBatch, packed_batches
from bethink.train.floor import StepFloor
from bethink.train.forward import forward
from bethink.train.loop import Stateless
from bethink.train.losses import cross_entropy
from bethink.train.schedule import Schedule
from bethink.train.sft.samples import SamplePair
from bethink.train.token_store import TokenStore


class SFTMethod(Stateless):
    """A `loop.Method`.

    capacity: tokens in a packed row; samples: the pair of outputs shown at each evaluation, or None; floor: what a step takes at least,
    or None where the device's speed is not known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        store: TokenStore,
        held_out: TokenStore,
        schedule: Schedule,
        *,
        capacity: int,
        device: torch.device,
        samples: SamplePair | None = None,
        floor: StepFloor | None = None,
    ) -> None:
        self.model, self.store, self.held_out, self.schedule = model, store, held_out, schedule
        self.capacity, self.device, self.samples, self.floor = capacity, device, samples, floor
        self._lengths: list[int] = []
        self._learned = 1

    def updates(self, step: int) -> Iterator[Sequence[PackedBatch]]:
        """The step's rows, packed: one update."""
        self.model.train()
        samples = [self.store[i] for i in self.schedule.of(step)]
        batches = packed_batches(samples, self.capacity)
        self._lengths = [len(sample) for sample in samples]
        self._learned = sum(len(batch.target_index_N) for batch in batches)
        yield batches

    def loss(self, batch: PackedBatch) -> tuple[Tensor, Mapping[str, float]]:
        """The micro-batch's sum over completion tokens, divided by those of the whole step."""
        loss, sums = _loss(self.model, batch.to(self.device))
        return loss / self._learned, sums

    def summary(self, step: int, sums: Mapping[str, float]) -> dict[str, Any]:
        """Mean losses, token counts, how far in the data the run is, and what the step takes at least."""
        seen = self.schedule.seen(step + 1)
        least = self.floor and {"floor_seconds": self.floor.seconds(self._lengths, self._learned)}
        return {
            **(least or {}),
            **_means(sums),
            "tokens": int(sums["tokens"]),
            "completion_tokens": int(sums["on"] + sums["off"]),
            "samples": seen,
            "epoch": round(seen / self.schedule.pass_rows, 6),
        }

    def shown(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The loss."""
        return {"loss": f"{row['loss']:.4f}"}

    def evaluate(self, step: int) -> dict[str, Any]:
        """Held-out losses as eval_loss, eval_loss_on, eval_loss_off; writes the pair of outputs."""
        self.model.eval()
        found: dict[str, Any] = {}
        if len(self.held_out):
            found = {f"eval_{name}": value for name, value in self.held_out_loss().items()}
            shown = [f"{name[5:]} {value:.4f}" for name, value in found.items() if value is not None]
            note(f"step {step}, held out: {', '.join(shown)}")
        if self.samples is not None:
            self.samples.write(self.model, step)
        return found

    @torch.inference_mode()
    def held_out_loss(self) -> dict[str, float | None]:
        """Mean loss per completion token on the held-out rows: all, thinking on, thinking off."""
        sums: Counter[str] = Counter()
        rows = [self.held_out[i] for i in range(len(self.held_out))]
        for batch in packed_batches(rows, self.capacity):
            sums.update(_loss(self.model, batch.to(self.device))[1])
        return _means(sums)


def _loss(model: PreTrainedModel, batch: PackedBatch) -> tuple[Tensor, dict[str, float]]:
    weight_N, thinking_N = batch.loss_weight_N, batch.thinking_N
    result = forward(model, batch, lambda logprob_C, part: cross_entropy(logprob_C, weight_N[part]))
    nll_N = cross_entropy(result.logprob_N, weight_N)
    on = int(thinking_N.sum())
    return result.loss, {
        "loss_on": float(nll_N[thinking_N].sum()),
        "loss_off": float(nll_N[~thinking_N].sum()),
        "on": on,
        "off": len(nll_N) - on,
        "tokens": batch.tokens,
    }


def _means(sums: Mapping[str, float]) -> dict[str, float | None]:
    on, off = sums["on"], sums["off"]
    return {
        "loss": (sums["loss_on"] + sums["loss_off"]) / (on + off),
        "loss_on": sums["loss_on"] / on if on else None,
        "loss_off": sums["loss_off"] / off if off else None,
    }
