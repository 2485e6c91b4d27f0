"""The native engine: continuous batching on the model's own weights.

Rows finish and are replaced while the others go on. It knows token ids only; text appears where a request asks for stop strings or a
thinking budget, through the `decode` function it is given. The model is used as it stands, so a trainer samples from the very parameters
it trains; they must not change while a `generate` runs.

Several threads may call `generate` at once: their requests share the batch, and whichever thread waits for a completion runs the next
step for all of them.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from bethink.core.console import Progress
from bethink.core.errors import ConfigError, ModelError
from bethink.engine.api import Completion, FinishReason, OnToken, Request
from bethink.engine.batch import Batch
from bethink.engine.runner import PREFILL_TOKENS, Runner
from bethink.engine.scheduler import Row
from bethink.engine.watch import Decode
from bethink.engine.work import Work
from bethink.models.cost import Shape
from bethink.models.known_speed import speed_of
from bethink.models.machine import free_memory
from bethink.models.shape import shape_of
from bethink.models.speed import Speed

_MEMORY_SHARE = 0.5


@dataclass(eq=False)
class _Call:
    """One running `generate`: where its completions go, and who hears of its tokens."""

    on_token: OnToken | None
    done: deque[Completion] = field(default_factory=deque)
    error: BaseException | None = None


class NativeEngine:
    """Completes prompts with a transformers causal language model.

    model: loaded with our attention (`models.load.load_model`).
    decode: token ids to text; needed only by requests with stop strings or a thinking budget.
    slots: sequences decoded together. max_cache_tokens: most tokens in the cache, slots × capacity (default: what half of the free
    memory holds). prefill_tokens: most prompt tokens in one forward. progress: told of every token.
    temperature: of the distribution that counts as the model's own: what a request draws from at its temperature 1, and whose
    log-probabilities are given. A policy that is trained at another temperature than 1 is sampled so.
    """

    def __init__(
        self,
        model: Any,
        *,
        decode: Decode | None = None,
        slots: int = 64,
        max_cache_tokens: int | None = None,
        prefill_tokens: int = PREFILL_TOKENS,
        progress: Progress | None = None,
        temperature: float = 1.0,
    ) -> None:
        if not temperature > 0:
            raise ConfigError(
                f"the temperature of the model's own distribution must be positive, not {temperature}"
            )
        if slots < 1:
            raise ConfigError(f"slots must be at least 1, not {slots}")
        self._runner = Runner(model, prefill_tokens=prefill_tokens)
        if max_cache_tokens is None:
            device = self._runner.device
            free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
            max_cache_tokens = int(free * _MEMORY_SHARE) // self._runner.bytes_per_token()
        self._batch = Batch(self._runner, slots, max_cache_tokens, temperature)
        self._work = Work()
        self._decode = decode
        self._progress = progress
        self._incoming: deque[Row] = deque()
        self._cancelled: deque[tuple[str, int]] = deque()
        self._serial = itertools.count(1)
        self._closed: deque[_Call] = deque()
        self._turn = threading.Condition()
        self._stepping = False

    def generate(
        self, requests: Sequence[Request], *, on_token: OnToken | None = None
    ) -> Iterator[Completion]:
        """Yield each completion as it finishes (not in request order).

        Closing the iterator early frees what its unfinished requests held. `max_tokens` is cut to the positions the model has left.
        Raises, before any work: ConfigError for an empty prompt, a repeated id, unusable sampling parameters, or a prompt that fills
        the model's positions; ModelError when the cache cannot hold a request.
        """
        call = _Call(on_token)
        rows = [self._row(request, call) for request in requests]
        if len({request.id for request in requests}) < len(rows):
            raise ConfigError("two requests have the same id")
        return self._serve(call, rows)

    def cancel(self, request_id: str) -> None:
        """End the running requests with this id early. May be called from any thread, and from `on_token`."""
        # A row made later may have the same id; it is not meant.
        self._cancelled.append((request_id, next(self._serial)))

    def floor_seconds(self) -> float | None:
        """Least time the device can take for all that was drawn so far (`engine.work`); None where its speed cannot be measured."""
        shape, speed = self._floor
        return None if speed is None else self._work.seconds(shape, speed)

    @cached_property
    def _floor(self) -> tuple[Shape, Speed | None]:
        model = self._runner.model
        return shape_of(model.config), speed_of(str(self._runner.device), model.dtype)

    def _row(self, request: Request, call: _Call) -> Row:
        where = f"request {request.id}"
        sampling, prompt = request.sampling, request.prompt_ids
        if not prompt:
            raise ConfigError("the prompt is empty", where=where)
        if min(prompt) < 0 or max(prompt) >= self._runner.vocabulary:
            raise ConfigError("the prompt holds token ids that the model does not have", where=where)
        for wrong, what in (
            (sampling.max_tokens < 1, f"max_tokens must be at least 1, not {sampling.max_tokens}"),
            (not sampling.temperature >= 0, f"temperature must not be negative: {sampling.temperature}"),
            (not 0 < sampling.top_p <= 1, f"top_p must be in (0, 1], not {sampling.top_p}"),
            (not 0 <= sampling.min_p <= 1, f"min_p must be in [0, 1], not {sampling.min_p}"),
            (sampling.top_k < 0, f"top_k must not be negative: {sampling.top_k}"),
            ("" in sampling.stop, "a stop string is empty"),
        ):
            if wrong:
                raise ConfigError(what, where=where)
        if (sampling.stop or sampling.thinking) and self._decode is None:
            raise ConfigError("stop strings and thinking budgets need an engine with `decode`", where=where)
        limit = sampling.max_tokens
        if (positions := self._runner.max_positions) is not None:
            limit = min(limit, positions - len(prompt))
            if limit < 1:
                raise ConfigError(
                    f"the prompt has {len(prompt)} tokens, the model {positions} positions",
                    where=where,
                    fix="shorten the prompt",
                )
        row = Row.of(request, call, limit, self._decode)
        row.serial = next(self._serial)
        if not self._batch.fits(row.need):
            raise ModelError(
                f"too little memory for the cache of a request of up to {row.need} tokens",
                where=where,
                fix="lower max_tokens, or free memory",
            )
        return row

    def _serve(self, call: _Call, rows: list[Row]) -> Iterator[Completion]:
        left = len(rows)
        self._incoming.extend(rows)
        try:
            while left:
                for completion in self._next(call):
                    left -= 1
                    yield completion
        finally:
            if left:
                with self._turn:
                    self._closed.append(call)
                    if not self._stepping:
                        self._take_out()

    def _next(self, call: _Call) -> list[Completion]:
        """What has finished for `call`; when nothing has, a step is run, or another thread's step waited for."""
        with self._turn:
            while self._stepping and not call.done and call.error is None:
                self._turn.wait()
            if call.done:
                return [call.done.popleft() for _ in range(len(call.done))]
            if call.error is not None:
                raise call.error
            self._stepping = True
        try:
            self._step()
        except BaseException as error:
            # A step left half done cannot be gone on with, so whoever shares the batch must hear of it.
            self._abandon(error)
            raise
        finally:
            with self._turn:
                self._stepping = False
                self._turn.notify_all()
        return []

    def _step(self) -> None:
        self._take_out()
        while self._incoming:
            self._batch.add(self._incoming.popleft())
        drawn = self._batch.step()
        self._work.add(drawn)
        if not self._batch.active and not self._batch.waiting:
            self._work.rest()
        for row, token in drawn:
            self._tell(row, token)
        # A new row draws two tokens in its first step, and is done once even when the second is its last.
        for row in {id(row): row for row, _ in drawn if row.finish is not None}.values():
            row.owner.done.append(row.completion())
        if self._progress is not None:
            self._progress.advance(len(drawn), running=self._batch.active, waiting=self._batch.waiting)

    def _take_out(self) -> None:
        """Drop the rows that were cancelled or that nobody waits for any more."""
        cancelled = dict(self._cancelled.popleft() for _ in range(len(self._cancelled)))
        closed = {self._closed.popleft() for _ in range(len(self._closed))}
        if not cancelled and not closed:
            return

        def unwanted(row: Row) -> bool:
            return row.serial < cancelled.get(row.request.id, 0) or row.owner in closed

        incoming = [self._incoming.popleft() for _ in range(len(self._incoming))]
        self._incoming.extend(row for row in incoming if not unwanted(row))
        for row in [*self._batch.drop(unwanted), *filter(unwanted, incoming)]:
            row.finish = FinishReason.CANCELLED
            row.owner.done.append(row.completion())

    def _tell(self, row: Row, token: int) -> None:
        call: _Call = row.owner
        if call.on_token is not None and call.error is None:
            try:
                call.on_token(row.request.id, token)
            except Exception as error:  # noqa: BLE001 - the caller's own fault is raised where it waits, not in another's step
                call.error = error
                self._closed.append(call)

    def _abandon(self, error: BaseException) -> None:
        # An interrupt is meant for the thread that gets it; the others are told what became of their work.
        told = error if isinstance(error, Exception) else RuntimeError("generation was interrupted")
        incoming = [self._incoming.popleft() for _ in range(len(self._incoming))]
        for row in [*self._batch.drop(lambda _: True), *incoming]:
            row.owner.error = told
