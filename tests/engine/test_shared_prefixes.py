"""Prompts that begin alike take over what they share, and every completion stays what it is alone."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
import torch

from bethink.engine.api import Request, SamplingParams
from bethink.engine.native import NativeEngine
from bethink.engine.runner import Job
from bethink.engine.scheduler import LEAST_SHARED
from bethink.models.fused import build
from bethink.models.fused.layers import fuse_
from engine.tiny import run, tiny, tokens_of

pytestmark = pytest.mark.skipif(build.library() is None, reason=str(build.why_not()))


class Counted:
    """The prompt tokens an engine computes."""

    def __init__(self, engine: NativeEngine) -> None:
        self.tokens, self.jobs = 0, []
        self._prefill = engine._runner.prefill
        engine._runner.prefill = self.prefill  # type: ignore[method-assign]

    def prefill(self, jobs: list[Job]) -> torch.Tensor:
        self.jobs += jobs
        self.tokens += sum(len(job.prompt_ids) - job.start for job in jobs)
        return self._prefill(jobs)


def requests(count: int, beginnings: list[tuple[int, ...]], rng: Any) -> list[Request]:
    """Random questions behind some of the beginnings; some twice."""
    made = []
    for number in range(count):
        question = tuple(int(rng.randrange(1, 290)) for _ in range(rng.randrange(1, 30)))
        prompt = made[-1].prompt_ids if number % 7 == 6 else rng.choice(beginnings) + question
        sampling = SamplingParams(max_tokens=rng.randrange(1, 12), temperature=1.0, seed=number)
        made.append(Request(str(number), prompt, sampling))
    return made


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_completions_are_the_same_bit_for_bit(kind: str) -> None:
    import random

    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    model = tiny(kind, head_dim=32, **({"sliding_window": 16} if kind == "mistral" else {}))
    assert fuse_(model)
    first = tuple(rng.randrange(1, 290) for _ in range(40))
    asked = requests(40, [first, first[:20], first[:3], first[:25] + (1,) * 20], rng)
    alone = {}
    for request in asked:
        alone |= run(NativeEngine(model, slots=8), [request])
    for slots in (3, 8, 40):
        engine = NativeEngine(model, slots=slots)
        counted = Counted(engine)
        rng.shuffle(asked)
        assert tokens_of(run(engine, asked)) == tokens_of(alone)
        whole = sum(len(prompt) for prompt in {request.prompt_ids for request in asked})
        assert counted.tokens < 0.85 * whole
        assert all(
            job.start == 0 or job.start >= LEAST_SHARED or job.start == len(job.prompt_ids) - 1
            for job in counted.jobs
        )


def test_what_is_shared_is_computed_once() -> None:
    model = tiny("llama", head_dim=32)
    engine = NativeEngine(model, slots=8)
    counted = Counted(engine)
    system = tuple(range(1, 51))
    run(engine, [Request(str(n), (*system, 100 + n, 7), SamplingParams(max_tokens=3)) for n in range(20)])
    assert counted.tokens <= 50 + 20 * 2


def test_where_a_cut_would_change_the_result_nothing_is_shared() -> None:
    model = tiny("llama", head_dim=24)  # of a size the compiled attention does not take
    engine = NativeEngine(model, slots=8)
    counted = Counted(engine)
    system = tuple(range(1, 51))
    run(engine, [Request(str(n), (*system, 100 + n, 7), SamplingParams(max_tokens=3)) for n in range(6)])
    assert counted.tokens == 6 * 52
