"""A seed of its own for every test, shown when the test fails."""

from __future__ import annotations

import random

import pytest


@pytest.fixture(params=range(3))
def seed() -> int:
    number = random.SystemRandom().randrange(2**31)
    print(f"seed {number}")
    return number


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)
