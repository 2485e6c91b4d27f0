"""Completions that share a prompt train as they would apart, from fewer tokens."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM

from bethink.chat.toggle import Mode
from bethink.core.errors import DataError
from bethink.models.branches import Branches
from bethink.models.lora import LoRAConfig, add_lora, trainable
from bethink.train.batch import Group, packed_batches
from bethink.train.forward import forward
from bethink.train.memory import chunk_tokens
from bethink.train.token_store import Sample
from engine.tiny import VOCABULARY, tiny
from train.steps import assert_same, gradients, packed_step, reference_step

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 12},
    "gemma3_text": {"sliding_window": 12, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]},
}  # fmt: skip


def group_of(rng: np.random.Generator, prompt: int, completions: Sequence[int]) -> list[Sample]:
    """Samples of these lengths that have one prompt, on and off in turn."""
    prompt_ids = rng.integers(0, VOCABULARY, prompt, dtype=np.int32)
    return [
        Sample(prompt_ids, rng.integers(0, VOCABULARY, n, dtype=np.int32), (Mode.ON, Mode.OFF)[i % 2])
        for i, n in enumerate(completions)
    ]


def step() -> list[Sample | Group]:
    """A group of eight, a sample of its own, a group behind the shortest of prompts, and one of a single sample."""
    seed = random.SystemRandom().randrange(2**31)
    print(f"step of seed {seed}")
    rng = np.random.default_rng(seed)
    (alone,) = group_of(rng, 5, [17])
    return [group_of(rng, 30, rng.integers(1, 25, 8).tolist()), alone, group_of(rng, 1, [4, 9]), group_of(rng, 9, [6])]  # fmt: skip


def apart(items: Sequence[Sample | Group]) -> list[Sample]:
    """The samples without the groups."""
    return [sample for item in items for sample in ([item] if isinstance(item, Sample) else item)]


def adapted(model: Any) -> Any:
    """The model with an adapter that is not at its start, where half of the gradients are zero."""
    add_lora(model, LoRAConfig(rank=4, alpha=8), seed=1)
    for name, parameter in trainable(model):
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("capacity", [64, 1024])
def test_shared_gradients_of_all_weights_equal_transformers_one_sample_at_a_time(
    kind: str, capacity: int
) -> None:
    items = step()
    ours = tiny(kind, **MODELS[kind]).requires_grad_(True)
    theirs = AutoModelForCausalLM.from_config(copy.deepcopy(ours.config), attn_implementation="eager")
    theirs.load_state_dict(ours.state_dict())
    assert packed_step(ours, items, capacity) == pytest.approx(reference_step(theirs, apart(items)), rel=1e-5)
    assert_same(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("recompute", [False, True])
def test_shared_gradients_of_an_adapter_equal_those_of_the_samples_apart(kind: str, recompute: bool) -> None:
    items = step()
    model = adapted(tiny(kind, **MODELS[kind]))
    expected = reference_step(model, apart(items)), gradients(model)
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    assert packed_step(model, items, 256) == pytest.approx(expected[0], rel=1e-5)
    assert_same(gradients(model), expected[1])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("full", [False, True])
def test_in_bfloat16_sharing_rounds_no_more_than_the_format_does(kind: str, full: bool) -> None:
    """Of the true gradients' length in six steps, both are off by less than 10 %, and sharing by no more than 1.25 times what apart is."""
    exact = tiny(kind, **MODELS[kind])
    exact = exact.bfloat16().float().requires_grad_(True) if full else adapted(exact.bfloat16().float())
    rounded = copy.deepcopy(exact)
    for module in rounded.modules():  # an adapter's parameters are float32 beside bfloat16 weights
        for name, parameter in module.named_parameters(recurse=False):
            if not name.startswith("lora_"):
                parameter.data = parameter.data.bfloat16()

    def flat(model: Any, items: Sequence[Sample | Group]) -> torch.Tensor:
        model.zero_grad()
        packed_step(model, items, 1024)
        return torch.cat([gradient.float().flatten() for gradient in gradients(model).values()])

    steps = [step() for _ in range(6)]
    truth = torch.cat([flat(exact, apart(items)) for items in steps])
    off = {
        name: float((torch.cat([flat(rounded, items) for items in given]) - truth).norm() / truth.norm())
        for name, given in {"apart": [apart(items) for items in steps], "shared": steps}.items()
    }
    print(off)
    assert max(off.values()) < 0.1
    assert off["shared"] < 1.25 * off["apart"]


GROUPS = st.lists(
    st.tuples(st.integers(1, 60), st.lists(st.integers(1, 50), min_size=1, max_size=9)),
    min_size=1,
    max_size=6,
)


@given(shapes=GROUPS, capacity=st.integers(16, 256), seed=st.integers(0, 2**31))
def test_every_completion_token_is_learned_once_behind_its_own_past(
    shapes: list[tuple[int, list[int]]], capacity: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = [group_of(rng, prompt, completions) for prompt, completions in shapes]
    samples = apart(groups)
    batches = packed_batches(groups, capacity)
    sources = torch.cat([batch.source_N for batch in batches])
    assert sorted(sources.tolist()) == list(range(sum(len(sample.completion_ids) for sample in samples)))
    tokens = np.concatenate([sample.completion_ids for sample in samples])
    before = np.concatenate([[*s.prompt_ids[-1:], *s.completion_ids[:-1]] for s in samples])
    places = np.concatenate([np.arange(len(s.prompt_ids), len(s)) for s in samples])
    on = np.concatenate([np.full(len(s.completion_ids), s.mode is Mode.ON) for s in samples])
    for batch in batches:
        source = batch.source_N.numpy()
        ids, positions = batch.token_ids_T.numpy(), batch.position_ids_T.numpy()
        assert (ids[batch.target_index_N] == tokens[source]).all()
        assert (ids[batch.predictor_index_N] == before[source]).all()
        assert (positions[batch.target_index_N] == places[source]).all()
        assert (positions[batch.predictor_index_N] == places[source] - 1).all()
        assert (batch.thinking_N.numpy() == on[source]).all()


@given(shapes=GROUPS, capacity=st.integers(16, 256))
def test_a_prompt_stands_once_in_a_row_that_holds_no_more_than_it_must(
    shapes: list[tuple[int, list[int]]], capacity: int
) -> None:
    rng = np.random.default_rng(0)
    groups = [group_of(rng, prompt, completions) for prompt, completions in shapes]
    longest = max(len(sample) for sample in apart(groups))
    batches = packed_batches(groups, capacity)
    assert all(batch.tokens <= max(capacity, longest) for batch in batches)
    for prompt, completions in shapes:
        shared = prompt + sum(completions)
        (found,) = {batch.tokens for batch in packed_batches([group_of(rng, prompt, completions)], shared)}
        assert found == shared


def test_samples_that_share_nothing_are_plain_lengths() -> None:
    rng = np.random.default_rng(0)
    (sample,), group = group_of(rng, 7, [5]), group_of(rng, 4, [2, 3])
    (batch,) = packed_batches([sample, [sample], group], 64)
    assert sorted(map(str, batch.segments)) == sorted(map(str, (12, 12, Branches(4, (2, 3)), 31)))
    (batch,) = packed_batches(group, 64)
    assert batch.segments == (7, 6, 19)


def test_groups_that_are_none_are_refused() -> None:
    rng = np.random.default_rng(0)
    one, other = group_of(rng, 7, [5, 4]), group_of(rng, 7, [5, 4])
    for items, reason in (
        ([[one[0], other[1]]], "different prompts"),
        ([one, []], "no sample"),
        ([group_of(rng, 0, [3])], "no prompt"),
        ([group_of(rng, 3, [2, 0])], "no completion"),
    ):
        with pytest.raises(DataError, match=reason):
            packed_batches(items, 64)


@pytest.mark.parametrize("sharpness", [1, 30])
def test_entropy_of_the_distribution_before_each_completion_token(sharpness: float) -> None:
    items = [*step(), *step()]
    model = tiny(tie_word_embeddings=False).requires_grad_(True)
    model.get_output_embeddings().weight.data.mul_(sharpness)
    (batch,) = packed_batches(items, 1024)
    assert len(batch.target_index_N) > chunk_tokens("cpu")
    result = forward(model, batch, lambda logprob_C, _: -logprob_C, entropy=True)
    result.loss.backward()
    found = gradients(model)
    plain = forward(model, batch, lambda logprob_C, _: -logprob_C)
    plain.loss.backward()
    assert plain.entropy_N is None
    assert torch.equal(plain.logprob_N, result.logprob_N)
    assert_same(found, gradients(model))

    expected = []
    for sample in apart(items):
        ids = torch.tensor([*sample.prompt_ids.tolist(), *sample.completion_ids.tolist()])
        logits_TV = model(input_ids=ids[None], use_cache=False).logits[0].detach().double()
        expected.append(
            torch.distributions.Categorical(logits=logits_TV[len(sample.prompt_ids) - 1 : -1]).entropy()
        )
    assert result.entropy_N is not None
    assert (result.entropy_N.dtype, result.entropy_N.requires_grad) == (torch.float32, False)
    torch.testing.assert_close(
        result.entropy_N.double(), torch.cat(expected)[batch.source_N], rtol=1e-4, atol=1e-4
    )
    with torch.no_grad():
        silent = forward(model, batch, lambda logprob_C, _: -logprob_C, entropy=True)
    assert silent.entropy_N is not None
    torch.testing.assert_close(silent.entropy_N, result.entropy_N)
