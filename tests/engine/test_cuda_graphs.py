"""Recorded decoding steps give what plain ones give, whatever the cache and the weights do in between.

Without a GPU a tape stands where a CUDA graph would: it holds every operation with the tensors it was given, and no Python runs when it
is played. Models are in float64, for which there are only torch's own operations, as on a GPU.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from bethink.engine.api import Completion, Request, SamplingParams
from bethink.engine.batch import Batch
from bethink.engine.cuda_graphs import Capture, DecodeGraphs, Work
from bethink.engine.kv_cache import SlotCache
from bethink.engine.runner import Job, Runner
from bethink.engine.scheduler import Row
from engine.tiny import tiny


class Tape(TorchDispatchMode):
    """Operations, where what they ran on lay in memory, and what they gave."""

    def __init__(self) -> None:
        super().__init__()
        self._played: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._played.append((func, *tree_map_only(Tensor, Tensor.detach, (args, kwargs or {})), out))
        return out

    def play(self) -> None:
        for func, args, kwargs, out in self._played:
            for place, value in zip(tree_iter(out), tree_iter(func(*args, **kwargs)), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)


class Recorder:
    """Makes recorders, and counts what they do."""

    def __init__(self) -> None:
        self.made = self.recorded = self.replayed = 0

    def __call__(self) -> Capture:
        self.made += 1
        return self._record

    def _record(self, work: Work) -> Work:
        self.recorded += 1
        tape = Tape()
        with tape:
            work()

        def replay() -> None:
            self.replayed += 1
            tape.play()

        return replay


def requests_of(prompts: list[tuple[int, ...]], lengths: list[int]) -> list[Request]:
    return [
        Request(str(n), prompt, SamplingParams(length, temperature=n % 2, seed=n))
        for n, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]


def generate(batch: Batch, requests: list[Request]) -> dict[str, Completion]:
    for request in requests:
        batch.add(Row.of(request, None, request.sampling.max_tokens, None))
    done = {}
    while batch.active or batch.waiting:
        for row, _ in batch.step():
            if row.finish is not None:
                done[row.request.id] = row.completion()
    return done


@pytest.fixture
def model() -> Any:
    torch.manual_seed(random.SystemRandom().randrange(2**31))
    return tiny().double()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 1, "head_dim": 24, "tie_word_embeddings": True}),
        ("qwen3", {}),
        ("mistral", {"sliding_window": 16}),
        ("gemma3_text", {"sliding_window": 16, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]}),
        ("gpt_neox", {}),
        ("phi3", {}),
    ],
)  # fmt: skip
def test_recorded_steps_give_what_plain_ones_give(kind: str, changes: dict[str, Any], prompts: Any) -> None:
    model = tiny(kind, **changes).double()
    requests = requests_of(prompts(14), [30, 1, 90, 40, 3, 150, 30, 12, 35, 2, 2, 80, 7, 60])
    expected = generate(Batch(Runner(model), 8, None), requests)
    recorder = Recorder()
    assert generate(Batch(Runner(model, new_capture=recorder), 8, None), requests) == expected
    assert recorder.replayed > 60
    assert recorder.made > 1, "the cache has moved"
    assert recorder.recorded < 0.2 * recorder.replayed


def test_between_two_runs_the_weights_may_change(model: Any, prompts: Any) -> None:
    requests = requests_of(prompts(5), [20] * 5)
    batch = Batch(Runner(model, new_capture=Recorder()), 8, None)
    first = generate(batch, requests)
    assert generate(batch, requests) == first
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1).add_(0.01)
    second = generate(batch, requests)
    assert second == generate(Batch(Runner(model), 8, None), requests) != first
    for parameter in model.parameters():  # elsewhere in memory, as where adapters are folded in
        parameter.data = parameter.data * 0.9
    assert generate(batch, requests) == generate(Batch(Runner(model), 8, None), requests) != second


@torch.no_grad()
def test_new_weights_are_used_even_when_the_cache_comes_to_lie_where_it_lay(model: Any) -> None:
    def logits(runner: Runner, *, place: dict[int, tuple[Tensor, Tensor]] | None = None) -> Tensor:
        runner.cache.clear()
        runner.cache.resize(4, 64)
        runner.prefill([Job((1, 2, 3), slot) for slot in range(4)])
        for index, blocks in (place or {}).items():
            for old, new in zip(blocks, runner.cache._layers[index], strict=True):
                old.copy_(new)
            runner.cache._layers[index] = blocks
        return [runner.decode(torch.tensor([5] * 4), torch.tensor([3] * 4)).clone() for _ in range(3)][-1]

    recorder = Recorder()
    runner = Runner(model, new_capture=recorder)
    assert torch.equal(logits(runner), logits(Runner(model)))
    place = dict(runner.cache._layers)
    for parameter in model.parameters():  # elsewhere in memory, as where adapters are folded in
        parameter.data = parameter.data * 0.9
    assert torch.equal(logits(runner, place=place), logits(Runner(model)))
    assert recorder.made == 2


def test_where_a_step_cannot_be_recorded_it_runs_as_it_is(
    model: Any, prompts: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = requests_of(prompts(6), [90] * 6)
    tried = []

    def refuse(work: Work) -> Work:
        tried.append(work)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    runner = Runner(model, new_capture=lambda: refuse)
    assert generate(Batch(runner, 4, None), requests) == generate(Batch(Runner(model), 4, None), requests)
    assert len(tried) == 1
    told = capsys.readouterr().err
    assert told.count("without CUDA graphs: operation not permitted when stream is capturing\n") == 1


def test_an_interrupted_recording_is_no_refusal(model: Any, prompts: Any) -> None:
    def interrupt(work: Work) -> Work:
        raise KeyboardInterrupt

    batch = Batch(Runner(model, new_capture=lambda: interrupt), 4, None)
    with pytest.raises(KeyboardInterrupt):
        generate(batch, requests_of(prompts(2), [9] * 2))


def counting_step(cache: SlotCache) -> Callable[[Tensor, Tensor], Tensor]:
    """A step over a one-layer cache: writes the tokens at their positions, and gives what each row has seen."""

    def step(token_B: Tensor, position_B: Tensor) -> Tensor:
        new_B111 = token_B[:, None, None, None].double()
        keys, _ = cache.layer(0, new_B111, new_B111)
        keys[torch.arange(len(token_B)), 0, position_B, 0] = token_B.double()
        return keys[: len(token_B), 0, :, 0].sum(-1, keepdim=True)

    return step


def test_a_shape_is_recorded_the_second_time_and_until_the_cache_moves() -> None:
    cache, recorder = SlotCache(), Recorder()
    graphs = DecodeGraphs(counting_step(cache), cache, recorder)
    cache.resize(8, 64)
    tokens, places = torch.arange(1, 9), torch.zeros(8, dtype=torch.long)

    def decode(rows: int, place: int) -> list[float]:
        return graphs.decode(tokens[:rows], places[:rows] + place)[:, 0].tolist()

    decode(4, 0)  # makes the cache's block
    assert [decode(4, 1), decode(4, 2), decode(4, 3)] == [[n * k for n in (1, 2, 3, 4)] for k in (2, 3, 4)]
    assert (recorder.made, recorder.recorded, recorder.replayed) == (1, 1, 2)
    decode(8, 4)
    assert decode(8, 5)[7] == 2 * 8
    assert decode(4, 6) == [7, 14, 21, 28]
    assert (recorder.made, recorder.recorded, recorder.replayed) == (1, 2, 4)
    cache.resize(8, 128)
    assert decode(4, 70) == [8, 16, 24, 32]
    assert graphs.recordings == 0
    assert decode(4, 71) == [9, 18, 27, 36]
    assert (recorder.made, recorder.recorded) == (2, 3)
    cache.clear()
    graphs.forget()
    cache.resize(8, 128)
    assert decode(4, 3) == [1, 2, 3, 4]


def test_the_recordings_longest_unused_go_first() -> None:
    cache, recorder = SlotCache(), Recorder()
    graphs = DecodeGraphs(counting_step(cache), cache, recorder, limit=2)
    cache.resize(16, 64)

    def decode(rows: int) -> None:
        graphs.decode(torch.ones(rows, dtype=torch.long), torch.zeros(rows, dtype=torch.long))

    for rows in (4, 4, 4, 8, 8, 4, 12, 12):
        decode(rows)
        assert graphs.recordings <= 2
    recorded = recorder.recorded
    decode(4)
    assert recorder.recorded == recorded
    decode(8)
    decode(8)
    assert recorder.recorded == recorded + 1


class Asking(TorchDispatchMode):
    """Finds operations that make Python wait for the device, or whose shapes depend on what tensors hold."""

    waiting = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "equal",
        "lift_fresh",
        "unique",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor) and t.dtype == torch.bool]
        if name.startswith(self.waiting) or (name.startswith("index") and masks):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def asked_by(model: Any) -> list[str]:
    """What a decoding step of four rows asks the device."""
    runner = Runner(model)
    runner.cache.resize(4, 64)
    runner.prefill([Job((1, 2, 3), slot) for slot in range(4)])
    token_B, position_B = torch.tensor([5] * 4), torch.tensor([3] * 4)
    with Asking() as asking:
        runner.decode(token_B, position_B)
    return asking.found


@pytest.mark.parametrize(
    "kind", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text", "granite", "gpt_neox", "phi3"]
)
def test_a_step_asks_the_device_nothing(kind: str) -> None:
    assert asked_by(tiny(kind).double()) == []


def test_a_question_to_the_device_is_found(model: Any) -> None:
    model.model.norm.register_forward_hook(lambda module, args, output: output * float(output.amax()))
    assert asked_by(model) == ["_local_scalar_dense"]


@pytest.mark.gpu
def test_on_a_gpu_recorded_steps_give_what_plain_ones_give(
    prompts: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = tiny().double().cuda()
    requests = requests_of(prompts(14), [30, 1, 90, 40, 3, 150, 30, 12, 35, 2, 2, 80, 7, 60])
    plain, recorded = Runner(model), Runner(model)
    plain._graphs._possible = False
    expected = generate(Batch(plain, 8, None), requests)
    found = generate(Batch(recorded, 8, None), requests)
    assert "without CUDA graphs" not in capsys.readouterr().err
    for id_, completion in expected.items():
        assert found[id_].token_ids == completion.token_ids
    assert generate(Batch(recorded, 8, None), requests).keys() == found.keys()
