"""Sandboxes for the tests of code grading.

Without bubblewrap these tests are skipped; where BETHINK_REQUIRE_SANDBOX is set, as in CI, that is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bethink.core.errors import PreflightError
from bethink.verify.code.pool import Sandboxes
from bethink.verify.code.sandbox import Limits

SECRET = "BETHINK_TEST_SECRET"
LIMITS = Limits(seconds=3, wall_seconds=6, memory=256 * 2**20, scratch=16 * 2**20)
SHORT = Limits(seconds=1, wall_seconds=1.2, memory=256 * 2**20)
BRIEF = Limits(seconds=0.5, wall_seconds=20, together=3, memory=256 * 2**20)


def open_sandboxes(limits: Limits, workers: int = 2) -> Sandboxes:
    try:
        return Sandboxes(workers, limits=limits)
    except PreflightError as error:
        if os.environ.get("BETHINK_REQUIRE_SANDBOX"):
            pytest.fail(f"the sandbox is required here: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def sandboxes() -> Iterator[Sandboxes]:
    os.environ[SECRET] = "do not tell"
    with open_sandboxes(LIMITS) as opened:
        yield opened
    del os.environ[SECRET]


@pytest.fixture(scope="session")
def short_sandboxes() -> Iterator[Sandboxes]:
    """For programs that do not end."""
    with open_sandboxes(SHORT) as opened:
        yield opened


@pytest.fixture(scope="session")
def brief_sandboxes() -> Iterator[Sandboxes]:
    """Half a second of processor time a case, one and a half for all; the clock ends only what nothing else does."""
    with open_sandboxes(BRIEF) as opened:
        yield opened
