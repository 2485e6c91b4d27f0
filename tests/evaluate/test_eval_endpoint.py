"""Evaluating what answers at an endpoint: a server that works the sums itself, in this process."""

import http.server
import json
import os
import re
import shutil
import threading

import pytest

from bethink.core.errors import EndpointError
from bethink.core.files import read_jsonl
from bethink.evaluate.config import EvalConfig
from bethink.evaluate.runner import run_eval
from bethink.tasks.arithmetic import evaluate


class Server:
    """Answers chain sums: after thinking when told to think, wrongly when told not to. `fail_after` requests it refuses the rest."""

    def __init__(self):
        self.seen = []
        self.fail_after = None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.seen.append((body, self.headers.get("Authorization")))
                refused = server.fail_after is not None and len(server.seen) > server.fail_after
                answer = {"error": {"message": "no more"}} if refused else server.answer(body)
                payload = json.dumps(answer).encode()
                self.send_response(402 if refused else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, body):
        sum_ = re.search(r"problem: (.*) =", body["messages"][-1]["content"])[1]
        on = body["messages"][0]["content"] == "detailed thinking on"
        value = evaluate(sum_) + (0 if on else 1)
        message = {"role": "assistant", "content": f"The final answer is \\boxed{{{value}}}."}
        if on:
            message["reasoning_content"] = f"{sum_} is {value}"
        details = {"reasoning_tokens": 7} if on else {}
        usage = {"prompt_tokens": 20, "completion_tokens": 12, "completion_tokens_details": details}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def config(server, output, **more):
    options = {
        "endpoint": server.url,
        "endpoint_model": "summer",
        "output": output,
        "tasks": ["chain_sum:min_terms=3,max_terms=4"],
        "size": 10,
        "max_tokens": 64,
        "workers": 1,
        "concurrency": 2,
    }
    return EvalConfig(**{**options, **more})


def test_an_endpoint_is_evaluated_with_thinking_on_and_off(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SUMMER_KEY", "abc")
    result = run_eval(config(server, tmp_path / "out", api_key_env="SUMMER_KEY"))
    on, off = result.rows
    assert (on["model"], on["accuracy"], on["compliance"], on["thinking_tokens"], on["answer_tokens"]) == (
        "summer",
        1.0,
        1.0,
        7,
        5,
    )
    assert (off["accuracy"], off["compliance"], off["thinking_tokens"], off["answer_tokens"]) == (
        0.0,
        1.0,
        0,
        12,
    )
    assert {authorization for _, authorization in server.seen} == {"Bearer abc"}
    assert on["tokens_per_second"] > 0
    assert on["floor_share"] is None, "what is behind an endpoint is not known"
    temperatures = {(b["messages"][0]["content"], b["temperature"], b.get("top_p")) for b, _ in server.seen}
    assert temperatures == {("detailed thinking on", 0.6, 0.95), ("detailed thinking off", 0.0, None)}
    for row in read_jsonl(result.samples):
        assert row["prompt"][0] == {"role": "system", "content": f"detailed thinking {row['mode']}"}


def test_what_was_answered_before_an_endpoint_failed_is_not_asked_again(server, tmp_path):
    server.fail_after = 7
    with pytest.raises(EndpointError):
        run_eval(config(server, tmp_path / "out"))
    kept = list(read_jsonl(tmp_path / "out" / "samples.jsonl"))
    assert 5 <= len(kept) <= 7
    server.fail_after, server.seen = None, []
    result = run_eval(config(server, tmp_path / "out", resume=True))
    assert len(server.seen) == 20 - len(kept)
    whole = run_eval(config(server, tmp_path / "whole"))
    assert result.samples.read_bytes() == whole.samples.read_bytes()


def test_where_nobody_answered_the_output_is_free_for_another_try(server, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(EndpointError, match="cannot be reached"):
        run_eval(config(server, output, endpoint="http://127.0.0.1:9", size=2))
    server.fail_after = 0
    with pytest.raises(EndpointError, match="HTTP 402"):
        run_eval(config(server, output, size=2))
    with pytest.raises(EndpointError, match="HTTP 402"):
        run_eval(config(server, output, size=3, resume=True))
    server.fail_after = None
    assert [row["n"] for row in run_eval(config(server, output, size=4)).rows] == [4, 4]


def test_a_thinking_budget_is_refused_before_an_endpoint_is_asked(server, tmp_path):
    with pytest.raises(ValueError, match="an endpoint offers no thinking budget"):
        config(server, tmp_path / "out", max_thinking_tokens=8)
    assert server.seen == []


def test_other_tags_and_another_toggle_need_no_code(server, tmp_path):
    tags = {"think_open": "[reason]", "think_close": "[/reason]", "toggle": "slash"}
    result = run_eval(config(server, tmp_path / "out", modes=["off"], size=3, **tags))
    for row in read_jsonl(result.samples):
        assert row["prompt"][-1]["content"].endswith("/no_think")
        assert row["compliant"]
    system = {**tags, "toggle": "system"}
    result = run_eval(config(server, tmp_path / "on", modes=["on"], size=3, **system))
    for row in read_jsonl(result.samples):
        assert row["output"].startswith("[reason]\n")
        assert row["verdict"] == "correct"
        assert row["compliant"]


class Programmer(Server):
    """Answers every question with a program that computes for most of a second."""

    def answer(self, body):
        code = "import time\ndef f(x):\n    while time.process_time() < 0.7: pass\n    return x"
        message = {"role": "assistant", "content": f"```python\n{code}\n```"}
        usage = {"prompt_tokens": 20, "completion_tokens": 12}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


def test_programs_have_the_time_that_is_asked_for(tmp_path):
    if shutil.which("bwrap") is None:
        if os.environ.get("BETHINK_REQUIRE_SANDBOX"):
            pytest.fail("the sandbox is required here: there is no bubblewrap")
        pytest.skip("there is no bubblewrap")
    file = tmp_path / "programs.jsonl"
    file.write_text(json.dumps({"text": "The same.", "test_list": ["assert f(1) == 1"]}) + "\n")
    asked = {"tasks": [f"{file}:mbpp"], "size": None, "modes": "off"}
    programmer = Programmer()
    try:
        for seconds, detail in ((0.3, "timeout: more than 0.3 s of processor time"), (5, "1 of 1 calls")):
            output = tmp_path / f"out-{seconds}"
            run_eval(config(programmer, output, code_seconds=seconds, **asked))
            assert [row["detail"] for row in read_jsonl(output / "samples.jsonl")] == [detail]
    finally:
        programmer.close()
