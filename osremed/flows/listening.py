"""A small HTTP application beside the flows: its socket, and its server in a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse

from osremed.core.errors import Unavailable


def listen(name: str, host: str, port: int) -> socket.socket:
    """The socket. Unavailable if somebody else has the port."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        what = f"the {name} cannot listen: {error.strerror}"
        raise Unavailable(what, where=f"{host}:{port}", hint="use another --port") from None


@contextlib.contextmanager
def serving(name: str, app: Starlette, listener: socket.socket) -> Iterator[None]:
    """The HTTP server in a thread: a slow disk must not stop the runs."""
    config = uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def problem(status: int, title: str, **headers: str) -> JSONResponse:
    """An error as RFC 9457 has it."""
    body = {"type": "about:blank", "title": title, "status": status}
    return JSONResponse(body, status_code=status, headers=headers, media_type="application/problem+json")
