"""The server answers the real `openai` client, over HTTP, with a tiny real model behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from bethink.core.errors import ConfigError
from bethink.engine.dialogue import Dialogue, LocalDialogue
from bethink.serve.server import listen
from bethink.serve.service import Service
from serve.tiny_server import tiny_server

# A random model's eight likeliest tokens do not include the end of turn: its text goes on to the limit.
ENDLESS: Any = {"temperature": 1.0, "seed": 0, "extra_body": {"top_k": 8}}
ASK: Any = [{"role": "user", "content": "What is 17 plus 25?"}]


@dataclass(frozen=True)
class Served:
    url: str
    client: openai.OpenAI
    dialogue: Dialogue
    service: Service


@pytest.fixture(scope="module")
def served(tiny_model_dir: Path) -> Iterator[Served]:
    with (
        tiny_server(tiny_model_dir) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Served(server.url, client, server.dialogue, server.service)


def running(served: Served) -> int:
    """Rows the engine still works on."""
    assert isinstance(served.dialogue, LocalDialogue)
    return served.dialogue.engine._batch.active  # type: ignore[attr-defined]


def test_health_and_models(served: Served) -> None:
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}
    assert [model.id for model in served.client.models.list()] == ["tiny"]
    assert served.client.models.retrieve("tiny").owned_by == "bethink"


def test_an_answer_is_the_same_streamed_or_whole(served: Served) -> None:
    options: Any = {"model": "tiny", "messages": ASK, "max_tokens": 20, **ENDLESS}
    whole = served.client.chat.completions.create(**options)
    stream = served.client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    text, finish, usage = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason == "length"
    assert usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 20
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 20


def test_choices_differ_and_keep_their_index(served: Served) -> None:
    options: Any = {"model": "tiny", "messages": ASK, "n": 3, "max_tokens": 12, **ENDLESS}
    whole = served.client.chat.completions.create(**options)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in served.client.chat.completions.create(**options, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_thinking_comes_apart_from_the_answer(served: Served) -> None:
    options: Any = {
        "model": "tiny",
        "messages": ASK,
        "max_tokens": 40,
        "temperature": 1.0,
        "seed": 3,
        "reasoning_effort": "high",
        "extra_body": {"max_thinking_tokens": 8},
    }
    whole = served.client.chat.completions.create(**options)
    message: Any = whole.choices[0].message
    reasoning = content = ""
    for chunk in served.client.chat.completions.create(**options, stream=True):
        delta: Any = chunk.choices[0].delta
        assert getattr(delta, "reasoning", None) == getattr(delta, "reasoning_content", None)
        reasoning += getattr(delta, "reasoning", None) or ""
        content += delta.content or ""
    assert message.reasoning == message.reasoning_content == reasoning != ""
    assert message.content == content != ""
    assert "<think>" not in reasoning + content
    assert "</think>" not in reasoning + content
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    assert 8 <= (whole.usage.completion_tokens_details.reasoning_tokens or 0) < 40


@pytest.mark.parametrize(
    "said",
    [
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
        {"reasoning_effort": "high"},
        {"messages": [{"role": "system", "content": "detailed thinking on"}, *ASK]},
        {"messages": [{"role": "user", "content": ASK[0]["content"] + " /think"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": ASK[0]["content"] + " /think"}]}
            ]
        },
    ],
)
def test_every_way_to_ask_for_thinking_means_the_same(served: Served, said: dict[str, Any]) -> None:
    options: Any = {"model": "tiny", "messages": ASK, "max_tokens": 8, "temperature": 0}

    def tokens(**more: Any) -> int:
        reply = served.client.chat.completions.create(**{**options, **more})
        assert reply.usage is not None
        return reply.usage.prompt_tokens

    explicit = [{"role": "system", "content": "detailed thinking off"}, *ASK]
    assert tokens() == tokens(messages=explicit) != tokens(**said)
    assert tokens(**said) == tokens(reasoning_effort="low")


def test_a_stop_string_ends_the_text_before_it(served: Served) -> None:
    options: Any = {"model": "tiny", "messages": ASK, "max_tokens": 24, **ENDLESS}
    plain = served.client.chat.completions.create(**options).choices[0].message.content
    stop = plain[len(plain) // 2]
    stopped = served.client.chat.completions.create(**options, stop=[stop]).choices[0]
    assert stopped.message.content == plain[: plain.index(stop)]
    assert stopped.finish_reason == "stop"


def test_requests_at_once_answer_as_they_would_alone(served: Served) -> None:
    def ask(seed: int) -> str | None:
        reply = served.client.chat.completions.create(
            model="tiny", messages=ASK, temperature=1.0, seed=seed, max_tokens=16
        )
        return reply.choices[0].message.content

    alone = [ask(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "other"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": None}, 400, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, 400, "messages.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            "messages.0.content.0.type",
        ),
        ({"temperature": 3}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"n": 0}, 400, "n"),
        ({"stop": [""]}, 400, "stop"),
        ({"logprobs": True}, 400, None),
        ({"tools": [{"type": "function"}]}, 400, None),
        ({"tempersture": 1}, 400, "tempersture"),
        ({"reasoning_effort": "wild"}, 400, None),
        ({"chat_template_kwargs": {"enable_thinking": "yes"}}, 400, None),
        ({"top_k": 2**70}, 400, "top_k"),
        (
            {"messages": [*ASK, {"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}]},
            400,
            "messages.1",
        ),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, 400, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_is_refused_in_openais_shape(
    served: Served, change: dict[str, Any], status: int, param: str | None, stream: bool
) -> None:
    body = {"model": "tiny", "messages": ASK, "stream": stream, **change}
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=30)
    error = reply.json()["error"]
    assert reply.status_code == status, error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"model": "tiny", "n": ' + "9" * 5000 + "}",
        '{"model": "tiny", "messages": [{"role": "user", "content": "\\ud83d"}]}',
        '{"model": "tiny", "stop": ["\\ud83d"], "messages": [{"role": "user", "content": "Hello"}]}',
        '{"model": "\\ud83d", "messages": [{"role": "user", "content": "Hello"}]}',
    ],
    ids=["deep", "long number", "half a character", "in a stop", "in a name"],
)
def test_a_body_that_cannot_be_read_is_the_clients_fault(served: Served, body: str) -> None:
    reply = httpx.post(f"{served.url}/v1/chat/completions", content=body, timeout=30)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("We could not parse the JSON body")


def test_what_nobody_thought_of_is_an_error_of_the_same_shape(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bethink.serve.app.read_request", lambda body: 1 / 0)
    reply = httpx.post(f"{served.url}/v1/chat/completions", json={}, timeout=30)
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"


def test_a_request_at_next_to_no_temperature_is_greedy_and_its_neighbour_unharmed(served: Served) -> None:
    def ask(temperature: float) -> str | None:
        reply = served.client.chat.completions.create(
            model="tiny",
            messages=ASK,
            temperature=temperature,
            seed=1,
            max_tokens=200,
            extra_body={"top_k": 8},
        )
        return reply.choices[0].message.content

    with ThreadPoolExecutor(4) as pool:
        cold, warm, greedy, again = pool.map(ask, (1e-50, 1.0, 0.0, 1.0))
    assert cold == greedy != warm == again


def test_a_missing_field_broken_json_and_unknown_paths_are_errors_of_the_same_shape(served: Served) -> None:
    url = f"{served.url}/v1/chat/completions"
    assert httpx.post(url, json={"model": "tiny"}).json()["error"]["param"] == "messages"
    assert httpx.post(url, json=[1]).status_code == 400
    assert httpx.post(url, content=b"{").json()["error"]["type"] == "invalid_request_error"
    assert httpx.post(url, content=b"\xff\xfe").status_code == 400
    assert httpx.get(f"{served.url}/v1/nothing").json()["error"]["message"].startswith("Not Found")
    assert httpx.get(url).status_code == 405
    with pytest.raises(openai.NotFoundError):
        served.client.models.retrieve("other")


def test_fields_that_ask_for_nothing_are_taken(served: Served) -> None:
    reply = served.client.chat.completions.create(
        model="tiny",
        messages=ASK,
        max_completion_tokens=4,
        user="me",
        logprobs=False,
        presence_penalty=0,
        extra_body={"stream": None},
    )
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 4


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_the_engine(served: Served, stream: bool) -> None:
    body = {
        "model": "tiny",
        "messages": ASK,
        "stream": stream,
        "max_tokens": 1900,
        "temperature": 1,
        "top_k": 8,
    }
    url = f"{served.url}/v1/chat/completions"
    if stream:
        with httpx.stream("POST", url, json=body, timeout=30) as reply:
            # The first line says who speaks, and may come before the engine has begun.
            assert any(running(served) == 1 for _ in reply.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, timeout=0.3)
    deadline = time.monotonic() + 10
    while running(served) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(served) == 0
    served.client.chat.completions.create(model="tiny", messages=ASK, max_tokens=3)


@pytest.fixture
def slow_to_ask(served: Served, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Questions are rendered, but reach the engine only when the event is set."""
    assert isinstance(served.dialogue, LocalDialogue)
    engine, go = served.dialogue.engine, threading.Event()
    generate = engine.generate

    def later(requests: Any, **options: Any) -> Any:
        go.wait(30)
        return generate(requests, **options)

    monkeypatch.setattr(engine, "generate", later)
    return go


def test_a_client_that_left_before_the_engine_was_asked_is_not_answered(
    served: Served, slow_to_ask: threading.Event
) -> None:
    body = {"model": "tiny", "messages": ASK, "max_tokens": 1900, "temperature": 1, "top_k": 8}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=0.4)
    time.sleep(0.5)  # the server hears of it
    slow_to_ask.set()
    started = time.monotonic()
    time.sleep(0.3)
    while running(served) and time.monotonic() - started < 10:
        time.sleep(0.01)
    assert time.monotonic() - started < 1.5


def test_a_reply_that_the_servers_end_cuts_has_the_reason_length(served: Served) -> None:
    options: Any = {"model": "tiny", "messages": ASK, "max_tokens": 1900, **ENDLESS}
    chunks = iter(served.client.chat.completions.create(**options, stream=True))
    next(chunks)
    served.service.interrupt()
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] == "length"
    assert len(reasons) < 1000


def test_a_port_in_use_is_said_before_a_model_is_loaded() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="cannot listen"):
        listen("127.0.0.1", taken.getsockname()[1])
