"""The peer's side of sft.py, run in its own environment: a few steps of TRL's SFTTrainer with PEFT, timed one by one.

Prints one JSON line: seconds, useful tokens and loss of every step.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

DEFAULT: dict[str, Any] = {"per_device_train_batch_size": 8}
TUNED: dict[str, Any] = {
    # Of 2, 4, 8 and 16 rows at once four were fastest, of widths in steps of 1, 32 and 64 the last: few shapes, each of which costs
    # a new kernel, against little padding. Packing and `padding_free` need FlashAttention, which no CPU has.
    "per_device_train_batch_size": 4,
    "pad_to_multiple_of": 64,
    "gradient_checkpointing": False,
    "loss_type": "nll",
    "bf16": True,
    "model_init_kwargs": {"dtype": torch.bfloat16},
}
VARIANTS = {"default": DEFAULT, "tuned": TUNED}


class Clock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(time.perf_counter())


def main() -> None:
    model, data, variant, steps, batch, rank, alpha, rate = sys.argv[1:]
    rows = [json.loads(line) for line in Path(data).read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(model)
    clock, chosen = Clock(), VARIANTS[variant]
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=int(steps),
        gradient_accumulation_steps=int(batch) // chosen["per_device_train_batch_size"],
        learning_rate=float(rate),
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        train_sampling_strategy="sequential",
        max_length=None,
        completion_only_loss=True,
        **chosen,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(
            [{"prompt": row["input"], "completion": row["output"]} for row in rows]
        ),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=int(rank), lora_alpha=int(alpha), target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[clock],
    )
    trainer.train()
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    size = int(batch)
    seconds = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = [sum(lengths[start * size : (start + 1) * size]) for start in range(len(seconds))]
    print(json.dumps({"seconds": seconds, "tokens": tokens, "losses": losses}))


if __name__ == "__main__":
    main()
