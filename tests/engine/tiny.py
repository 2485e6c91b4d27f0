"""Tiny random models and what tests say about completions."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from bethink.engine.api import Completion, Request
from bethink.engine.native import NativeEngine
from bethink.engine.sampler import draw, rules_of, uniforms
from bethink.models import attention

VOCABULARY = 300


def tiny(kind: str = "llama", **changes: Any) -> Any:
    """A random fp32 model of one of transformers' architectures, with logits far enough apart that ties are rare."""
    config = CONFIG_MAPPING[kind](
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
            **changes,
        }
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention.register()).eval()


def run(engine: NativeEngine, requests: list[Request]) -> dict[str, Completion]:
    """Every request's completion by its id."""
    completions = list(engine.generate(requests))
    assert sorted(c.id for c in completions) == sorted(r.id for r in requests)
    return {completion.id: completion for completion in completions}


def tokens_of(completions: dict[str, Completion]) -> dict[str, tuple[int, ...]]:
    """The token ids alone: logprobs of one token may differ by rounding between batches."""
    return {id_: completion.token_ids for id_, completion in completions.items()}


@torch.no_grad()
def logits_of(model: Any, token_ids: tuple[int, ...]) -> torch.Tensor:
    """Plain full forward: logits [T, V]."""
    return model(torch.tensor([token_ids]), use_cache=False).logits[0].float()


def assert_same_but_for_ties(model: Any, request: Request, one: Completion, other: Completion) -> None:
    """Two completions of `request` may part only where rounding decides.

    Greedy: where the logits of their choices lie within 1e-4. Sampled: where a uniform number moved by 1e-4 draws the other's token.
    """
    pairs = enumerate(zip(one.token_ids, other.token_ids, strict=False))
    parting = next((index for index, (a, b) in pairs if a != b), None)
    if parting is None:
        assert one.token_ids == other.token_ids
        return
    logits_V = logits_of(model, request.prompt_ids + one.token_ids[:parting])[-1]
    chosen = {one.token_ids[parting], other.token_ids[parting]}
    if request.sampling.temperature == 0:
        gap = logits_V[list(chosen)].diff().abs().item()
        assert gap < 1e-4, f"parted at token {parting} with a gap of {gap}"
        return
    nearby = torch.from_numpy(uniforms([request.sampling.seed], [parting])) + torch.tensor([-1e-4, 1e-4])
    rules = rules_of([request.sampling] * 2, len(logits_V), logits_V.device)
    drawn_B, _ = draw(logits_V.expand(2, -1), rules, nearby.clamp(0, 1 - 1e-9))
    assert chosen == set(drawn_B.tolist()), f"parted at token {parting}"
