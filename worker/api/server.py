"""Runs the API in uvicorn, on one socket."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from token_vault.errors import ConfigurationError
from worker.api.application import create_app
from worker.api.http_protocol import BoundedProtocol, allow_connections
from worker.settings import Settings
from worker.settings.api import STOP_SECONDS

# An idle connection is closed after this long.
KEEPALIVE_SECONDS = 15
# Connections that may wait to be accepted.
BACKLOG = 2048
# For so long a thread that writes the audit or checks the cache may delay requests. Python's default of 5 ms is felt.
SWITCH_SECONDS = 0.001


def listen(host: str, ports: Sequence[int]) -> socket.socket:
    """Listen on the first of these ports that is free.

    Raises:
        ConfigurationError: no port is free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    failure = OSError()
    for port in ports:
        # The protocol is given because asyncio sets TCP_NODELAY only then; without it every answer takes 40 ms.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
            bound.listen(BACKLOG)
        except OSError as error:
            bound.close()
            failure = error
        else:
            return bound
    raise ConfigurationError(
        f"the API cannot listen on {host}, port {ports[0]}: {failure.strerror}; choose another by --port"
    )


def serve(settings: Settings, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal comes, then finish the running requests.

    Args:
        settings: with the database's URL and the access ring.
        bound: the socket that ``listen`` returned.
        ready: called once requests are answered.

    Raises:
        VaultError: why it does not start: a setting or a key is missing or wrong.
    """
    allow_connections(settings.api.max_connections, settings.api.max_concurrent)
    sys.setswitchinterval(SWITCH_SECONDS)
    app = create_app(settings)
    server = _Server(make_config(app, settings.api.max_connections), ready)
    try:
        server.run(sockets=[bound])
    except SystemExit:  # by uvicorn, with a code of its own
        raise app.failure or ConfigurationError("the API did not start: its log says why") from None


def make_config(app: ASGIApp, max_connections: int) -> uvicorn.Config:
    """Return uvicorn's configuration."""
    protocol = partial(BoundedProtocol, max_connections=max_connections)
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=protocol,  # type: ignore[arg-type]  # it is called and no more
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # a path names a user
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEPALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        backlog=BACKLOG,
    )


class _Server(uvicorn.Server):
    """A server that calls ``ready`` once it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then call ``ready``."""
        await super().startup(sockets)
        if self.started:
            # The objects made so far stay. Without this each full collection would go through them and halt all requests.
            gc.collect()
            gc.freeze()
            self._ready()
