"""Pairs that a tiny random model can learn to tell apart, and the smallest settings a run takes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bethink.train.prefer.config import PreferConfig
from bethink.train.prefer.run import run_prefer

Make = Callable[..., PreferConfig]


def digit_pairs(count: int, seed: int) -> list[dict[str, str]]:
    """Plain rows, on and off in turn: digits that hold sevens are chosen over digits that hold none, wherever they stand."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        rejected = [draw.choice("01234568") for _ in range(draw.randint(4, 9))]
        chosen = [draw.choice("01234568") for _ in range(draw.randint(4, 9))]
        for place in draw.sample(range(len(chosen)), 2):
            chosen[place] = "7"
        rows.append(
            {
                "prompt": f"What is {draw.randint(0, 99)} plus {number}?",
                "chosen": "".join(chosen),
                "rejected": "".join(rejected),
                "mode": "on" if number % 2 else "off",
            }
        )
    return rows


def write_pairs(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as a JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def trained(make_prefer: Make, tmp_path: Path, seed: int, **changes: object) -> PreferConfig:
    """The settings of a reward model that has learned the rule; its directory is their product."""
    data = write_pairs(tmp_path / "many.jsonl", digit_pairs(400, seed))
    settings = {"steps": 60, "batch_size": 16, "rank": 8, "lr": 1e-2, "seed": seed, "eval_every": 60}
    config = make_prefer(reward_model=True, data=data, **{**settings, **changes})
    run_prefer(config)
    return config


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small gains nothing by a second thread, and waits for it where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh_seed() -> int:
    """Another one at every run of the tests; shown where a test fails."""
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    return seed


@pytest.fixture
def pairs_file(tmp_path: Path, fresh_seed: int) -> Path:
    """160 pairs in one JSONL file."""
    return write_pairs(tmp_path / "pairs.jsonl", digit_pairs(160, fresh_seed))


@pytest.fixture
def make_prefer(tiny_model_dir: Path, pairs_file: Path, tmp_path: Path) -> Callable[..., PreferConfig]:
    """A factory for settings of a run of a few steps; keyword arguments replace any of them."""

    def make(**changes: Any) -> PreferConfig:
        settings: dict[str, Any] = {
            "model": str(tiny_model_dir),
            "data": pairs_file,
            "output": tmp_path / "prefer",
            "steps": 4,
            "batch_size": 8,
            "rank": 4,
            "lr": 1e-3,
            "held_out": 0.25,
            "dtype": "float32",
            "device": "cpu",
            "tokens_per_microbatch": 256,
        }
        return PreferConfig(**{**settings, **changes})

    return make
