"""Decoding steps in one compiled call: the same logits and the same cache as the model's own steps, whatever stands beside a row."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from bethink.engine.runner import Job, Runner
from bethink.models.fused import build, operations
from bethink.models.fused.layers import fuse_
from bethink.models.prepacked import prepack_
from engine.tiny import tiny

pytestmark = pytest.mark.skipif(
    build.library() is None or not operations.usable_products(torch.zeros(1, dtype=torch.bfloat16)),
    reason="no compiled operations, or a processor that does not multiply pairs of bfloat16 in vector registers",
)
VOCABULARY = 320
KINDS = [
    ("llama", {}),
    (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "tie_word_embeddings": True},
    ),
    ("qwen2", {"num_key_value_heads": 4}),
    ("qwen3", {"head_dim": 64}),
    ("mistral", {"sliding_window": 16}),
]


def model_of(kind: str, **changes: Any) -> Any:
    sizes = {"vocab_size": VOCABULARY, "head_dim": 32, "initializer_range": 0.08, "num_hidden_layers": 3}
    model = tiny(kind, **{**sizes, **changes}).bfloat16()
    for name, parameter in model.named_parameters():
        if "bias" in name or "norm" in name:
            torch.nn.init.normal_(parameter, float("norm" in name), 0.2)
    fuse_(model)
    prepack_(model)
    return model


@pytest.fixture
def random() -> Iterator[Random]:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    torch.manual_seed(seed)
    return Random(seed)


def prompts_of(random: Random, rows: int) -> list[tuple[int, ...]]:
    return [tuple(random.choices(range(VOCABULARY), k=random.randint(2, 40))) for _ in range(rows)]


def filled(model: Any, prompts: list[tuple[int, ...]], *, compiled: bool = True) -> Runner:
    runner = Runner(model)
    runner.cache.resize(len(prompts), 64)
    runner.prefill([Job(prompt, slot) for slot, prompt in enumerate(prompts)])
    if not compiled:
        runner._compiled._tried = True
    return runner


def position(prompts: list[tuple[int, ...]]) -> Tensor:
    return torch.tensor([len(prompt) for prompt in prompts])


@pytest.mark.parametrize(("kind", "changes"), KINDS, ids=str)
@torch.inference_mode()
def test_steps_are_those_of_the_model(kind: str, changes: dict, random: Random) -> None:
    model, prompts = model_of(kind, **changes), prompts_of(random, 11)
    ours, plain = filled(model, prompts), filled(model, prompts, compiled=False)
    for step in range(12):
        token_B = torch.tensor(random.choices(range(VOCABULARY), k=11))
        if step == 5:  # the cache moves
            for runner in (ours, plain):
                runner.cache.resize(16, 128)
        found, expected = (runner.decode(token_B, position(prompts) + step) for runner in (ours, plain))
        off = (found.float() - expected.float()).square().mean().sqrt() / expected.float().std()
        assert off < 0.03
    assert ours._compiled._decoder is not None
    for layer in range(3):
        for found, expected in zip(ours.cache.blocks(layer), plain.cache.blocks(layer), strict=True):
            torch.testing.assert_close(found, expected, atol=0.1, rtol=0.05)


@torch.inference_mode()
def test_a_row_depends_on_no_other_nor_on_threads(random: Random) -> None:
    model, prompts = model_of("llama"), prompts_of(random, 21)
    tokens = random.choices(range(VOCABULARY), k=21)
    results = []
    before = torch.get_num_threads()
    for threads, rows in ((1, 21), (2, 21), (3, 13), (2, 1), (2, 6)):
        torch.set_num_threads(threads)
        runner = filled(model, prompts[:rows])
        results.append(runner.decode(torch.tensor(tokens[:rows]), position(prompts[:rows])))
        assert runner._compiled._decoder is not None
    torch.set_num_threads(before)
    for result in results[1:]:
        assert torch.equal(result, results[0][: len(result)])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("granite", {"residual_multiplier": 0.3}), ("llama", {"vocab_size": 300}), ("gemma2", {})],
    ids=str,
)
@torch.inference_mode()
def test_models_of_another_build_take_their_own_steps(kind: str, changes: dict, random: Random) -> None:
    model, prompts = model_of(kind, **changes), [(1, 2, 3), (4, 5)]
    ours, plain = filled(model, prompts), filled(model, prompts, compiled=False)
    for step in range(3):
        token_B = torch.tensor(random.choices(range(299), k=2))
        found, expected = (runner.decode(token_B, position(prompts) + step) for runner in (ours, plain))
        assert torch.equal(found, expected)
    assert ours._compiled._decoder is None
