"""Requests that the process ends before they are answered."""

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.error_handler import answer_error
from service.http_server.drain import Drain
from service.inference.errors import EngineStoppedError


class AnswerCutOff:
    """ASGI middleware: 503 for what is cancelled because the process leaves.

    The server cancels requests that take longer than `shutdown_grace_s`, such as an upload that
    arrives slowly, and would answer 500. But nothing has failed: the client may send it again.

    Args:
        app: What answers.
        drain: Whether the process leaves.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on; answer it if it is cancelled before its answer begins."""
        has_begun = False

        async def noting_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except asyncio.CancelledError:
            if has_begun or not self._drain.begun.is_set() or scope["type"] != "http":
                raise
            error = EngineStoppedError("the service stopped before the request had been served")
            response = await answer_error(Request(scope), error)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
