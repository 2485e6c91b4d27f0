"""The least a model's work can cost: floating-point operations and bytes of training steps, prefill and decoding.

Counted is only what cannot be left out. Training an adapter: no gradient of frozen weights, none with respect to inputs below the first
adapted layer, the output head on completion tokens alone. Attention: the pairs of tokens that see each other. Bytes: every weight once,
and of the cache what is read and written. Norms, activations and the optimizer are left out: they are small beside the products.
A multiplication and an addition are two operations. How fast a machine could do it is `seconds`; what it reaches is for benchmarks.
Where shapes come from is shape.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

LinearMaps = Sequence[tuple[int, int]]
"""Linear maps of one layer as (in, out)."""


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


@dataclass(frozen=True)
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
        """The shape of the model that a transformers config describes."""
        from bethink.models.shape import shape_of

        return shape_of(config)

    @cached_property
    def linear(self) -> int:
        """Weights of all linear maps but the head."""
        return sum(size_in * size_out for layer in self.layers for size_in, size_out in layer)

    @property
    def head(self) -> int:
        """Weights of the output head."""
        return self.hidden * self.vocabulary


def sft_step(
    shape: Shape,
    lengths: Sequence[int],
    completion_tokens: int,
    *,
    rank: int | None,
    adapted: Sequence[LinearMaps] | None = None,
    trains_head: bool = False,
    weight_bytes: int = 2,
) -> Cost:
    """A forward and backward pass over samples of these lengths.

    lengths: tokens of each sample, prompt and completion; completion_tokens: how many of all are learned. rank: of the adapters, or
    None for training all weights. adapted: for each layer the linear maps with an adapter; None: all of them. trains_head: whether
    the head is trained too.
    """
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    tokens = sum(lengths)
    return _training(shape, tokens, completion_tokens, pairs, rank, adapted, trains_head, weight_bytes)


def _training(
    shape: Shape,
    tokens: int,
    learned: int,
    pairs: int,
    rank: int | None,
    adapted: Sequence[LinearMaps] | None,
    trains_head: bool,
    weight_bytes: int,
) -> Cost:
    forward = 2 * shape.linear * tokens
    if rank is None:
        backward = 2 * forward
    else:
        backward = _adapter(shape, shape.layers if adapted is None else adapted, rank) * tokens
    head = 2 * shape.head * learned * (3 if trains_head else 2)
    passes = 2 if rank is not None else 3
    return Cost(
        forward + backward + head + 3 * _attention(shape, pairs),
        passes * (shape.linear + shape.head) * weight_bytes,
    )


def _adapter(shape: Shape, adapted: Sequence[LinearMaps], rank: int) -> int:
    """Operations a token: the adapters' own in both passes, and the gradient on its way down to the first of them."""
    first = next((index for index, layer in enumerate(adapted) if layer), None)
    if first is None:  # an adapter on the head alone
        return 0
    thin = 2 * rank * sum(size_in + size_out for layer in adapted for size_in, size_out in layer)
    through = 2 * sum(size_in * size_out for layer in shape.layers[first:] for size_in, size_out in layer)
    # The first layer's gradient ends where the lowest adapter is: at what reads the layer's input, else somewhere inside the layer.
    reading = set(adapted[first]) >= set(shape.first_inputs)
    below = shape.first_inputs if reading else shape.layers[first]
    return through + 3 * thin - sum(2 * size_in * (size_out + rank) for size_in, size_out in below)


def prefill(shape: Shape, lengths: Sequence[int], *, weight_bytes: int = 2) -> Cost:
    """Prompts of these lengths up to the logits of their last tokens."""
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    return prompts(shape, len(lengths), sum(lengths), pairs, weight_bytes=weight_bytes)


def prompts(shape: Shape, count: float, tokens: float, pairs: float, *, weight_bytes: int = 2) -> Cost:
    """`prefill` of `count` prompts of so many tokens together, which see each other in so many pairs. Means will do: it is linear."""
    flops = 2 * shape.linear * tokens + 2 * shape.head * count + _attention(shape, pairs)
    return Cost(flops, (shape.linear + shape.head + cache_values(shape, tokens)) * weight_bytes)


def decode_step(shape: Shape, rows: int, cached: float, *, weight_bytes: int = 2) -> Cost:
    """One more token in each of `rows` sequences, which have `cached` tokens each, or in the mean."""
    flops = 2 * (shape.linear + shape.head) * rows + _attention(shape, rows * (cached + 1))
    values = shape.linear + shape.head + cache_values(shape, rows * (cached + 1))
    return Cost(flops, values * weight_bytes)


def policy_step(
    shape: Shape,
    groups: Sequence[tuple[int, Sequence[int]]],
    *,
    rank: int | None,
    adapted: Sequence[LinearMaps] | None = None,
    trains_head: bool = False,
    further: int = 0,
    weight_bytes: int = 2,
) -> Cost:
    """A forward and backward pass over groups of completions that are learned, each group's prompt computed once.

    groups: tokens of each prompt and of each of its completions. further: forward passes without a backward one (log-probabilities of
    the policy that sampled, or of a reference). The rest is as for `sft_step`.
    """
    learned = sum(sum(completions) for _, completions in groups)
    tokens = learned + sum(prompt for prompt, _ in groups)
    pairs = sum(
        p * (p + 1) // 2 + sum(length * p + length * (length + 1) // 2 for length in completions)
        for p, completions in groups
    )
    trained = _training(shape, tokens, learned, pairs, rank, adapted, trains_head, weight_bytes)
    flops = 2 * shape.linear * tokens + 2 * shape.head * learned + _attention(shape, pairs)
    once = Cost(flops, (shape.linear + shape.head) * weight_bytes)
    return trained + Cost(further * once.flops, further * once.bytes)


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
        rollouts += decode_step(shape, rows, mean + position, weight_bytes=weight_bytes)
    groups = [(prompt, [completion] * samples) for prompt in prompts]
    return rollouts + policy_step(shape, groups, rank=rank, weight_bytes=weight_bytes)


def cache_values(shape: Shape, tokens: float) -> float:
    """Numbers in the cache of so many tokens: keys and values of every layer."""
    return 2 * len(shape.layers) * shape.kv_heads * shape.head_size * tokens


def _attention(shape: Shape, pairs: float) -> float:
    """Scores and weighted sums for so many pairs of a token and one it sees, in every layer and head."""
    return 4 * len(shape.layers) * shape.heads * shape.head_size * pairs
