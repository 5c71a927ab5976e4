"""Closing connections so that their last answer arrives."""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http_server.drain import Drain

LINGER_S = 2.0
"""How long to read the rest of a request that has been answered."""


class CloseGently:
    """ASGI middleware: while the process is leaving, each response closes its connection.

    A body that the application did not read is read first, whoever wants the connection closed:
    closing one on which something arrives resets it, and the client may lose the answer.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, adding `Connection: close` to the response if need be."""
        is_read = is_closing = False

        async def watched_receive() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = not message.get("more_body", False)
            return message

        async def closing_send(message: Message) -> None:
            nonlocal is_closing
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if self._drain.begun.is_set():
                    headers["Connection"] = "close"
                is_closing = _says_close(headers) or _is_last(scope)
            elif is_closing and not is_read and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _discard(receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, watched_receive, closing_send)


def _is_last(scope: Scope) -> bool:
    """Whether the server closes the connection after this request, as its client wishes."""
    return scope.get("http_version") == "1.0" or _says_close(Headers(scope=scope))


def _says_close(headers: Headers) -> bool:
    values = ",".join(headers.getlist("connection"))
    return "close" in (each.strip().lower() for each in values.split(","))


async def _discard(receive: Receive) -> None:
    """Read the rest of a request's body, for as long as it is worth while."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body", False):
                pass
