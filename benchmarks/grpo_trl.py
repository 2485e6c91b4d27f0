"""The peer's side of grpo.py, run in its own environment: TRL's GRPOTrainer with PEFT and transformers' generation, timed step by step.

    python grpo_trl.py WORK.json VARIANT

WORK.json: model (directory), prompts (text, in the order they come), answers, problems (a step), group, tokens, steps, rank, alpha, lr, seed.
Prints one JSON line: seconds, mean reward and completion tokens of every step.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"model_init_kwargs": {"dtype": torch.float32}, "bf16": False},
    "bfloat16": {"model_init_kwargs": {"dtype": torch.bfloat16}, "bf16": True},
}
_BOXED = re.compile(r"\\boxed\{(-?\d+)\}")


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(time.perf_counter())


def accuracy(completions: list[str], answer: list[str], **_: object) -> list[float]:
    """1 where the last boxed number is the answer."""
    found = [_BOXED.findall(completion) for completion in completions]
    return [float(bool(boxed) and boxed[-1] == gold) for boxed, gold in zip(found, answer, strict=True)]


def main() -> None:
    work, variant = json.loads(Path(sys.argv[1]).read_text()), VARIANTS[sys.argv[2]]
    clock = Clock()
    size = work["problems"] * work["group"]
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=work["steps"],
        per_device_train_batch_size=work["microbatch"],
        gradient_accumulation_steps=size // work["microbatch"],
        num_generations=work["group"],
        max_completion_length=work["tokens"],
        temperature=1.0,
        learning_rate=work["lr"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        beta=0.0,
        loss_type="dapo",
        epsilon_high=0.28,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        seed=work["seed"],
        **variant,
    )
    trainer = GRPOTrainer(
        model=work["model"],
        args=config,
        reward_funcs=accuracy,
        train_dataset=Dataset.from_list(
            [
                {"prompt": prompt, "answer": answer}
                for prompt, answer in zip(work["prompts"], work["answers"], strict=True)
            ]
        ),
        processing_class=AutoTokenizer.from_pretrained(work["model"]),
        peft_config=LoraConfig(
            r=work["rank"], lora_alpha=work["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[clock],
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    seconds = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    print(
        "\n"
        + json.dumps(
            {
                "seconds": seconds,
                "rewards": [entry["reward"] for entry in logged],
                "tokens": [entry["completions/mean_length"] * size for entry in logged],
            }
        )
    )


if __name__ == "__main__":
    main()
