"""Cutting off clients that do not read what they asked for."""

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http_server.protocol import HANG_UP

logger = logging.getLogger(__name__)

CHUNK_BYTES = 65_536
"""As much as uvicorn buffers for a connection before it lets `send` wait."""

HANG_UP_S = 1.0
"""How long the server may take to see that a connection is gone."""


class CutOffSlowReaders:
    """ASGI middleware: large bodies are sent in pieces, each of which must leave in time.

    Sent in one piece a body is buffered whole by the server, which then counts the request as
    done: a client that reads nothing would hold it for as long as it likes. Closing its connection
    would wait for it too, so under `BoundedProtocol` it is aborted. What fits into the buffers of
    server and kernel has left, as far as can be told here.

    Args:
        app: What answers.
        idle_timeout_s: How long a client may leave a piece unread.
    """

    def __init__(self, app: ASGIApp, idle_timeout_s: float) -> None:
        self._app = app
        self._idle_timeout_s = idle_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on; what is sent after the client was cut off goes nowhere."""
        is_cut_off = False

        async def patient_send(message: Message) -> None:
            nonlocal is_cut_off
            if is_cut_off:
                return
            try:
                for piece in _pieces(message):
                    async with asyncio.timeout(self._idle_timeout_s):
                        await send(piece)
            except TimeoutError:
                is_cut_off = True
                path, size = scope.get("path"), len(message.get("body", b""))
                logger.warning(
                    "a client left its answer unread", extra={"path": path, "body_bytes": size}
                )
                await _hang_up(scope, receive)

        await self._app(scope, receive, patient_send)


def _pieces(message: Message) -> Generator[Message]:
    body: bytes = message.get("body", b"")
    if len(body) <= CHUNK_BYTES:
        yield message
        return
    for start in range(0, len(body), CHUNK_BYTES):
        end = start + CHUNK_BYTES
        more = end < len(body) or message.get("more_body", False)
        yield {**message, "body": body[start:end], "more_body": more}


async def _hang_up(scope: Scope, receive: Receive) -> None:
    """End the connection, and wait until the server has seen it."""
    hang_up: Callable[[], None] | None = scope.get(HANG_UP)
    if hang_up is None:
        return
    hang_up()
    with suppress(TimeoutError):
        async with asyncio.timeout(HANG_UP_S):
            while (await receive())["type"] != "http.disconnect":
                pass
