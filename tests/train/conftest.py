"""Rows in curate's format for the tiny model, and the smallest settings a run takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bethink.chat.parse import compose
from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode
from bethink.chat.tokenizer import ChatTokenizer
from bethink.train.sft.config import SFTConfig


def sum_rows(directory: Path, count: int) -> list[dict[str, str]]:
    """Rows about sums, on and off in turn, templated for the tokenizer in `directory`."""
    renderer = Renderer(ChatTokenizer.load(directory))
    rows = []
    for index in range(count):
        a, b = index % 10, (index * 7) % 13
        mode = Mode.ON if index % 2 == 0 else Mode.OFF
        answer = f"The final answer is \\boxed{{{a + b}}}."
        output = compose(f"{a} plus {b} is {a + b}", answer) if mode is Mode.ON else answer
        prompt, completion = renderer.texts(
            [{"role": "user", "content": f"What is {a} plus {b}?"}], output, mode
        )
        rows.append({"input": prompt, "output": completion, "mode": mode.value})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as a JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data_file(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """64 rows in one JSONL file."""
    return write_rows(tmp_path / "rows.jsonl", sum_rows(tiny_model_dir, 64))


@pytest.fixture
def make_config(tiny_model_dir: Path, data_file: Path, tmp_path: Path) -> Callable[..., SFTConfig]:
    """A factory for settings of a run of a few steps; keyword arguments replace any of them."""

    def make(**changes: Any) -> SFTConfig:
        settings: dict[str, Any] = {
            "model": str(tiny_model_dir),
            "data": data_file,
            "output": tmp_path / "run",
            "steps": 4,
            "batch_size": 8,
            "rank": 4,
            "lr": 1e-3,
            "held_out": 0.0,
            "eval_every": 0,
            "dtype": "fp32",
            "tokens_per_microbatch": 256,
        }
        return SFTConfig(**{**settings, **changes})

    return make
