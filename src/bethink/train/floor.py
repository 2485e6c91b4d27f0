"""The least time a training step can take on this device: what its progress, forecast and metrics are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from bethink.models.cost import LinearMaps, Shape, policy_step, sft_step
from bethink.models.known_speed import measure_again
from bethink.models.lora import lora_layers
from bethink.models.shape import layer_of, shape_of
from bethink.models.speed import Speed


@dataclass(slots=True)
class StepFloor:
    """A model in training (see `cost.sft_step` for rank, adapted and trains_head) and the speed of its device."""

    shape: Shape
    speed: Speed
    rank: int | None
    adapted: Sequence[LinearMaps] | None
    trains_head: bool

    @classmethod
    def of(cls, model: PreTrainedModel, speed: Speed) -> StepFloor:
        """Of a model whose trained parameters are marked; adapters are taken to be of one rank."""
        shape, adapters = shape_of(model.config), lora_layers(model)
        maps: list[list[tuple[int, int]]] = [[] for _ in shape.layers]
        for name, layer in adapters.items():
            if number := layer_of(name):
                maps[int(number)].append((layer.lora_A.shape[1], layer.lora_B.shape[0]))
        return cls(
            shape=shape,
            speed=speed,
            rank=next((layer.lora_A.shape[0] for layer in adapters.values()), None),
            adapted=maps if adapters else None,
            trains_head=model.get_output_embeddings().weight.requires_grad,
        )

    def measure_again(self) -> None:
        """For a floor that was beaten: the device can do more than its speed says."""
        faster = measure_again(self.speed.device, getattr(torch, self.speed.dtype), thoroughly=False)
        self.speed = faster or self.speed

    def seconds(self, lengths: Sequence[int], learned: int) -> float:
        """Least seconds for a step over samples of these lengths (prompt and completion), of which so many tokens are learned."""
        least = sft_step(
            self.shape,
            lengths,
            learned,
            rank=self.rank,
            adapted=self.adapted,
            trains_head=self.trains_head,
            weight_bytes=self.speed.width,
        )
        return self.speed.floor(least, sum(lengths))

    def shared_seconds(self, groups: Sequence[tuple[int, Sequence[int]]], further: int = 0) -> float:
        """The same for groups of completions that share a prompt (`cost.policy_step`), and so many forward passes beside."""
        least = policy_step(
            self.shape,
            groups,
            rank=self.rank,
            adapted=self.adapted,
            trains_head=self.trains_head,
            further=further,
            weight_bytes=self.speed.width,
        )
        tokens = sum(prompt + sum(completions) for prompt, completions in groups)
        return self.speed.floor(least, tokens) if tokens else 0.0
