"""The HTTP server: /v1/chat/completions, /v1/models, /health, in OpenAI's shapes.

Routes, status codes and disconnects; `service.py` does the work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from bethink.engine.dialogue import Dialogue, Reply
from bethink.serve.protocol import ApiError, ChatRequest, completion, read_request
from bethink.serve.service import Answering, Event, ServeOptions, Service, as_api_error
from bethink.serve.stream import ChunkWriter, error_event

_DISCONNECT_POLL_SECONDS = 0.1
_CLIENT_CLOSED = 499
_log = logging.getLogger("uvicorn.error")


def create_app(dialogue: Dialogue, options: ServeOptions) -> FastAPI:
    """The application for one model."""
    service = Service(dialogue, options)
    started = int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(title="bethink", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{error.detail}: {request.method} {request.url.path}"
        return JSONResponse(ApiError(error.status_code, message).body, error.status_code)

    @app.exception_handler(Exception)
    async def on_any_error(request: Request, error: Exception) -> JSONResponse:
        failure = as_api_error(error)
        return JSONResponse(failure.body, failure.status)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != options.name:
            raise ApiError(404, f"The model `{name}` does not exist", param="model", code="model_not_found")
        return model_card()

    def model_card() -> dict[str, Any]:
        return {"id": options.name, "object": "model", "created": started, "owned_by": "bethink"}

    @app.post("/v1/chat/completions")
    async def chat_completions(http: Request) -> Response:
        request = read_request(await http.body())
        answering = service.answer(request)
        if request.stream:
            return await _streamed(answering, request)
        return await _whole(answering, request, http)

    return app


async def _whole(answering: Answering, request: ChatRequest, http: Request) -> Response:
    """Wait for all choices; stop the model when the client goes away."""
    gathering = asyncio.ensure_future(_replies(answering))
    try:
        while not gathering.done():
            await asyncio.wait({gathering}, timeout=_DISCONNECT_POLL_SECONDS)
            if not gathering.done() and await http.is_disconnected():
                return Response(status_code=_CLIENT_CLOSED)
        replies = gathering.result()
    finally:
        gathering.cancel()
        answering.stop()
    return JSONResponse(completion(answering.identity, answering.created, request.model, replies))


async def _replies(answering: Answering) -> list[Reply]:
    found: dict[int, Reply] = {}
    async for index, event in answering.events():
        if isinstance(event, Reply):
            found[index] = event
    return [found[index] for index in sorted(found)]


async def _streamed(answering: Answering, request: ChatRequest) -> Response:
    """Headers go out with the first event, so that a request the model refuses gets its own status."""
    events = answering.events()
    first = await anext(events)
    usage = bool(request.stream_options and request.stream_options.include_usage)
    writer = ChunkWriter(answering.identity, answering.created, request.model, with_usage=usage)
    return StreamingResponse(
        _events(events, first, writer, request.n or 1),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(
    events: AsyncIterator[Event], first: Event, writer: ChunkWriter, choices: int
) -> AsyncIterator[str]:
    replies: list[Reply] = []

    def written(index: int, event: Any) -> str:
        if isinstance(event, Reply):
            replies.append(event)
            return writer.finish(index, event)
        return writer.piece(index, event)

    try:
        yield "".join(writer.start(index) for index in range(choices))
        yield written(*first)
        async for index, event in events:
            yield written(index, event)
        yield writer.end(replies)
    except ApiError as error:
        _log.warning("a stream ended early: %s", error)
        yield error_event(error.body)
    finally:
        # A client that goes away ends this generator; the model must hear of it.
        await events.aclose()  # type: ignore[attr-defined]
