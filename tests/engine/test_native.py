"""What the native engine generates is what the model says, whatever else is in the batch."""

from typing import Any

import pytest
import torch

from bethink.core.errors import BethinkError, ConfigError, ModelError
from bethink.engine.api import Completion, FinishReason, Request, SamplingParams
from bethink.engine.native import NativeEngine
from bethink.models import attention
from engine.tiny import assert_same_but_for_ties, logits_of, run, tiny, tokens_of


def greedy(prompts: list[tuple[int, ...]], lengths: list[int]) -> list[Request]:
    return [
        Request(str(n), prompt, SamplingParams(max_tokens=length))
        for n, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]


def generated_by_transformers(model: Any, request: Request) -> Completion:
    model.set_attn_implementation("eager")
    try:
        ids = torch.tensor([request.prompt_ids])
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=request.sampling.max_tokens,
            do_sample=False,
            use_cache=True,
        )
    finally:
        model.set_attn_implementation(attention.NAME)
    tokens = tuple(output[0, len(request.prompt_ids) :].tolist())
    return Completion(request.id, tokens, (), FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 1, "head_dim": 24, "tie_word_embeddings": True}),
        ("qwen2", {"num_key_value_heads": 4}),
        ("qwen3", {}),
        ("mistral", {"sliding_window": 16}),
        ("gemma3_text", {"sliding_window": 16, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]}),
        ("granite", {"logits_scaling": 3.0, "attention_multiplier": 0.5}),
        ("gpt_neox", {}),
        ("phi3", {}),
    ],
)  # fmt: skip
def test_greedy_is_transformers_generate_token_for_token(kind: str, changes: dict, prompts) -> None:
    model = tiny(kind, **changes)
    requests = greedy(prompts(9), [30, 1, 25, 40, 3, 30, 30, 12, 35])
    completions = run(NativeEngine(model, slots=4), requests)
    for request in requests:
        expected = generated_by_transformers(model, request)
        assert_same_but_for_ties(model, request, completions[request.id], expected)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shortest_completions_come_once(model, prompts, length: int) -> None:
    completions = run(NativeEngine(model, slots=4), greedy(prompts(6), [length] * 6))
    assert all(len(completion.token_ids) == length for completion in completions.values())


def test_logprobs_are_those_of_a_full_forward(model, prompts) -> None:
    requests = [
        Request(str(n), p, SamplingParams(20, temperature=0.2 + n / 4, top_k=50 * (n % 2), seed=n))
        for n, p in enumerate(prompts(10))
    ]
    for completion in NativeEngine(model, slots=5).generate(requests):
        prompt = requests[int(completion.id)].prompt_ids
        logprobs = logits_of(model, prompt + completion.token_ids).log_softmax(-1)[len(prompt) - 1 : -1]
        expected = logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        assert torch.allclose(expected, torch.tensor(completion.logprobs), atol=1e-4, rtol=0)


def sampled(prompts: list[tuple[int, ...]], length: int = 40) -> list[Request]:
    return [
        Request(str(n), p, SamplingParams(length, temperature=1.0, top_p=1.0 if n % 2 else 0.9, seed=n))
        for n, p in enumerate(prompts)
    ]


def test_a_completion_does_not_depend_on_its_neighbours(model, prompts) -> None:
    requests = sampled(prompts(23), length=30)
    together = run(NativeEngine(model, slots=24), requests)
    backwards = run(NativeEngine(model, slots=7), requests[::-1])
    for request in requests:
        assert_same_but_for_ties(model, request, together[request.id], backwards[request.id])
    for request in requests[:5]:
        alone = run(NativeEngine(model, slots=1), [request])
        assert_same_but_for_ties(model, request, together[request.id], alone[request.id])


def test_seeds_decide(model, prompts) -> None:
    (prompt,) = prompts(1)
    requests = [Request(str(n), prompt, SamplingParams(30, temperature=1.5, seed=n % 3)) for n in range(6)]
    done = run(NativeEngine(model, slots=4), requests)
    assert [done[str(n)].token_ids == done[str(n + 3)].token_ids for n in range(3)] == [True] * 3
    assert len({completion.token_ids for completion in done.values()}) == 3


def test_each_distinct_prompt_is_prefilled_once_and_shared(model, prompts) -> None:
    distinct = prompts(5)
    requests = [
        Request(f"{p}-{n}", prompt, SamplingParams(5 + (7 * n + p) % 20, temperature=1.0, seed=n))
        for n in range(9)
        for p, prompt in enumerate(distinct)
    ]
    seen: list[torch.Size] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    try:
        shared = run(NativeEngine(model, slots=6), requests)
    finally:
        hook.remove()
    packed = [shape[1] for shape in seen if shape[0] == 1]
    assert len(packed) <= len(distinct)
    for request in requests[::7]:
        alone = run(NativeEngine(model, slots=1), [request])
        assert_same_but_for_ties(model, request, shared[request.id], alone[request.id])


@pytest.mark.parametrize("prefill_tokens", [7, 64])
def test_long_prompts_are_fed_in_pieces(prefill_tokens: int, prompts) -> None:
    model = tiny("mistral", sliding_window=20)
    requests = greedy([p * 4 for p in prompts(5)], [20] * 5)
    pieces = run(NativeEngine(model, slots=4, prefill_tokens=prefill_tokens), requests)
    whole = run(NativeEngine(model, slots=4), requests)
    for request in requests:
        assert_same_but_for_ties(model, request, pieces[request.id], whole[request.id])


def test_the_cache_grows_and_stays_within_its_limit(model, prompts) -> None:
    requests = greedy(prompts(12), [5, 300, 100, 8] * 3)
    free = run(NativeEngine(model, slots=12), requests)
    engine = NativeEngine(model, slots=12, max_cache_tokens=4 * 512)
    tight: dict[str, Completion] = {}
    for completion in engine.generate(requests):
        tight[completion.id] = completion
        cache = engine._runner.cache
        assert cache.slots * cache.capacity <= 4 * 512
    for request in requests:
        assert len(tight[request.id].token_ids) == request.sampling.max_tokens
        assert_same_but_for_ties(model, request, tight[request.id], free[request.id])


def test_stop_tokens_end_a_completion_and_belong_to_it(model, prompts) -> None:
    requests = greedy(prompts(6), [60] * 6)
    free = run(NativeEngine(model, slots=4), requests)
    for request in requests:
        tokens = free[request.id].token_ids
        stop = tokens[len(tokens) // 2]
        sampling = SamplingParams(60, stop_ids=(stop, 299))
        (stopped,) = NativeEngine(model, slots=4).generate([Request("a", request.prompt_ids, sampling)])
        first = min(tokens.index(s) for s in sampling.stop_ids if s in tokens)
        assert stopped.token_ids == tokens[: first + 1]
        assert stopped.finish_reason is FinishReason.STOP
        assert free[request.id].finish_reason is FinishReason.LENGTH


def test_generation_ends_where_the_models_positions_do(prompts) -> None:
    model = tiny(max_position_embeddings=64)
    (completion,) = NativeEngine(model).generate([Request("a", (1,) * 60, SamplingParams(100))])
    assert len(completion.token_ids) == 4
    assert completion.finish_reason is FinishReason.LENGTH


def test_a_model_in_training_is_sampled_without_dropout_and_left_in_training(prompts) -> None:
    model = tiny(attention_dropout=0.5)
    model.model.layers[0].mlp.act_fn = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Dropout(0.5)).eval()
    requests = sampled(prompts(4))
    expected = run(NativeEngine(model), requests)
    model.train()
    assert tokens_of(run(NativeEngine(model), requests)) == tokens_of(expected)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("closed_early", [False, True])
def test_weights_changed_between_two_runs_are_used(closed_early: bool, prompts) -> None:
    model = tiny()
    engine = NativeEngine(model, slots=4)
    requests = greedy(prompts(3), [10, 20, 30])
    before = engine.generate(requests)
    next(before)
    if closed_early:
        before.close()
    else:
        list(before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1).add_(0.01)
    assert run(engine, requests) == run(NativeEngine(model, slots=4), requests)


def test_no_request_at_all_is_no_work(model) -> None:
    assert list(NativeEngine(model).generate([])) == []


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ((), {}, "empty"),
        ((1, 300), {}, "token ids"),
        ((-1,), {}, "token ids"),
        ((1,) * 512, {}, "512 tokens, the model 512 positions"),
        ((1,), {"max_tokens": 0}, "max_tokens"),
        ((1,), {"temperature": -0.1}, "temperature"),
        ((1,), {"temperature": float("nan")}, "temperature"),
        ((1,), {"top_p": 0.0}, "top_p"),
        ((1,), {"min_p": 1.5}, "min_p"),
        ((1,), {"top_k": -1}, "top_k"),
        ((1,), {"stop": ("",)}, "stop string"),
        ((1,), {"stop": ("x",)}, "decode"),
    ],
)
def test_an_unusable_request_is_refused_before_any_work(model, prompt, sampling, message) -> None:
    request = Request("a", prompt, SamplingParams(**{"max_tokens": 5, **sampling}))
    with pytest.raises(ConfigError, match=message) as caught:
        NativeEngine(model).generate([Request("fine", (1,), SamplingParams(5)), request])
    assert caught.value.where == "request a"


def test_a_request_that_memory_cannot_hold_is_refused(model) -> None:
    engine = NativeEngine(model, max_cache_tokens=600)
    with pytest.raises(ModelError, match="too little memory"):
        engine.generate([Request("a", (1,), SamplingParams(400))])


def test_two_requests_of_one_id_are_refused(model) -> None:
    with pytest.raises(ConfigError, match="same id"):
        NativeEngine(model).generate([Request("a", (1,), SamplingParams(5))] * 2)


def test_a_model_without_our_attention_is_refused(model) -> None:
    other = tiny()
    other.set_attn_implementation("eager")
    with pytest.raises(BethinkError, match="attention"):
        NativeEngine(other)
