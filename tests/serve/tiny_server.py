"""The package's own server with a tiny model, over HTTP, for tests that need an endpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from bethink.chat.toggle import Mode, ThinkFormat
from bethink.engine.dialogue import Dialogue, open_dialogue
from bethink.serve.app import create_app
from bethink.serve.service import ServeOptions, Service


@dataclass(frozen=True)
class TinyServer:
    """url: without `/v1`."""

    url: str
    dialogue: Dialogue
    service: Service


@contextmanager
def tiny_server(model_dir: Path) -> Iterator[TinyServer]:
    """It answers until the block ends. A random model does not think by itself: the prompt opens the block, the budget closes it."""
    think = ThinkFormat(prefilled=True)
    dialogue = open_dialogue(str(model_dir), slots=8, dtype="float32", device="cpu", think=think)
    app = create_app(dialogue, ServeOptions(name="tiny", mode=Mode.OFF, max_tokens=24, slots=8))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield TinyServer(url, dialogue, app.state.service)
    server.should_exit = True
    thread.join(10)
