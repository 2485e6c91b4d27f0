"""The floor is what torch counts when nothing superfluous is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bethink.engine.kv_cache import DecodeView, SlotCache
from bethink.models.cost import Cost, Shape, cache_values, decode_step, grpo_step, prefill, sft_step
from bethink.models.lora import LoRAConfig, add_lora
from bethink.train.batch import PackedBatch
from bethink.train.forward import forward
from engine.tiny import tiny

RANK, LENGTHS = 4, (96, 64)


def batch() -> PackedBatch:
    """Two samples side by side; the last 40 tokens of each are learned."""
    total, (first, _) = sum(LENGTHS), LENGTHS
    targets = torch.cat([torch.arange(end - 40, end) for end in (first, total)])
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    ones = torch.ones(len(targets))
    return PackedBatch(torch.randint(300, (total,)), positions, LENGTHS, targets, ones, ones.bool(), total)


def attention_flops(shape: Shape, pairs: int) -> int:
    return 4 * len(shape.layers) * shape.heads * shape.head_size * pairs


def product(_: Any, left: torch.Size, right: torch.Size, **__: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "starcoder2", "gpt_neox"])
def test_the_shape_of_a_config(kind: str) -> None:
    model = tiny(kind)
    shape = Shape.of(model.config)
    weights = {p.data_ptr(): p.numel() for p in model.parameters() if p.ndim == 2}
    embeddings = {
        model.get_input_embeddings().weight.data_ptr(): 0, model.get_output_embeddings().weight.data_ptr(): 0
    }  # fmt: skip
    assert shape.linear == sum((weights | embeddings).values())
    assert (shape.hidden, shape.vocabulary, len(shape.layers)) == (64, 300, 2)
    assert shape.first_inputs


@pytest.mark.parametrize("rank", [RANK, None])
def test_a_training_step_costs_what_torch_counts(rank: int | None) -> None:
    model = tiny(tie_word_embeddings=False)
    shape = Shape.of(model.config)
    if rank:
        add_lora(model, LoRAConfig(rank=rank), seed=0)
    else:
        model.requires_grad_(True)
    in_place = {torch.ops.aten.addmm_: product}  # which torch leaves out, too
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        forward(model, batch(), lambda logprob_C, _: -logprob_C).loss.backward()
    least = sft_step(shape, LENGTHS, 80, rank=rank, trains_head=rank is None).flops
    # torch does not count its attention on CPUs; decoding, whose attention it counts, is below.
    pairs = sum(length * (length + 1) // 2 for length in LENGTHS)
    computed = least - 3 * attention_flops(shape, pairs)
    assert counter.get_total_flops() == pytest.approx(computed, rel=0.01)


def test_prefill_and_decoding_cost_what_torch_counts() -> None:
    model: Any = tiny()
    shape = Shape.of(model.config)
    tokens = torch.randint(300, (1, 32))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens, use_cache=False, logits_to_keep=1)
    computed = prefill(shape, [32]).flops - attention_flops(shape, 32 * 33 // 2)
    assert counter.get_total_flops() == pytest.approx(computed, rel=0.01)
    cache = SlotCache()
    cache.resize(8, 64)
    view = DecodeView(cache, torch.full((8,), 63))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens[:, :8].T, position_ids=torch.full((8, 1), 63), use_cache=False, kv_cache=view)
    assert counter.get_total_flops() == pytest.approx(decode_step(shape, 8, 63).flops, rel=0.01)


def test_bytes_are_weights_and_cache() -> None:
    shape = Shape.of(tiny().config)
    weights = 2 * (shape.linear + shape.head)
    assert decode_step(shape, 4, 9).bytes == weights + 2 * cache_values(shape, 40)
    assert cache_values(shape, 1) == 2 * 2 * 2 * 16
    assert sft_step(shape, [10], 5, rank=4).bytes == 2 * weights


def test_one_prompt_and_one_sample_of_grpo_are_prefill_decoding_and_a_step() -> None:
    shape = Shape.of(tiny().config)
    parts = prefill(shape, [20]) + sft_step(shape, [25], 5, rank=4)
    for position in range(5):
        parts += decode_step(shape, 1, 20 + position)
    assert grpo_step(shape, [20], 1, 5, rank=4) == parts
    shared = grpo_step(shape, [20], 8, 5, rank=4).flops
    assert shared < 8 * parts.flops, "the prompt is computed once"


def test_the_slower_of_computing_and_moving_decides() -> None:
    assert Cost(100, 10).seconds(10, 10) == 10
    assert Cost(100, 1000).seconds(10, 10) == 100
