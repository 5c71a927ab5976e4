"""Runs an application until SIGTERM."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from service.http_server.drain import Drain, DrainingServer
from service.http_server.last_resort import PATIENCE_S, leave_soon
from service.http_server.protocol import BoundedProtocol
from service.settings import ServiceSettings


def server_of(
    app: FastAPI,
    settings: ServiceSettings,
    drain: Drain,
    *,
    is_supervised: bool = False,
    stopping: Callable[[], None] = lambda: None,
    stopped: Callable[[], None] = lambda: None,
) -> DrainingServer:
    """Return the HTTP server of an application, not running yet; see `DrainingServer`."""
    protocol = partial(BoundedProtocol, idle_timeout_s=settings.body_idle_timeout_s)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=cast("type[asyncio.Protocol]", protocol),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s) + 1,
    )
    return DrainingServer(
        config, drain, is_supervised=is_supervised, stopping=stopping, stopped=stopped
    )


def serve(
    app: FastAPI, settings: ServiceSettings, drain: Drain, *, patience_s: float = PATIENCE_S
) -> None:
    """Serve until SIGTERM, on the settings' address.

    The process has to end then: `patience_s` after its last answer it is made to, if a thread
    hangs, and whatever happens once requests and engine have had their time.
    """
    longest_s = 2 * settings.shutdown_grace_s + patience_s  # of requests, and of the engine
    server = server_of(
        app,
        settings,
        drain,
        stopping=partial(leave_soon, longest_s),
        stopped=partial(leave_soon, patience_s),
    )
    server.run()
