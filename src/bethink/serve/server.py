"""Listening: the port is taken before a model is loaded, so that a port in use is said at once."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from fastapi import FastAPI

from bethink.core.errors import ConfigError
from bethink.serve.service import Service

_GRACE_SECONDS = 3


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that the port is taken from now on: clients that come before `run` wait. Port 0 takes a free one.

    Raises ConfigError when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen: {error.strerror or error}",
            where=f"{host}:{port}",
            fix="choose another --port or --host",
        ) from error
    return listener


def address(listener: socket.socket) -> str:
    """Where clients find it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM; what is under way then has a few seconds to finish, and is ended where it stands."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2 * _GRACE_SECONDS)
    _Server(config, app.state.service).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that ends its answers before it drops its connections."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._service.interrupt)
        await super().shutdown(sockets)
