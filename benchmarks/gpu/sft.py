"""LoRA fine-tuning steps on a GPU: time, share of the device's peak and of its measured floor, beside TRL where that is installed.

    python benchmarks/gpu/sft.py [--shapes llama-8b qwen3-0.6b] [--lengths 2048 2048 2048 2048] [--steps 12] [--rounds 2]
    python benchmarks/gpu/sft.py --tiny --device cpu     does it run?

Models have real shapes and random weights, made on the device. Every step trains an adapter (rank 64, all linear layers) on one packed row
of samples, an eighth of each being its prompt; the first three steps are not counted. The step is the trainer's own: packing, loss,
backward pass, clipping, AdamW. MFU counts the operations that cannot be left out (models/cost.py), never those done twice to save
memory. The floor is what those take at the speed this device was measured to have.

TRL and PEFT run in turn with us (A B A B …), each in a process of its own, on the same token ids with the same weights and rank: as they come, and tuned
(no gradient checkpointing, or with it where that does not fit; plain loss). That both did the same work is checked by the first
step's loss. The result is written to benchmarks/results/gpu_sft.json, and the weekend recipe's hours at the measured rate are printed.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    PEAK_FLOPS,
    arguments,
    assumed,
    config_of,
    device_facts,
    keep,
    model_of,
    parse,
    synchronize,
    weekend_hours,
)

from bethink.chat.toggle import Mode
from bethink.models.checkpointing import enable
from bethink.models.cost import Shape, sft_step
from bethink.models.known_speed import speed_of
from bethink.models.lora import LoRAConfig, add_lora
from bethink.models.machine import best_dtype, free_memory
from bethink.models.recompute import Recompute, choose, kept_values
from bethink.train.loop import LoopConfig, train
from bethink.train.metrics import read_metrics
from bethink.train.sft.method import Schedule, SFTMethod
from bethink.train.token_store import Sample
from harness import in_turn, median_of

WARM_UP = 3
LEARNING_RATE = 1e-4
TOLERANCE = 0.02
VARIANTS = ("default", "tuned")


def main() -> None:
    parser = arguments(__doc__, ["llama-8b", "qwen3-0.6b"], "gpu_sft")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens of each sample of a step")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--recompute", choices=[*Recompute, "auto"], default="auto")
    parser.add_argument("--no-peer", action="store_true")
    options = parse(parser)
    options.lengths = options.lengths or ([24, 40] if options.tiny else [2048] * 4)
    if options.tiny:
        options.steps, options.rounds, options.rank = WARM_UP + 2, 1, 4
    speed = speed_of(options.device, best_dtype(options.device))
    result: dict[str, Any] = {
        "machine": device_facts(options.device),
        "work": {"lengths": options.lengths, "steps": options.steps, "rank": options.rank},
        "shapes": {},
    }
    for name in options.shapes:
        config = config_of(name, tiny=options.tiny, positions=max(options.lengths))
        samples = random_samples(options, config["vocab_size"])
        with tempfile.TemporaryDirectory() as scratch:
            work = (options, config, samples, Path(scratch))
            programs = {"bethink": partial(ours, *work)}
            if not options.no_peer and importlib.util.find_spec("trl") and importlib.util.find_spec("peft"):
                programs |= {f"TRL, {variant}": partial(peer, *work, variant) for variant in VARIANTS}
            runs = in_turn(programs, options.rounds)
        result["shapes"][name] = summary(options, config, runs, speed)
        report(name, result["shapes"][name])
    if "llama-8b" in options.shapes:
        rate = result["shapes"]["llama-8b"]["tokens_per_second"]["bethink"]
        mfu = 4 * assumed("parameters") * rate / (1e12 * assumed("tflops"))
        result["weekend"] = weekend_hours(mfu=min(mfu, 1.0))
        print(result["weekend"] + ("  (of a tiny model: no forecast)" if options.tiny else ""))
    keep("gpu_sft", options.output, result, tiny=options.tiny)
    sys.exit(not all(shape["same_work"] for shape in result["shapes"].values()))


def random_samples(options: Any, vocabulary: int) -> list[Sample]:
    """The samples of all steps, in order."""
    generator = np.random.default_rng(options.seed)
    samples = []
    for length in options.lengths * options.steps:
        ids = generator.integers(vocabulary, size=length, dtype=np.int32)
        samples.append(Sample(ids[: length // 8], ids[length // 8 :], Mode.ON))
    return samples


def ours(options: Any, config: dict[str, Any], samples: list[Sample], scratch: Path) -> dict[str, Any]:
    """The trainer's own loop on a model made for it."""
    device = options.device
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    model = model_of(config, device, options.seed)
    model.requires_grad_(False)
    add_lora(model, LoRAConfig(rank=options.rank, alpha=2 * options.rank), options.seed)
    level = Recompute(options.recompute) if options.recompute != "auto" else fitting(options, model)
    level = enable(model, level)
    batch, tokens = len(options.lengths), sum(options.lengths)
    schedule = Schedule.plan(len(samples), batch, options.steps, 1.0)
    method = SFTMethod(model, samples, [], schedule, capacity=tokens, device=torch.device(device))
    loop = LoopConfig(
        steps=options.steps, lr=LEARNING_RATE, warmup=0.0, min_lr_ratio=1.0, weight_decay=0.001, clip=1.0,
        seed=options.seed, eval_every=0, checkpoint_every=0, keep=1,
    )  # fmt: skip
    directory = Path(tempfile.mkdtemp(dir=scratch))
    train(model, method, loop, directory, resume_command="")
    synchronize(device)
    steps = read_metrics(directory / "metrics.jsonl")
    del model, method
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
    seconds = [step["seconds"] for step in steps[WARM_UP:]]
    return {
        "seconds": statistics.median(seconds),
        "slowest": max(seconds),
        "first_loss": steps[0]["loss"],
        "recompute": level,
        "peak_gb": steps[-1].get("peak_cuda_gb"),
    }


def fitting(options: Any, model: Any) -> Recompute:
    """The least that has to be recomputed for the step to fit into what is free now, by the estimate."""
    text, tokens = model.config, sum(options.lengths)
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    trained = 12 * sum(p.numel() for p in model.parameters() if p.requires_grad)

    def needed(level: Recompute) -> float:
        kept = kept_values(
            level,
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            feed_forward=text.intermediate_size,
            queries=text.num_attention_heads * size,
            keys=text.num_key_value_heads * size,
        )
        return trained + kept * tokens * model.dtype.itemsize

    device = options.device
    return choose(None, needed, free_memory() if device == "cpu" else torch.cuda.mem_get_info(device)[0])


def peer(
    options: Any, config: dict[str, Any], samples: list[Sample], scratch: Path, variant: str
) -> dict[str, Any]:
    """The same steps by TRL in a process of its own."""
    work = {
        "config": config,
        "rows": [[s.prompt_ids.tolist(), s.completion_ids.tolist()] for s in samples],
        "batch": len(options.lengths), "steps": options.steps, "rank": options.rank, "rate": LEARNING_RATE,
        "variant": variant, "device": options.device, "seed": options.seed, "warm_up": WARM_UP,
    }  # fmt: skip
    path = scratch / "work.json"
    path.write_text(json.dumps(work))
    command = [sys.executable, str(Path(__file__).with_name("sft_trl.py")), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"TRL, {variant}, failed:\n{done.stderr[-5000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(
    options: Any, config: dict[str, Any], runs: dict[str, list[dict[str, Any]]], speed: Any
) -> dict[str, Any]:
    """One shape's figures: medians over the rounds."""
    from transformers import AutoConfig

    tokens = sum(options.lengths)
    learned = sum(length - length // 8 for length in options.lengths)
    cost = sft_step(
        Shape.of(AutoConfig.for_model(**config)), options.lengths, learned, rank=options.rank,
        weight_bytes=best_dtype(options.device).itemsize,
    )  # fmt: skip
    seconds = {name: median_of(of, "seconds") for name, of in runs.items()}
    losses = [run["first_loss"] for of in runs.values() for run in of]
    floor = speed.floor(cost, tokens) if speed else None
    return {
        "tokens": tokens,
        "flops": cost.flops,
        "seconds_a_step": {name: round(value, 4) for name, value in seconds.items()},
        "tokens_per_second": {name: round(tokens / value, 1) for name, value in seconds.items()},
        "mfu": {name: round(cost.flops / value / PEAK_FLOPS, 6) for name, value in seconds.items()},
        "floor_seconds": floor,
        "floor_share": {name: floor / value for name, value in seconds.items()} if floor else None,
        "same_work": max(losses) - min(losses) <= TOLERANCE * max(losses),
        "runs": runs,
    }


def report(name: str, found: dict[str, Any]) -> None:
    print(f"{name}: {found['tokens']:,} tokens a step, {found['flops'] / 1e12:.4g} TFLOP")
    for program, seconds in found["seconds_a_step"].items():
        share = f", {100 * found['floor_share'][program]:.0f} % of the floor" if found["floor_share"] else ""
        last = found["runs"][program][-1]
        more = "".join(
            f", {label} {last[key]}"
            for key, label in (("peak_gb", "GB"), ("recompute", "recomputed:"))
            if last.get(key)
        )
        print(
            f"  {program:14} {seconds:8.4f} s  {found['tokens_per_second'][program]:10,.0f} tokens/s  "
            f"MFU {100 * found['mfu'][program]:5.1f} % of 990 TFLOP/s{share}{more}"
        )
    if not found["same_work"]:
        print("  NOT the same work: see first_loss of the runs")


if __name__ == "__main__":
    main()
