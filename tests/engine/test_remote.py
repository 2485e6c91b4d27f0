"""An endpoint that misbehaves costs retries or a clear error, never a finished reply."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bethink.chat.parse import Status
from bethink.chat.toggle import Mode
from bethink.core.errors import ConfigError, EndpointError
from bethink.engine.api import FinishReason
from bethink.engine.dialogue import Dialogue, Question, Sampling, open_dialogue
from bethink.engine.remote import RemoteDialogue

Answer = tuple[int, dict[str, str], str | list[str]]


class Server:
    """A real HTTP server whose answers a test decides: `behave(body, number of the request) -> (status, headers, body)`."""

    def __init__(self, behave: Callable[[dict, int], Answer]) -> None:
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.running = self.most_running = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self.send(200, {}, json.dumps({"data": [{"id": "only"}]}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    server.bodies.append(body)
                    server.keys.append(self.headers.get("authorization"))
                    server.running += 1
                    server.most_running = max(server.most_running, server.running)
                    number = len(server.bodies)
                try:
                    if self.path != "/v1/chat/completions":
                        self.send(404, {}, "no such page")
                    else:
                        self.send(*behave(body, number))
                finally:
                    with lock:
                        server.running -= 1

            def send(self, status: int, headers: dict[str, str], body: str | list[str]) -> None:
                text = body if isinstance(body, str) else "".join(f"data: {event}\n\n" for event in body)
                data = text.encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[dict, int], Answer]], Server]]:
    servers: list[Server] = []

    def start(behave: Callable[[dict, int], Answer]) -> Server:
        servers.append(Server(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def said(content: str, finish: str = "stop", usage: dict | None = None, **message: str) -> Answer:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return 200, {}, json.dumps({"choices": [choice], "usage": usage or {}})


def question(id_: str = "a", mode: Mode | None = Mode.ON, **sampling: object) -> Question:
    asked = ({"role": "user", "content": f"question {id_}"},)
    return Question(id_, asked, mode, Sampling(**{"max_tokens": 100, **sampling}))


def dialogue(server: Server, **options: object) -> RemoteDialogue:
    return RemoteDialogue(server.url, "m", **{"back_off": 0.01, **options})


def test_failures_that_mend_themselves_are_retried(serve) -> None:
    failures = [
        (429, {"retry-after": "0"}, "slow down"),
        (500, {}, "oops"),
        (503, {}, ""),
        (200, {}, "<html>"),
    ]
    for failure in failures:
        server = serve(lambda _, number, failure=failure: failure if number == 1 else said("fine"))
        assert [reply.text for reply in dialogue(server).answer([question()])] == ["fine"]
        assert len(server.bodies) == 2


def test_retry_after_is_honoured(serve) -> None:
    server = serve(lambda _, number: (429, {"retry-after": "0.4"}, "") if number == 1 else said("fine"))
    started = time.monotonic()
    list(dialogue(server).answer([question()]))
    assert 0.4 <= time.monotonic() - started < 5


def test_a_slow_answer_is_tried_again(serve) -> None:
    def behave(_: dict, number: int) -> Answer:
        time.sleep(1.0 if number == 1 else 0)
        return said("fine")

    server = serve(behave)
    replies = list(dialogue(server, timeout=0.3, retries=1).answer([question()]))
    assert [reply.text for reply in replies] == ["fine"]


def test_endless_failure_ends_in_one_clear_error(serve) -> None:
    server = serve(lambda _, __: (500, {}, json.dumps({"error": {"message": "out of GPUs"}})))
    with pytest.raises(EndpointError, match="failed 3 times.*out of GPUs"):
        list(dialogue(server, retries=2).answer([question()]))


@pytest.mark.parametrize(
    ("status", "fix"), [(401, "environment variable SOME_KEY"), (404, "model's name"), (400, "limits")]
)
def test_what_cannot_mend_itself_is_not_retried(serve, status: int, fix: str) -> None:
    server = serve(lambda _, __: (status, {}, json.dumps({"error": {"message": "no"}})))
    with pytest.raises(EndpointError, match=f"HTTP {status}: no") as caught:
        list(dialogue(server, api_key_env="SOME_KEY").answer([question()]))
    assert fix in (caught.value.fix or "")
    assert len(server.bodies) == 1


@pytest.mark.parametrize("body", ["not json", "[]", "{}", '{"choices": []}', '{"choices": [{"text": "a"}]}'])
def test_a_malformed_answer_is_a_clear_error(serve, body: str) -> None:
    server = serve(lambda _, __: (200, {}, body))
    with pytest.raises(EndpointError):
        list(dialogue(server).answer([question()]))
    assert len(server.bodies) <= 2


def test_an_unreachable_endpoint_is_said_at_once() -> None:
    remote = RemoteDialogue("http://127.0.0.1:9", "m", back_off=30)
    started = time.monotonic()
    with pytest.raises(EndpointError, match="cannot be reached"):
        list(remote.answer([question()]))
    assert time.monotonic() - started < 10


def test_finished_replies_are_yielded_before_the_error(serve) -> None:
    def behave(body: dict, _: int) -> Answer:
        if body["messages"][-1]["content"].endswith("bad"):
            return 400, {}, "too long"
        time.sleep(0.2)
        return said("fine")

    server = serve(behave)
    questions = (
        [question(str(n)) for n in range(3)] + [question("bad")] + [question(str(n)) for n in range(3, 40)]
    )
    replies = []
    with pytest.raises(EndpointError, match="too long"):
        for reply in dialogue(server, concurrency=4).answer(questions):
            replies.append(reply.id)
    assert sorted(replies) == ["0", "1", "2"]


def test_no_more_requests_run_at_a_time_than_allowed(serve) -> None:
    def behave(_: dict, __: int) -> Answer:
        time.sleep(0.05)
        return said("fine")

    server = serve(behave)
    replies = list(dialogue(server, concurrency=3).answer([question(str(n)) for n in range(12)]))
    assert sorted(reply.id for reply in replies) == sorted(str(n) for n in range(12))
    assert server.most_running == 3


def test_thinking_is_found_wherever_the_server_puts_it(serve) -> None:
    usage = {"completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 20}}
    ways = [
        said("4", reasoning_content="2+2", usage=usage),
        said("4", reasoning="2+2", usage=usage),
        said("<think>\n2+2\n</think>\n\n4", usage=usage),
        said("2+2\n</think>\n\n4", usage=usage),
    ]
    for way in ways:
        server = serve(lambda _, __, way=way: way)
        (reply,) = dialogue(server).answer([question()])
        assert (reply.parsed.thinking, reply.parsed.answer, reply.parsed.status) == (
            "2+2",
            "4",
            Status.CLOSED,
        )
        assert (reply.thinking_tokens, reply.answer_tokens) == (20, 10)


def test_a_thought_cut_at_the_limit_is_unclosed(serve) -> None:
    server = serve(
        lambda _, __: said("", finish="length", reasoning_content="so", usage={"completion_tokens": 9})
    )
    (reply,) = dialogue(server).answer([question()])
    assert reply.parsed.status is Status.UNCLOSED
    assert reply.finish_reason is FinishReason.LENGTH
    assert (reply.thinking_tokens, reply.answer_tokens) == (9, 0)


def test_the_request_says_mode_sampling_and_key(serve, monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    server = serve(lambda _, __: said("fine"))
    remote = dialogue(server, api_key_env="SOME_KEY", chat_template_kwargs=True)
    list(remote.answer([question(mode=Mode.OFF, temperature=0.6, top_p=0.95, stop=("END",), seed=7)]))
    (body,) = server.bodies
    assert server.keys == ["Bearer secret"]
    assert body["messages"][0] == {"role": "system", "content": "detailed thinking off"}
    assert body["chat_template_kwargs"]["enable_thinking"] is False
    assert body["temperature"] == 0.6
    assert (body["top_p"], body["stop"], body["seed"], body["max_tokens"]) == (0.95, ["END"], 7, 100)
    assert "top_k" not in body
    assert "min_p" not in body


def test_a_stream_gives_thinking_and_answer_as_they_come(serve) -> None:
    def event(finish: str | None = None, **delta: str) -> str:
        return json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]})

    usage = json.dumps({"choices": [], "usage": {"completion_tokens": 8, "prompt_tokens": 5}})
    streams = [
        [
            event(reasoning_content="2+"),
            event(reasoning_content="2"),
            event(content="4"),
            event("stop"),
            usage,
        ],
        [event(content="<thi"), event(content="nk>2+2</thi"), event("stop", content="nk>4"), usage],
    ]
    for stream in streams:
        server = serve(lambda _, __, stream=stream: (200, {}, [*stream, "[DONE]"]))
        heard = {"thinking": "", "answer": ""}

        def hear(_: str, piece, heard=heard) -> None:
            heard[piece.kind] += piece.text

        (reply,) = dialogue(server).answer([question()], on_text=hear)
        assert heard == {"thinking": "2+2", "answer": "4"}
        assert (reply.parsed.thinking, reply.parsed.answer) == ("2+2", "4")
        assert reply.prompt_tokens == 5
        assert server.bodies[0]["stream"] is True


def test_a_cancelled_question_is_yielded_as_cancelled(serve) -> None:
    def behave(_: dict, __: int) -> Answer:
        time.sleep(0.1)
        return said("fine")

    server = serve(behave)
    remote = dialogue(server, concurrency=1)
    reasons = {}
    for reply in remote.answer([question("a"), question("b"), question("c")]):
        remote.cancel("c")
        reasons[reply.id] = reply.finish_reason
    assert reasons["a"] is FinishReason.STOP
    assert reasons["c"] is FinishReason.CANCELLED


def test_closing_the_iterator_ends_the_asking(serve) -> None:
    server = serve(lambda _, __: (429, {"retry-after": "0.05"}, "") if _["seed"] else said("fine"))
    replies = dialogue(server, retries=100).answer([question("a"), question("b", seed=1)])
    next(replies)
    replies.close()
    time.sleep(0.2)
    asked = len(server.bodies)
    time.sleep(0.3)
    assert len(server.bodies) <= asked + 1


def test_any_spelling_of_the_url_finds_the_endpoint_and_its_only_model(serve) -> None:
    server = serve(lambda _, __: said("fine"))
    root = server.url.removesuffix("/v1")
    for url in (root, root + "/", root + "/v1", root + "/v1/", root + "/v1/chat/completions"):
        remote: Dialogue = open_dialogue(None, url)
        assert remote.name == "only"
        assert [reply.text for reply in remote.answer([question()])] == ["fine"]


def test_what_an_endpoint_cannot_do_is_refused(serve) -> None:
    server = serve(lambda _, __: said("fine"))
    with pytest.raises(ConfigError, match="thinking budget"):
        dialogue(server).answer([question(max_thinking_tokens=5)])
    with pytest.raises(ConfigError, match="same id"):
        dialogue(server).answer([question("a"), question("a")])
    with pytest.raises(ConfigError, match="not a URL"):
        open_dialogue("m", "localhost:8000")
    with pytest.raises(ConfigError, match="neither"):
        open_dialogue(None)
