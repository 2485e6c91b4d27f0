"""Problems, a reward that a random model can win at, a model that solves some problems, and the smallest settings a run takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode
from bethink.chat.tokenizer import ChatTokenizer
from bethink.models.load import load_model
from bethink.models.locate import locate
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


@pytest.fixture(scope="session")
def guessing_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after it learned to answer any question with 7 or 8, about as often. Read only."""
    renderer = Renderer(ChatTokenizer.load(tiny_model_dir))
    model = load_model(locate(str(tiny_model_dir)), dtype=torch.float32, device="cpu")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rows = [
        renderer.render([{"role": "user", "content": f"What is {n}?"}], answer, mode)
        for n in range(2)
        for mode in Mode
        for answer in ("7", "8")
    ]
    for _ in range(40):
        for row in rows:
            ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
            labels = ids.clone()
            labels[:, : len(row.prompt_ids)] = -100
            model(input_ids=ids, labels=labels, segments=(ids.shape[1],), use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    directory = tmp_path_factory.mktemp("guessing")
    shutil.copytree(tiny_model_dir, directory, dirs_exist_ok=True)
    model.save_pretrained(directory)
    return directory


@pytest.fixture
def answers_file(tmp_path: Path) -> Callable[[str, int], str]:
    """A factory of tasks that the guessing model may solve: so many questions that all have the same answer."""

    def write(answer: str, count: int) -> str:
        path = tmp_path / f"all-{answer}.jsonl"
        rows = [{"question": f"What is number {n} of {answer}?", "answer": answer} for n in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return f"{path}:question=question,answer=answer,grader=exact"

    return write


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
