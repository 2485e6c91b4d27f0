"""Problems, a reward that a random model can win at, and the smallest settings a run takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bethink.train.rl.config import GRPOConfig
from bethink.verify.rewards.attempt import Attempt


def digits(attempt: Attempt) -> float:
    """The share of a completion's characters that are digits: what a random model can learn to write within a few steps."""
    return sum(character.isdigit() for character in attempt.text) / max(len(attempt.text), 1)


@pytest.fixture
def sums_file(tmp_path: Path) -> Path:
    """Twenty sums in a JSONL file of questions and answers."""
    path = tmp_path / "sums.jsonl"
    rows = [{"question": f"What is {n} plus {n + 2}?", "answer": str(2 * n + 2)} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def make_grpo(tiny_model_dir: Path, sums_file: Path, tmp_path: Path) -> Callable[..., GRPOConfig]:
    """A factory for settings of a run of a few steps; keyword arguments replace any of them."""

    def make(**changes: Any) -> GRPOConfig:
        settings: dict[str, Any] = {
            "model": str(tiny_model_dir),
            "tasks": f"{sums_file}:question=question,answer=answer,grader=exact",
            "output": tmp_path / "grpo",
            "steps": 3,
            "problems_per_step": 4,
            "group_size": 4,
            "max_tokens": 8,
            "rewards": "train.rl.conftest:digits=1",
            "rank": 4,
            "lr": 1e-3,
            "dtype": "float32",
            "device": "cpu",
            "tokens_per_microbatch": 256,
            "allow_truncated": 1.0,
            "allow_no_signal": 1.0,
        }
        return GRPOConfig(**{**settings, **changes})

    return make
