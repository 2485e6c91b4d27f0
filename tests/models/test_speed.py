"""What is measured is sensible, and nothing is faster than its floor."""

from __future__ import annotations

import time

import pytest
import torch

from bethink.models.cost import Cost, Shape
from bethink.models.speed import ROWS, Speed, floors, measure
from engine.tiny import tiny


def test_no_forward_pass_is_faster_than_its_floor() -> None:
    speed = measure("cpu", torch.float32, seconds=0.05)
    assert set(speed.products) == set(ROWS)
    assert speed.products[1] < speed.products[256], "many rows keep the units busy"
    model = tiny(hidden_size=256, intermediate_size=1024)
    least = floors(Shape.of(model.config), speed)
    tokens = torch.randint(300, (8, 128))
    times = []
    with torch.inference_mode():
        for _ in range(4):
            started = time.perf_counter()
            model(tokens, use_cache=False, logits_to_keep=1)
            times.append(time.perf_counter() - started)
    assert 1024 / min(times) < least["prefill"]
    assert least["full step"] < least["LoRA step, rank 32"] < least["prefill"]
    assert least["decoding 1 row"] < least["decoding 16 rows"] < least["decoding 64 rows"]


def test_a_floor_takes_the_rate_of_its_rows() -> None:
    speed = Speed("cpu", "float32", 1, {1: 10.0, 64: 100.0, 256: 400.0}, bandwidth=1.0)
    assert speed.floor(Cost(1000, 0), 64) == 10
    assert speed.floor(Cost(1000, 0), 1024) == 2.5
    # Between measured numbers: as fast as the larger, but in no less time than the smaller takes.
    assert speed.rate(2) == 20
    assert speed.rate(32) == 100
    assert speed.rate(80) == 125
    assert speed.rate(255) == pytest.approx(100 * 255 / 64)
    assert speed.floor(Cost(1000, 500), 1024) == 500
