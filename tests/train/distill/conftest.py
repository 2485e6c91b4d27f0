"""A teacher that is larger than the tiny model, surer than a random one, and padded beyond its tokens; and the smallest settings a run takes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from bethink.train.distill.config import DistillConfig

PADDING = 27


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are no faster on several threads, and much slower where these have to wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def teacher_dir(tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama, wider than the student, with large logits, an untied head and 27 rows more than there are tokens. Read only."""
    tokenizer = Tokenizer.from_file(str(tiny_tokenizer_dir / "tokenizer.json"))
    end_id = tokenizer.token_to_id("<|im_end|>")
    directory = tmp_path_factory.mktemp("teacher")
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + PADDING,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.token_to_id("<|im_start|>"),
        eos_token_id=end_id,
        pad_token_id=end_id,
        initializer_range=0.06,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            model.lm_head.weight.mul_(3)
        model.save_pretrained(directory)
    for file in tiny_tokenizer_dir.iterdir():
        shutil.copy(file, directory / file.name)
    return directory


@pytest.fixture
def make_distill(
    tiny_model_dir: Path, teacher_dir: Path, data_file: Path, tmp_path: Path
) -> Callable[..., DistillConfig]:
    """A factory for settings of a run of a few steps; keyword arguments replace any of them."""

    def make(**changes: Any) -> DistillConfig:
        settings: dict[str, Any] = {
            "model": str(tiny_model_dir),
            "teacher": str(teacher_dir),
            "data": data_file,
            "output": tmp_path / "run",
            "steps": 4,
            "batch_size": 8,
            "completion_tokens": 8,
            "rank": 4,
            "lr": 1e-3,
            "held_out": 0.0,
            "eval_every": 0,
            "dtype": "fp32",
            "device": "cpu",
            "tokens_per_microbatch": 256,
        }
        return DistillConfig(**{**settings, **changes})

    return make
