"""Whether long completions slow down by more than attention has to: milliseconds a token, window by window, on this machine's CPU.

    python benchmarks/long.py [--rows 1 4] [--tokens 6000] [--window 500] [--model smollm2-135m]

The native engine completes --rows different prompts at once, --tokens each, ends of turn ignored, and is timed over each --window of
tokens: moving the cache when it must grow is part of it. Attention of one step is timed alone at the same lengths, over as many layers,
slots and heads, in the model's number format. What a window should take is the first window's time and what attention has grown by
since; the share beyond that is the engine's own slowing down, which should be nothing.
The result is written to benchmarks/results/long.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import torch

from bethink.engine.api import Request, SamplingParams
from bethink.engine.dialogue import LocalDialogue, open_dialogue
from bethink.engine.kv_cache import DecodeView, SlotCache
from bethink.models.locate import locate
from harness import machine, parser_for, write

GOAL = 0.1
"""Most of a window's time that neither the first window nor attention explains."""


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--window", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    directory = locate(options.model).directory
    result: dict[str, Any] = {"machine": machine("bethink", "torch"), "model": options.model, "rows": {}}
    for rows in options.rows:
        found = measured(directory, rows, options)
        result["rows"][str(rows)] = found
        print(
            f"\n{rows} at once{'at token':>12} {'ms a token':>11} {'attention alone':>16} {'unexplained':>12}"
        )
        for window in found["windows"]:
            print(
                f"{window['at']:>18,} {window['ms']:>11.2f} {window['attention_ms']:>16.2f} {100 * window['unexplained']:>10.1f} %"
            )
    worst = max(window["unexplained"] for found in result["rows"].values() for window in found["windows"])
    result["worst_unexplained"] = round(worst, 3)
    result["goal_met"] = worst <= GOAL
    write("long", result)
    sys.exit(not result["goal_met"])


def measured(directory: Path, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    dialogue = open_dialogue(str(directory), slots=rows)
    assert isinstance(dialogue, LocalDialogue)
    config = dialogue.engine._runner.model.config
    random = Random(options.seed)
    requests = [
        Request(
            str(row),
            tuple(random.choices(range(100, 5000), k=16)),
            SamplingParams(options.tokens, 1.0, seed=row),
        )
        for row in range(rows)
    ]
    times: list[float] = []

    def on_token(request: str, _: int) -> None:
        if request == "0":
            times.append(time.perf_counter())

    list(dialogue.engine.generate(requests, on_token=on_token))
    windows: list[dict[str, Any]] = []
    for start in range(0, len(times) - options.window, options.window):
        spent = (times[start + options.window] - times[start]) / options.window
        middle = start + options.window // 2
        windows.append(
            {"at": middle, "ms": 1e3 * spent, "attention_ms": 1e3 * attention(config, rows, middle)}
        )
    first = windows[0]
    for window in windows:
        expected = first["ms"] + window["attention_ms"] - first["attention_ms"]
        window["unexplained"] = window["ms"] / expected - 1
    return {"tokens": len(times), "windows": windows}


@torch.inference_mode()
def attention(config: Any, rows: int, length: int) -> float:
    """Seconds that attention of one step takes in all layers, `length` tokens being cached."""
    size = config.hidden_size // config.num_attention_heads
    cache = SlotCache()
    cache.resize(max(rows, 4), length + 64)
    kinds = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    new = [torch.randn(rows, heads, 1, size, dtype=config.dtype) for heads in kinds]
    position_B = torch.full((rows,), length)
    times = []
    for _ in range(7):
        view = DecodeView(cache, position_B)
        started = time.perf_counter()
        for layer in range(config.num_hidden_layers):
            view.attend(layer, *new, size**-0.5, None)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
