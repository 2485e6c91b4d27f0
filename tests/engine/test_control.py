"""Stop strings, thinking budgets, streaming, cancelling, and several callers at once."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from bethink.engine.api import Completion, FinishReason, Request, SamplingParams, ThinkingBudget
from bethink.engine.native import NativeEngine
from bethink.engine.watch import ANSWER_ROOM
from engine.tiny import run, tokens_of


def decode(ids: Sequence[int]) -> str:
    """Two letters a token, so that a tag is several tokens and no token is a tag."""
    return "".join(chr(97 + i // 20) + chr(65 + i % 20) for i in ids)


def engine(model: Any, **options: Any) -> NativeEngine:
    return NativeEngine(model, **{"decode": decode, "slots": 4, **options})


def free_run(model: Any, prompt: tuple[int, ...], length: int, **sampling: Any) -> tuple[int, ...]:
    return run(engine(model), [Request("a", prompt, SamplingParams(length, **sampling))])["a"].token_ids


def only(model: Any, prompt: tuple[int, ...], sampling: SamplingParams) -> Completion:
    return run(engine(model), [Request("a", prompt, sampling)])["a"]


def test_a_stop_string_ends_a_completion_with_the_token_that_completes_it(model, prompts) -> None:
    for prompt in prompts(5):
        tokens = free_run(model, prompt, 60, temperature=1.0, seed=3)
        text = decode(tokens)
        stop = text[41:46]  # begins inside one token and ends inside another
        ended = only(model, prompt, SamplingParams(60, temperature=1.0, seed=3, stop=("zzzz", stop)))
        first = next(n for n in range(61) if stop in decode(tokens[:n]))
        assert ended.token_ids == tokens[:first]
        assert ended.finish_reason is FinishReason.STOP


def budget(most: int, open_text: str | None = None, close_text: str = "-never-") -> ThinkingBudget:
    return ThinkingBudget(most, close_ids=(5, 6, 7), close_text=close_text, open_text=open_text)


def test_a_spent_budget_closes_the_block_the_prompt_opened(model, prompts) -> None:
    for most in (0, 1, 9):
        for prompt in prompts(3):
            tokens = free_run(model, prompt, 20, temperature=1.0)
            done = only(model, prompt, SamplingParams(20, temperature=1.0, thinking=budget(most)))
            assert done.token_ids[:most] == tokens[:most]
            assert done.token_ids[most : most + 3] == (5, 6, 7)
            assert done.forced == (most, most + 1, most + 2)
            assert len(done.token_ids) == 20


def test_a_budget_counts_from_the_tag_the_model_wrote(model, prompts) -> None:
    for prompt in prompts(4):
        tokens = free_run(model, prompt, 60, temperature=1.0)
        opening = decode(tokens[8:11])
        opened = next(n for n in range(61) if opening in decode(tokens[:n]))
        sampling = SamplingParams(60, temperature=1.0, thinking=budget(5, opening))
        done = only(model, prompt, sampling)
        assert done.forced[:3] == (opened + 5, opened + 6, opened + 7)
        assert done.token_ids[: opened + 5] == tokens[: opened + 5]


def test_a_budget_leaves_a_block_alone_that_the_model_closed(model, prompts) -> None:
    for prompt in prompts(4):
        tokens = free_run(model, prompt, 40, temperature=1.0)
        closing = decode(tokens[5:8])
        closed = next(n for n in range(41) if closing in decode(tokens[:n]))
        spent = SamplingParams(40, temperature=1.0, thinking=budget(closed + 1, close_text=closing))
        assert only(model, prompt, spent).token_ids == tokens


def test_a_budget_never_applies_where_no_block_is_opened(model, prompts) -> None:
    (prompt,) = prompts(1)
    tokens = free_run(model, prompt, 30)
    assert only(model, prompt, SamplingParams(30, thinking=budget(2, "-never-"))).token_ids == tokens


def test_room_for_the_answer_is_left_whatever_the_budget(model, prompts) -> None:
    (prompt,) = prompts(1)
    for most_tokens, room in ((400, ANSWER_ROOM), (40, 10)):
        done = only(model, prompt, SamplingParams(most_tokens, thinking=budget(10_000)))
        assert len(done.token_ids) == most_tokens
        assert done.forced[-1] == most_tokens - room - 1


def test_every_token_is_told_in_order_as_it_is_drawn(model, prompts) -> None:
    requests = [
        Request(str(n), p, SamplingParams(5 + n, temperature=1.0, seed=n)) for n, p in enumerate(prompts(7))
    ]
    heard: dict[str, list[int]] = {request.id: [] for request in requests}
    for completion in engine(model).generate(requests, on_token=lambda i, t: heard[i].append(t)):
        assert tuple(heard[completion.id]) == completion.token_ids


def test_a_cancelled_request_is_yielded_with_what_it_had(model, prompts) -> None:
    eng = engine(model)
    requests = [Request(str(n), p, SamplingParams(50, temperature=1.0)) for n, p in enumerate(prompts(9))]
    free = run(engine(model), requests)
    counts = dict.fromkeys(free, 0)

    def hear(id_: str, _: int) -> None:
        counts[id_] += 1
        if id_ == "1" and counts[id_] == 10:
            eng.cancel("1")
            eng.cancel("8")  # still waiting
            eng.cancel("unknown")

    done = {completion.id: completion for completion in eng.generate(requests, on_token=hear)}
    assert done["1"].finish_reason is FinishReason.CANCELLED
    assert done["1"].token_ids == free["1"].token_ids[: len(done["1"].token_ids)]
    assert 10 <= len(done["1"].token_ids) < 50
    assert (done["8"].token_ids, done["8"].finish_reason) == ((), FinishReason.CANCELLED)
    assert all(done[id_].token_ids == free[id_].token_ids for id_ in free if id_ not in ("1", "8"))
    eng.cancel("0")  # a cancellation of what has ended does not reach a later request of the same name
    assert run(eng, requests[:1])["0"].finish_reason is FinishReason.LENGTH


def test_closing_the_iterator_frees_the_engine(model, prompts) -> None:
    eng = engine(model)
    requests = [Request(str(n), p, SamplingParams(10 + 15 * n)) for n, p in enumerate(prompts(8))]
    expected = run(engine(model), requests)
    for _ in range(3):
        iterator = eng.generate(requests)
        next(iterator)
        iterator.close()
        assert eng._batch.active == eng._batch.waiting == 0
    heard: list[str] = []
    again = {c.id: c for c in eng.generate(requests[:2], on_token=lambda id_, _: heard.append(id_))}
    assert tokens_of(again) == {id_: expected[id_].token_ids for id_ in ("0", "1")}
    assert set(heard) == {"0", "1"}


def test_an_interrupted_engine_can_be_used_again(model, prompts) -> None:
    eng = engine(model)
    requests = [Request(str(n), p, SamplingParams(30)) for n, p in enumerate(prompts(6))]
    expected = run(engine(model), requests)
    calls = 0

    def interrupt(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt

    hook = model.lm_head.register_forward_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(eng.generate(requests))
    finally:
        hook.remove()
    assert run(eng, requests) == expected


def test_a_callers_error_is_raised_to_that_caller_only(model, prompts) -> None:
    eng = engine(model, slots=8)
    requests = [Request(str(n), p, SamplingParams(30)) for n, p in enumerate(prompts(4))]
    expected = run(engine(model), requests)

    def fail(*_: object) -> None:
        raise ValueError("mine")

    bystander = eng.generate(requests)
    first = next(bystander)
    with pytest.raises(ValueError, match="mine"):
        list(eng.generate(requests, on_token=fail))
    assert tokens_of({c.id: c for c in (first, *bystander)}) == tokens_of(expected)


def test_threads_share_the_batch_and_get_their_own(model, prompts) -> None:
    eng = engine(model, slots=8)
    asked = [
        [
            Request(str(n), p, SamplingParams(10 + n, temperature=1.0, seed=n))
            for n, p in enumerate(prompts(6))
        ]
        for _ in range(5)
    ]
    expected = [run(engine(model), requests) for requests in asked]
    answers: list[dict[str, Completion]] = [{} for _ in asked]

    def work(index: int) -> None:
        answers[index] = run(eng, asked[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert [tokens_of(answer) for answer in answers] == [tokens_of(each) for each in expected]
