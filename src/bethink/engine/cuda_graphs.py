"""A decoding step recorded once and replayed, so that a GPU does not wait for Python.

A step of a small model is hundreds of short kernels, and launching them one by one from a model's own code takes longer than they do. A
CUDA graph launches them all at once. What it has recorded are kernels and the addresses they read and write: so inputs and logits have
fixed places here, one set for each number of rows, and a recording is good as long as the cache lies where it lay. The scheduler's few
numbers of rows and the cache's steps of capacity keep recordings few. Where a step cannot be recorded (a model that asks the device
something in between), it runs as it always did.

Knows tensors and a function that records; which rows there are, and when the cache moves, is for others to say.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from bethink.core.console import note
from bethink.engine.kv_cache import SlotCache

LIMIT = 16
"""Recordings kept at a time; the numbers of rows up to 256 are fewer."""

Step = Callable[[Tensor, Tensor], Tensor]
"""(token_B, position_B) → logits [B, V]."""
Work = Callable[[], None]
Capture = Callable[[Work], Work]
"""Records some work, and returns what does it again."""


@dataclass(frozen=True, slots=True)
class _Recording:
    """A step, and the places of its inputs and result."""

    token_B: Tensor
    position_B: Tensor
    logits_BV: Tensor
    replay: Work


class DecodeGraphs:
    """Decoding steps, recorded where that pays.

    step: does one; cache: what it reads and writes. new_capture: makes a recorder, which serves until the cache moves; what one recorder
    records may share memory. The first step of each number of rows runs as it is: it warms up what a recording must find ready, and
    what comes only once is not worth recording.
    """

    def __init__(
        self, step: Step, cache: SlotCache, new_capture: Callable[[], Capture], limit: int = LIMIT
    ) -> None:
        self._step, self._cache = step, cache
        self._new_capture, self._limit = new_capture, limit
        self._possible = True
        self.forget()

    @property
    def recordings(self) -> int:
        """How many there are."""
        return len(self._recordings)

    def forget(self) -> None:
        """Drop every recording: the weights may have changed, or the memory is wanted elsewhere."""
        self._recordings: dict[int, _Recording] = {}
        self._results: dict[int, Tensor] = {}
        self._moves = -1
        self._capture: Capture | None = None

    def decode(self, token_B: Tensor, position_B: Tensor) -> Tensor:
        """Logits [B, V] after one more token in each of the first B slots; overwritten by the next step of as many rows."""
        if not self._possible:
            return self._step(token_B, position_B)
        if self._moves != self._cache.moves:
            self.forget()
            self._moves = self._cache.moves
        rows = len(token_B)
        if rows not in self._results:
            self._results[rows] = self._step(token_B, position_B)
            return self._results[rows]
        recording = self._recordings.pop(rows, None) or self._record(token_B, position_B)
        if recording is None:
            return self._step(token_B, position_B)
        # The latest used stands last, so that the first to go is the one longest unused.
        self._recordings[rows] = recording
        if len(self._recordings) > self._limit:
            oldest = next(iter(self._recordings))
            del self._recordings[oldest], self._results[oldest]
        recording.token_B.copy_(token_B)
        recording.position_B.copy_(position_B)
        recording.replay()
        return recording.logits_BV

    def _record(self, token_B: Tensor, position_B: Tensor) -> _Recording | None:
        """The step of so many rows, not yet done; None where it cannot be recorded, which is then not tried again."""
        token_B, position_B = token_B.clone(), position_B.clone()
        logits_BV = self._results[len(token_B)]

        def work() -> None:
            logits_BV.copy_(self._step(token_B, position_B))

        try:
            if self._capture is None:
                self._capture = self._new_capture()
            replay = self._capture(work)
        except RuntimeError as error:
            self.forget()
            self._possible = False
            note(f"decoding goes on without CUDA graphs: {(str(error).splitlines() or ['?'])[0]}")
            return None
        return _Recording(token_B, position_B, logits_BV, replay)


class CudaCapture:
    """Records work on a CUDA device as graphs that share one pool of memory: they are replayed one at a time, and nothing but what they
    write outside the pool is read afterwards.

    A pool cannot be used again once all its graphs are gone; take a new `CudaCapture` then.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """Raises RuntimeError where the work cannot be recorded; the device is usable all the same."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()  # a pool takes fresh memory, never what the allocator keeps for others
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            # Other threads may go on using the device: what they do is not recorded.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                with suppress(RuntimeError):  # what has failed cannot be ended without saying so again
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph.replay
