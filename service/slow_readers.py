"""Cutting off clients that do not read what they asked for."""

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

CHUNK_BYTES = 65_536
"""As much as uvicorn buffers for a connection before it lets `send` wait."""


class CutOffSlowReaders:
    """ASGI middleware: large bodies are sent in pieces, each of which must leave in time.

    Sent in one piece a body is buffered whole by the server, which then counts the request as
    done: a client that reads nothing would hold it for as long as it likes.

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
            if len(message.get("body", b"")) <= CHUNK_BYTES:
                await send(message)
                return
            try:
                await self._send_in_pieces(message, send)
            except TimeoutError:
                is_cut_off = True
                path, sent = scope["path"], len(message["body"])
                logger.warning(
                    "a client left its answer unread", extra={"path": path, "body_bytes": sent}
                )

        await self._app(scope, receive, patient_send)

    async def _send_in_pieces(self, message: Message, send: Send) -> None:
        body: bytes = message["body"]
        for start in range(0, len(body), CHUNK_BYTES):
            end = start + CHUNK_BYTES
            more = end < len(body) or message.get("more_body", False)
            async with asyncio.timeout(self._idle_timeout_s):
                await send({**message, "body": body[start:end], "more_body": more})
