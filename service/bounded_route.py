"""Routes whose JSON bodies are read within the same bounds as every other body."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from service.bodies import chunks
from service.parts import parts_of

MAX_JSON_BYTES = 1_000_000


class BoundedRoute(APIRoute):
    """Reads the body of a POST or PUT before FastAPI does; raises as `chunks`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's handler, as FastAPI foresees."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            if request.method not in ("POST", "PUT"):
                return await handle(request)
            idle_timeout_s = parts_of(request).settings.body_idle_timeout_s
            body = b""
            async for chunk in chunks(
                request, limit_bytes=MAX_JSON_BYTES, idle_timeout_s=idle_timeout_s
            ):
                body += chunk
            return await handle(Request(request.scope, _replayed(body, request.receive)))

        return bounded


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Receive `body` once more, then whatever comes after it."""
    coming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return coming.pop() if coming else await receive()

    return receive_again
