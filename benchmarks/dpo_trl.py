"""The peer's side of dpo.py, run in its own environment: TRL's DPOTrainer with PEFT.

    python dpo_trl.py MODEL PAIRS VARIANT STEPS BATCH RANK ALPHA RATE

Prints one JSON line: tokens of the pairs that a run of so many steps takes, and loss and accuracy of every step.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

DEFAULT: dict[str, Any] = {"per_device_train_batch_size": 8}
TUNED: dict[str, Any] = {
    # What makes its fine-tuning fastest here (sft_trl.py); `padding_free` is switched off in this version. The reference beforehand, as
    # below, is the other way its documentation offers.
    "per_device_train_batch_size": 4,
    "pad_to_multiple_of": 64,
    "gradient_checkpointing": False,
    "bf16": True,
    "model_init_kwargs": {"dtype": torch.bfloat16},
}
BEFOREHAND: dict[str, Any] = {**TUNED, "precompute_ref_log_probs": True, "precompute_ref_batch_size": 8}
VARIANTS = {"default": DEFAULT, "tuned": TUNED, "beforehand": BEFOREHAND}


def main() -> None:
    model, data, variant, steps, batch, rank, alpha, rate = sys.argv[1:]
    lines = Path(data).read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines[: int(steps) * int(batch)]]
    chosen = VARIANTS[variant]
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=tempfile.mkdtemp(),
            max_steps=int(steps),
            gradient_accumulation_steps=int(batch) // chosen["per_device_train_batch_size"],
            learning_rate=float(rate),
            lr_scheduler_type="constant",
            weight_decay=0.0,
            beta=0.1,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            train_sampling_strategy="sequential",
            max_length=None,
            **chosen,
        ),
        train_dataset=Dataset.from_list(
            [
                {"prompt": pair["input"], "chosen": pair["chosen"], "rejected": pair["rejected"]}
                for pair in pairs
            ]
        ),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(
            r=int(rank), lora_alpha=int(alpha), target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    tokens = sum(len(row[name]) for row in trainer.train_dataset for name in names)
    found = {"tokens": tokens, "losses": [entry["loss"] for entry in logged]}
    print("\n" + json.dumps(found | {"accuracies": [entry["rewards/accuracies"] for entry in logged]}))


if __name__ == "__main__":
    main()
