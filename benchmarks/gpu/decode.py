"""Decoding on a GPU: how near a step comes to reading weights and cache once, with and without CUDA graphs, and what the engine gives.

    python benchmarks/gpu/decode.py [--shapes smollm2-135m qwen3-0.6b llama-8b] [--tokens 64]
    python benchmarks/gpu/decode.py --tiny --device cpu     does it run?

Models have real shapes and random weights, made on the device. For 256 rows with short prompts and 64 rows with long ones:

- a step is timed plain and recorded, in turn; its floor is the bytes of weights and cache over the bandwidth measured here, or the
  operations over the speed measured here if those take longer; the data sheet's 3.35 TB/s is shown beside it;
- the engine samples completions end to end at temperature 1, prompts included.

The result is written to benchmarks/results/gpu_decode.json, and the weekend recipe's hours at the measured rate are printed.
"""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from common import (
    PEAK_BYTES,
    arguments,
    config_of,
    device_facts,
    keep,
    model_of,
    parse,
    synchronize,
    weekend_hours,
)

from bethink.engine.api import Request, SamplingParams
from bethink.engine.cuda_graphs import Capture, CudaCapture
from bethink.engine.kv_cache import STEP, round_up
from bethink.engine.native import NativeEngine
from bethink.engine.runner import Job, Runner
from bethink.models.cost import Shape, decode_step
from bethink.models.known_speed import speed_of
from bethink.models.machine import best_dtype
from harness import in_turn, median_of

WARM_UP = 4


@dataclass(frozen=True)
class Case:
    """rows decoded together, tokens of each prompt."""

    rows: int
    prompt: int

    @property
    def name(self) -> str:
        return f"{self.rows} rows after {self.prompt:,} tokens"


CASES = (Case(256, 128), Case(64, 1280))
"""The second is what the weekend recipe's evaluations look like half way through a completion."""
TINY = (Case(8, 12), Case(4, 70))


def main() -> None:
    parser = arguments(__doc__, ["smollm2-135m", "qwen3-0.6b", "llama-8b"], "gpu_decode")
    parser.add_argument("--tokens", type=int, default=64, help="tokens decoded for each row")
    parser.add_argument("--rounds", type=int, default=3)
    options = parse(parser)
    cases = TINY if options.tiny else CASES
    if options.tiny:
        options.tokens, options.rounds = 12, 1
    speed = speed_of(options.device, best_dtype(options.device))
    result: dict[str, Any] = {
        "machine": device_facts(options.device),
        "work": {"tokens": options.tokens, "cases": [asdict(case) for case in cases]},
        "shapes": {},
    }
    for name in options.shapes:
        positions = max(case.prompt for case in cases) + 2 * options.tokens
        model = model_of(
            config_of(name, tiny=options.tiny, positions=positions), options.device, options.seed
        )
        found = {case.name: measured(options, model, case, speed) for case in cases}
        result["shapes"][name] = found
        report(name, found)
        del model
        gc.collect()
        if options.device != "cpu":
            torch.cuda.empty_cache()
    if "llama-8b" in options.shapes:
        rate = result["shapes"]["llama-8b"][cases[1].name]["engine_tokens_per_second"]
        result["weekend"] = weekend_hours(sampled_tokens_per_second=rate)
        print(result["weekend"] + ("  (of a tiny model: no forecast)" if options.tiny else ""))
    keep("gpu_decode", options.output, result, tiny=options.tiny)


def recorded(device: str) -> Capture:
    """What the engine records steps with; on a CPU something that does them again."""
    return CudaCapture(torch.device(device)) if device != "cpu" else lambda work: work


def refuse() -> Capture:
    raise RuntimeError("switched off to compare")


def measured(options: Any, model: Any, case: Case, speed: Any) -> dict[str, Any]:
    """One shape's figures for one case."""
    generator = np.random.default_rng(options.seed)
    prompts = [
        tuple(generator.integers(model.config.vocab_size, size=case.prompt).tolist())
        for _ in range(case.rows)
    ]
    recording = Runner(model, new_capture=lambda: recorded(options.device))
    plain = Runner(model, new_capture=refuse)
    runs = in_turn(
        {
            "plain": lambda: {"seconds": steps(options, plain, case, prompts)},
            "recorded": lambda: {"seconds": steps(options, recording, case, prompts)},
        },
        options.rounds,
    )
    seconds = {name: median_of(of, "seconds") for name, of in runs.items()}
    mean_cached = case.prompt + options.tokens / 2
    cost = decode_step(
        Shape.of(model.config), case.rows, mean_cached, weight_bytes=best_dtype(options.device).itemsize
    )
    floor = speed.floor(cost, case.rows) if speed else None
    rate, engine_share = engine_rate(options, model, case, prompts)
    return {
        "seconds_a_step": seconds,
        "recorded": recording._graphs.recordings > 0,
        "bytes": cost.bytes,
        "floor_seconds": floor,
        "floor_share": {name: floor / value for name, value in seconds.items()} if floor else None,
        "bandwidth_share": {name: cost.bytes / PEAK_BYTES / value for name, value in seconds.items()},
        "engine_tokens_per_second": rate,
        "engine_floor_share": engine_share,
        "runs": runs,
    }


@torch.no_grad()
def steps(options: Any, runner: Runner, case: Case, prompts: list[tuple[int, ...]]) -> float:
    """Seconds of a decoding step, the likeliest token being drawn; the cache has the size the last step needs."""
    runner.cache.clear()
    runner.cache.resize(case.rows, round_up(case.prompt + WARM_UP + options.tokens + 1, STEP))
    logits_BV = runner.prefill([Job(prompt, slot) for slot, prompt in enumerate(prompts)])
    position_B = torch.full((case.rows,), case.prompt, device=options.device)
    times = []
    for _ in range(WARM_UP + options.tokens):
        token_B = logits_BV.argmax(-1)
        synchronize(options.device)
        started = time.perf_counter()
        logits_BV = runner.decode(token_B, position_B)
        synchronize(options.device)
        times.append(time.perf_counter() - started)
        position_B = position_B + 1
    return statistics.median(times[WARM_UP:])


def engine_rate(
    options: Any, model: Any, case: Case, prompts: list[tuple[int, ...]]
) -> tuple[float, float | None]:
    """Completion tokens a second from the first prompt to the last token, and the share of the floor; after a run to warm up."""
    requests = [
        Request(str(n), prompt, SamplingParams(options.tokens, temperature=1.0, seed=n))
        for n, prompt in enumerate(prompts)
    ]
    for _ in range(2):
        engine = NativeEngine(model, slots=case.rows)
        synchronize(options.device)
        started = time.perf_counter()
        drawn = sum(len(completion.token_ids) for completion in engine.generate(requests))
        seconds = time.perf_counter() - started
    least = engine.floor_seconds()
    return drawn / seconds, least / seconds if least else None


def report(name: str, found: dict[str, Any]) -> None:
    print(name)
    for case, one in found.items():
        plain, recorded_ = one["seconds_a_step"]["plain"], one["seconds_a_step"]["recorded"]
        share = f"{100 * one['floor_share']['recorded']:.0f} % of the floor, " if one["floor_share"] else ""
        print(
            f"  {case:26} step {1e3 * plain:8.2f} ms, recorded {1e3 * recorded_:8.2f} ms: {share}"
            f"{100 * one['bandwidth_share']['recorded']:.1f} % of 3.35 TB/s; "
            f"engine {one['engine_tokens_per_second']:,.0f} tokens/s"
        )
        if not one["recorded"]:
            print("    NOT recorded: see the note above")


if __name__ == "__main__":
    main()
