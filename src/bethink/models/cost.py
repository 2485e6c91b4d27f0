"""The least a model's work can cost: floating-point operations and bytes of training steps, prefill and decoding.

Counted is only what cannot be left out. Training an adapter: no gradient of frozen weights, none with respect to inputs below the first
adapted layer, the output head on completion tokens alone. Attention: the pairs of tokens that see each other. Bytes: every weight once,
and of the cache what is read and written. Norms, activations and the optimizer are left out: they are small beside the products.
A multiplication and an addition are two operations. How fast a machine could do it is `seconds`; what it reaches is for benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Cost:
    """flops: floating-point operations; bytes: memory that must be read or written."""

    flops: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """The floor: computing and moving memory can overlap, so the slower of the two decides."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the cost of a decoder-only model.

    layers: for each layer its linear maps as (in, out). first_inputs: those of the first layer that read the layer's own input, below
    which no gradient is needed. heads, kv_heads, head_size: of attention. hidden, vocabulary: of the output head.
    """

    layers: tuple[tuple[tuple[int, int], ...], ...]
    first_inputs: tuple[tuple[int, int], ...]
    hidden: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_size: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """The shape of the model that a transformers config describes; the model is laid out without memory for its weights."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config(decoder=True)
        head = model.get_output_embeddings()
        layers: dict[str, list[tuple[int, int]]] = {}
        names: dict[str, list[str]] = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and module is not head:
                layer = next((part for part in name.split(".") if part.isdecimal()), "")
                layers.setdefault(layer, []).append((module.in_features, module.out_features))
                names.setdefault(layer, []).append(name.rpartition(".")[2])
        first = next(iter(layers))
        reading = [
            size for size, name in zip(layers[first], names[first], strict=True) if name in _READ_THE_INPUT
        ]
        heads = text.num_attention_heads
        return cls(
            layers=tuple(tuple(sizes) for sizes in layers.values()),
            first_inputs=tuple(reading),
            hidden=head.in_features,
            vocabulary=head.out_features,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        )

    @property
    def linear(self) -> int:
        """Weights of all linear maps but the head."""
        return sum(size_in * size_out for layer in self.layers for size_in, size_out in layer)

    @property
    def head(self) -> int:
        """Weights of the output head."""
        return self.hidden * self.vocabulary


_READ_THE_INPUT = frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn", "W_pack"})


def sft_step(
    shape: Shape,
    lengths: Sequence[int],
    completion_tokens: int,
    *,
    rank: int | None,
    trains_head: bool = False,
    weight_bytes: int = 2,
) -> Cost:
    """A forward and backward pass over samples of these lengths.

    lengths: tokens of each sample, prompt and completion; completion_tokens: how many of all are learned. rank: of an adapter on every
    linear map, or None for training all of them. trains_head: whether the head is trained too.
    """
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    return _training(shape, sum(lengths), completion_tokens, pairs, rank, trains_head, weight_bytes)


def _training(
    shape: Shape,
    tokens: int,
    learned: int,
    pairs: int,
    rank: int | None,
    trains_head: bool,
    weight_bytes: int,
) -> Cost:
    forward = 2 * shape.linear * tokens
    if rank is None:
        backward = 2 * forward
    else:
        sides = sum(size_in + size_out for layer in shape.layers for size_in, size_out in layer)
        thin = 2 * rank * sides * tokens
        below = sum(2 * (size_in * size_out + rank * size_in) for size_in, size_out in shape.first_inputs)
        backward = forward + 3 * thin - below * tokens
    head = 2 * shape.head * learned * (3 if trains_head else 2)
    passes = 2 if rank is not None else 3
    return Cost(
        forward + backward + head + 3 * _attention(shape, pairs),
        passes * (shape.linear + shape.head) * weight_bytes,
    )


def prefill(shape: Shape, lengths: Sequence[int], *, weight_bytes: int = 2) -> Cost:
    """Prompts of these lengths up to the logits of their last tokens."""
    tokens = sum(lengths)
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    flops = 2 * shape.linear * tokens + 2 * shape.head * len(lengths) + _attention(shape, pairs)
    return Cost(flops, (shape.linear + shape.head + cache_values(shape, tokens)) * weight_bytes)


def decode_step(shape: Shape, rows: int, cached: int, *, weight_bytes: int = 2) -> Cost:
    """One more token in each of `rows` sequences, which have `cached` tokens each."""
    flops = 2 * (shape.linear + shape.head) * rows + _attention(shape, rows * (cached + 1))
    values = shape.linear + shape.head + cache_values(shape, rows * (cached + 1))
    return Cost(flops, values * weight_bytes)


def grpo_step(
    shape: Shape,
    prompts: Sequence[int],
    samples: int,
    completion: int,
    *,
    rank: int | None,
    weight_bytes: int = 2,
) -> Cost:
    """Rollouts and one update: `samples` completions of `completion` tokens for each prompt, the prompt computed once for all of them.

    prompts: tokens of each prompt. No reference model: its pass would be one more forward.
    """
    rows = len(prompts) * samples
    rollouts = prefill(shape, prompts, weight_bytes=weight_bytes)
    mean = sum(prompts) / len(prompts)
    for position in range(completion):
        rollouts += decode_step(shape, rows, round(mean + position), weight_bytes=weight_bytes)
    pairs = sum(
        p * (p + 1) // 2 + samples * (completion * p + completion * (completion + 1) // 2) for p in prompts
    )
    learned = rows * completion
    return rollouts + _training(shape, sum(prompts) + learned, learned, pairs, rank, False, weight_bytes)


def cache_values(shape: Shape, tokens: int) -> int:
    """Numbers in the cache of so many tokens: keys and values of every layer."""
    return 2 * len(shape.layers) * shape.kv_heads * shape.head_size * tokens


def _attention(shape: Shape, pairs: int) -> int:
    """Scores and weighted sums for so many pairs of a token and one it sees, in every layer and head."""
    return 4 * len(shape.layers) * shape.heads * shape.head_size * pairs
