"""Packing samples side by side changes nothing: not the loss, not a log-probability, not a gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM

from bethink.chat.toggle import Mode
from bethink.models.load import load_model
from bethink.models.locate import locate
from bethink.models.lora import LoRAConfig, add_lora, trainable
from bethink.train.batch import pack, packed_batches, padded_length
from bethink.train.forward import forward
from bethink.train.token_store import Sample
from train.steps import assert_same, gradients, packed_step, reference_step


def _samples(count: int = 9, vocabulary: int = 256, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    lengths = [(int(rng.integers(1, 20)), int(rng.integers(1, 40))) for _ in range(count)]
    return [
        Sample(
            rng.integers(0, vocabulary, prompt, dtype=np.int32),
            rng.integers(0, vocabulary, completion, dtype=np.int32),
            Mode.ON if i % 2 else Mode.OFF,
        )
        for i, (prompt, completion) in enumerate(lengths)
    ]


@pytest.mark.parametrize("capacity", [64, 128, 1024])
def test_packed_loss_and_gradients_of_all_weights_equal_transformers_one_sample_at_a_time(
    tiny_model_dir: Path, capacity: int
) -> None:
    samples = _samples()
    ours = load_model(locate(str(tiny_model_dir)), dtype=torch.float32, device="cpu").requires_grad_(True)
    theirs = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, dtype=torch.float32, attn_implementation="eager"
    )
    assert packed_step(ours, samples, capacity) == pytest.approx(reference_step(theirs, samples), abs=1e-5)
    assert_same(gradients(ours), gradients(theirs))


def test_packed_gradients_of_an_adapter_equal_those_of_its_samples_apart(tiny_model_dir: Path) -> None:
    samples = _samples()
    model = load_model(locate(str(tiny_model_dir)), dtype=torch.float32, device="cpu")
    add_lora(model, LoRAConfig(rank=4, alpha=8), seed=1)
    for name, parameter in trainable(model):
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    packed_loss = packed_step(model, samples, 256)
    packed = gradients(model)
    assert reference_step(model, samples) == pytest.approx(packed_loss, abs=1e-5)
    assert_same(packed, gradients(model))


def test_what_one_sample_says_does_not_reach_its_neighbours(tiny_model_dir: Path) -> None:
    model = load_model(locate(str(tiny_model_dir)), dtype=torch.float32, device="cpu")
    first, second, other = _samples(3)
    together, changed = (packed_batches([first, x], 256)[0] for x in (second, other))
    weights = (torch.ones(len(batch.target_index_N)) for batch in (together, changed))
    one, two = (
        forward(model, batch, lambda logprob, part, w=w: logprob * w[part]).logprob_N
        for batch, w in zip((together, changed), weights, strict=True)
    )
    place = [tuple(batch.segments).index(len(first)) for batch in (together, changed)]
    starts = [0 if p == 0 else len(x.completion_ids) for p, x in zip(place, (second, other), strict=True)]
    count = len(first.completion_ids)
    torch.testing.assert_close(one[starts[0] :][:count], two[starts[1] :][:count], rtol=0, atol=1e-5)


def test_only_completion_tokens_are_learned_and_none_twice() -> None:
    samples = _samples(20)
    batches = packed_batches(samples, 128)
    learned = sorted(int(token) for batch in batches for token in batch.token_ids_T[batch.target_index_N])
    assert learned == sorted(int(token) for sample in samples for token in sample.completion_ids)
    on = sum(int(batch.thinking_N.sum()) for batch in batches)
    assert on == sum(len(sample.completion_ids) for sample in samples if sample.mode is Mode.ON)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=80),
    capacity=st.integers(16, 400),
)
def test_every_sample_is_packed_once_and_no_row_overflows_unless_one_sample_does(
    lengths: list[int], capacity: int
) -> None:
    rows = pack(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    for row in rows:
        assert sum(lengths[i] for i in row) <= capacity or len(row) == 1


def test_rows_have_few_lengths() -> None:
    assert {padded_length(tokens) for tokens in range(1, 1025)} == set(range(32, 1025, 32))
