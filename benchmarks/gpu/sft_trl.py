"""The peer's side of sft.py: the same steps by TRL's SFTTrainer with PEFT, timed one by one.

Reads a JSON file with the work; prints one JSON line: seconds a step (median after the warm-up), the first step's loss, peak memory. Where
the tuned variant does not fit into the GPU's memory it is run again with gradient checkpointing.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_train_begin(self, *_: object, **__: object) -> None:
        self._mark()

    def on_step_end(self, *_: object, **__: object) -> None:
        self._mark()

    def _mark(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    checkpointing = work["variant"] == "default"
    try:
        found = run(work, checkpointing)
    except torch.OutOfMemoryError:
        if checkpointing:
            raise
        found = None
    if found is None:  # outside of the except block, whose traceback would keep the memory
        gc.collect()
        torch.cuda.empty_cache()
        found = run(work, True)
    print(json.dumps(found))


def run(work: dict[str, Any], checkpointing: bool) -> dict[str, Any]:
    device, tuned = work["device"], work["variant"] == "tuned"
    on_gpu = device != "cpu"
    clock = Clock(device)
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=work["steps"],
        per_device_train_batch_size=work["batch"],
        learning_rate=work["rate"],
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=not on_gpu,
        train_sampling_strategy="sequential",
        max_length=None,
        bf16=on_gpu,
        gradient_checkpointing=checkpointing,
        seed=work["seed"],
        disable_tqdm=True,
        **({"loss_type": "nll"} if tuned else {}),
    )
    torch.manual_seed(work["seed"])
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**work["config"]), dtype=torch.bfloat16 if on_gpu else torch.float32
        )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(
            [{"input_ids": p + c, "labels": [-100] * len(p) + c} for p, c in work["rows"]]
        ),
        processing_class=tokenizer(),
        peft_config=LoraConfig(
            r=work["rank"], lora_alpha=2 * work["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[clock],
    )
    trainer.train()
    seconds = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "seconds": statistics.median(seconds[work["warm_up"] :]),
        "first_loss": losses[0],
        "checkpointing": checkpointing,
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3) if on_gpu else None,
    }


def tokenizer() -> PreTrainedTokenizerFast:
    """The trainer wants one; the rows are token ids already."""
    words = Tokenizer(models.WordLevel({"[end]": 0}, unk_token="[end]"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="[end]", pad_token="[end]")


if __name__ == "__main__":
    main()
