"""The engine's work is counted as what its completions need, however they were batched."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from bethink.engine.api import Completion, Request, SamplingParams
from bethink.engine.native import NativeEngine
from bethink.models.cost import Shape, decode_step, prefill, prompts
from bethink.models.shape import shape_of
from bethink.models.speed import Speed
from engine.tiny import run, tiny

COMPUTES = Speed("cpu", "float32", 1, {1: 1.0}, bandwidth=1e30)
READS = Speed("cpu", "float32", 1, {1: 1e30}, bandwidth=1.0)


def some_requests(shared: int) -> list[Request]:
    """Twelve requests of random lengths, the first `shared` of which have one prompt."""
    common = tuple(random.choices(range(300), k=random.randint(5, 40)))
    texts = [common] * shared + [
        # Few different tokens to begin with: some prompts begin alike.
        (random.randint(0, 2), random.randint(0, 2), *random.choices(range(300), k=random.randint(5, 40)))
        for _ in range(12 - shared)
    ]
    return [
        Request(str(n), prompt, SamplingParams(max_tokens=random.randint(1, 30)))
        for n, prompt in enumerate(texts)
    ]


def needed_flops(shape: Shape, requests: Sequence[Request], done: dict[str, Completion]) -> float:
    different = {request.prompt_ids for request in requests}
    beginnings = {prompt[: n + 1] for prompt in different for n in range(len(prompt))}
    total = prompts(shape, len(different), len(beginnings), sum(map(len, beginnings))).flops
    for request in requests:
        for drawn in range(1, len(done[request.id].token_ids)):
            total += decode_step(shape, 1, len(request.prompt_ids) + drawn - 1).flops
    return total


@pytest.mark.parametrize("slots", [1, 4, 12])
@pytest.mark.parametrize("shared", [0, 7])
def test_every_token_is_counted_once_and_what_prompts_share_too(slots: int, shared: int) -> None:
    model, requests = tiny(), some_requests(shared)
    engine, shape = NativeEngine(model, slots=slots), shape_of(model.config)
    done = run(engine, requests)
    assert engine._work.seconds(shape, COMPUTES) == pytest.approx(needed_flops(shape, requests, done))


def test_the_weights_are_read_once_a_step() -> None:
    model = tiny()
    shape = shape_of(model.config)
    requests = [Request(str(n), (n + 1,) * 9, SamplingParams(max_tokens=21)) for n in range(8)]  # none alike
    together, alone = NativeEngine(model, slots=8), NativeEngine(model, slots=1)
    run(together, requests)
    run(alone, requests)
    least = prefill(shape, [9] * 8, weight_bytes=4).bytes
    least += sum(decode_step(shape, 8, 9 + n, weight_bytes=4).bytes for n in range(20))
    assert together._work.seconds(shape, READS) == pytest.approx(least)
    again = 7 * 21 * 4 * (shape.linear + shape.head)
    assert alone._work.seconds(shape, READS) == pytest.approx(least + again)


def test_the_floor_is_below_the_time_it_took(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    import time

    monkeypatch.setenv("BETHINK_CACHE", str(tmp_path))
    engine = NativeEngine(tiny(), slots=4)
    assert engine.floor_seconds() == 0
    started = time.perf_counter()
    run(engine, some_requests(0))
    least = engine.floor_seconds()
    assert least is not None
    assert 0 < least < time.perf_counter() - started
