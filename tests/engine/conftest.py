"""Tiny random models, and prompts that differ in every run."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.tiny import VOCABULARY, tiny


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(random.SystemRandom().randrange(2**31))
    return tiny()


@pytest.fixture
def prompts() -> Callable[[int], list[tuple[int, ...]]]:
    """Makes so many distinct random prompts of 1 to 60 tokens."""
    seed = random.SystemRandom().randrange(2**31)
    print(f"prompts of seed {seed}")  # pytest shows it when the test fails
    source = random.Random(seed)

    def make(count: int) -> list[tuple[int, ...]]:
        made: set[tuple[int, ...]] = set()
        while len(made) < count:
            made.add(tuple(source.randrange(VOCABULARY) for _ in range(source.randint(1, 60))))
        return sorted(made, key=lambda prompt: source.random())

    return make
