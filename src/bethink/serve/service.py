"""Requests on their way through the model: questions out, pieces and replies back into the event loop.

Each request has a thread in which its `Dialogue.answer` runs; the engine steps all of them as one batch. Requests past `slots` wait
for a thread. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from bethink.chat.parse import Piece
from bethink.chat.toggle import Mode, read_toggle
from bethink.core.errors import BethinkError, ConfigError, DataError, EndpointError, TemplateError
from bethink.core.seeds import derive_seed
from bethink.engine.dialogue import Dialogue, Question, Reply, default_sampling
from bethink.serve.protocol import ApiError, ChatRequest

_log = logging.getLogger("uvicorn.error")

Event = tuple[int, Piece | Reply]
"""(choice, a piece of it or its end)."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """name: what clients call the model; mode: of a request that does not say; max_tokens: of one that sets no limit; slots: requests
    answered at a time."""

    name: str
    mode: Mode = Mode.ON
    max_tokens: int = 4096
    slots: int = 64


class Answering:
    """One request under way. `events()` may be left early: the model then stops working on it."""

    def __init__(self, service: Service, questions: list[Question]) -> None:
        self.identity = questions[0].id.rpartition("-")[0]
        self.created = int(time.time())
        self._service = service
        self._questions = questions
        self._index = {question.id: index for index, question in enumerate(questions)}
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._left, self._interrupted = threading.Event(), threading.Event()
        self._work = service.pool.submit(self._run)

    async def events(self) -> AsyncIterator[Event]:
        """Pieces and, for each choice, its reply. Raises ApiError for what the model refused."""
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, BaseException):
                    raise as_api_error(event) from event
                yield event
        finally:
            self.stop()

    def stop(self) -> None:
        """Nobody waits for the rest: end it."""
        self._left.set()
        self._work.cancel()
        self.interrupt()
        self._service.running.discard(self)

    def interrupt(self) -> None:
        """End the choices where they stand; their replies still come."""
        self._interrupted.set()
        for question in self._questions:
            self._service.dialogue.cancel(question.id)

    def _run(self) -> None:
        if self._left.is_set():
            return
        try:
            for reply in self._service.dialogue.answer(self._questions, on_text=self._on_text):
                self._put((self._index[reply.id], reply))
                if self._left.is_set():
                    return
            self._put(None)
        except Exception as error:  # noqa: BLE001 - raised where the client's handler waits
            if not isinstance(error, BethinkError):
                _log.exception("generating failed")
            self._put(error)

    def _on_text(self, question_id: str, piece: Piece) -> None:
        if self._interrupted.is_set():  # perhaps before the engine had the question, so that it did not hear
            self._service.dialogue.cancel(question_id)
        self._put((self._index[question_id], piece))

    def _put(self, event: Event | BaseException | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Service:
    """A model behind a queue."""

    def __init__(self, dialogue: Dialogue, options: ServeOptions) -> None:
        self.dialogue = dialogue
        self.options = options
        self.pool = ThreadPoolExecutor(options.slots, thread_name_prefix="answer")
        self.running: set[Answering] = set()

    def answer(self, request: ChatRequest) -> Answering:
        """Start on a request. Raises ApiError when it asks for another model or says nothing of sense."""
        if request.model != self.options.name:
            raise ApiError(
                404,
                f"The model `{request.model}` does not exist; this server has `{self.options.name}`.",
                param="model",
                code="model_not_found",
            )
        answering = Answering(self, self._questions(request))
        self.running.add(answering)
        return answering

    def _questions(self, request: ChatRequest) -> list[Question]:
        try:
            asked, messages = read_toggle(
                [message.plain() for message in request.messages],
                template_kwargs=request.chat_template_kwargs,
                reasoning_effort=request.reasoning_effort,
            )
        except ConfigError as error:
            raise ApiError(400, error.what) from error
        mode = asked or self.options.mode
        chosen: dict[str, Any] = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": None if request.top_k is None else max(request.top_k, 0),
            "min_p": request.min_p,
        }
        sampling = replace(
            default_sampling(
                mode,
                max_tokens=request.limit or self.options.max_tokens,
                max_thinking_tokens=request.max_thinking_tokens,
            ),
            stop=request.stops,
            **{name: value for name, value in chosen.items() if value is not None},
        )
        seed = request.seed if request.seed is not None else int.from_bytes(os.urandom(6), "big")
        identity = f"chatcmpl-{uuid.uuid4().hex}"
        return [
            Question(
                f"{identity}-{index}",
                tuple(messages),
                mode,
                replace(sampling, seed=derive_seed(seed, "choice", index)),
            )
            for index in range(request.n or 1)
        ]

    def interrupt(self) -> None:
        """End everything under way where it stands."""
        for answering in list(self.running):
            answering.interrupt()

    def close(self) -> None:
        """End everything under way."""
        for answering in list(self.running):
            answering.stop()
        self.pool.shutdown(cancel_futures=True)


def as_api_error(error: BaseException) -> ApiError:
    """What went wrong in the model as a client should see it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ConfigError | TemplateError | DataError):
        return ApiError(400, error.what)
    if isinstance(error, EndpointError):
        return ApiError(502, error.what, kind="upstream_error")
    if isinstance(error, BethinkError):
        return ApiError(503, error.what, kind="server_error")
    return ApiError(500, f"{type(error).__name__} in the server", kind="server_error")
