"""The floor is what torch counts when nothing superfluous is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bethink.chat.toggle import Mode
from bethink.engine.kv_cache import DecodeView, SlotCache
from bethink.models.cost import Cost, Shape, cache_values, decode_step, grpo_step, prefill, sft_step
from bethink.models.lora import LoRAConfig, add_lora
from bethink.models.shape import parameters, shape_from
from bethink.models.speed import Speed
from bethink.train.batch import PackedBatch, packed_batches
from bethink.train.floor import StepFloor
from bethink.train.forward import forward
from bethink.train.token_store import Sample
from engine.tiny import tiny

RANK, LENGTHS = 4, (96, 64)


def batch() -> PackedBatch:
    """Two samples side by side; the last 40 tokens of each are learned."""
    ids = [np.random.randint(300, size=length, dtype=np.int32) for length in LENGTHS]
    samples = [Sample(tokens[:-40], tokens[-40:], Mode.ON) for tokens in ids]
    (only,) = packed_batches(samples, sum(LENGTHS))
    return only


def attention_flops(shape: Shape, pairs: int) -> int:
    return 4 * len(shape.layers) * shape.heads * shape.head_size * pairs


def product(_: Any, left: torch.Size, right: torch.Size, **__: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "starcoder2", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_of_a_config(kind: str, tied: bool) -> None:
    # GPT-2 names its sizes itself; the others take them from `tiny`.
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4} if kind == "gpt2" else {}
    model = tiny(kind, head_dim=24, tie_word_embeddings=tied, **sizes)
    shape = Shape.of(model.config)
    weights = {p.data_ptr(): p.numel() for p in model.parameters() if p.ndim == 2}
    embeddings = {
        model.get_input_embeddings().weight.data_ptr(): 0, model.get_output_embeddings().weight.data_ptr(): 0
    }  # fmt: skip
    if kind == "gpt2":
        embeddings[model.transformer.wpe.weight.data_ptr()] = 0
    assert shape.linear == sum((weights | embeddings).values())
    assert (shape.hidden, shape.vocabulary, len(shape.layers)) == (64, 300, 2)
    assert shape.first_inputs
    known = shape_from(model.config.to_dict())
    assert (known is not None) == (kind in {"llama", "mistral", "qwen2", "qwen3"})
    if known is not None:
        matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
        assert parameters(known, model.config.to_dict()) == matrices


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": "64"}, {"num_hidden_layers": 0}, {"vocab_size": None}, {"num_key_value_heads": 3}],
)
def test_no_shape_is_made_of_sizes_that_no_model_has(change: dict[str, Any]) -> None:
    assert shape_from({**tiny().config.to_dict(), **change}) is None
    assert shape_from({}) is None


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


@pytest.mark.parametrize(
    ("targets", "layers"),
    [(("q_proj", "v_proj"), (0, 1)), (r".*layers\.1\.mlp\.down_proj", (1,)), (("o_proj",), (0, 1))],
)
def test_adapters_on_some_layers_cost_no_more_than_torch_counts(
    targets: str | tuple[str, ...], layers: tuple[int, ...]
) -> None:
    model = tiny(tie_word_embeddings=False)
    shape = Shape.of(model.config)
    add_lora(model, LoRAConfig(rank=RANK, targets=targets), seed=0)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: product}) as counter:
        forward(model, batch(), lambda logprob_C, _: -logprob_C).loss.backward()
    speed = Speed("cpu", "float32", 1, {1: 1.0}, bandwidth=1e30)
    floor = StepFloor.of(model, speed)
    assert [bool(maps) for maps in floor.adapted or ()] == [index in layers for index in (0, 1)]
    pairs = sum(length * (length + 1) // 2 for length in LENGTHS)
    computed = floor.seconds(LENGTHS, 80) - 3 * attention_flops(shape, pairs)
    assert 0.8 < computed / counter.get_total_flops() < 1.01


def test_prefill_and_decoding_cost_what_torch_counts() -> None:
    model: Any = tiny().double()  # a format for which nothing is compiled that torch cannot count
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
