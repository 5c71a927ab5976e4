"""Routes whose JSON bodies are read within the same bounds as every other body."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from service.bodies import chunks, whole
from service.parts import parts_of
from service.problems import ProblemError, problem_error

MAX_JSON_BYTES = 1_000_000


class BoundedRoute(APIRoute):
    """Reads the body of a POST or PUT before FastAPI does.

    Raises as `chunks`; of routes that take JSON also 415, the body has another media type, and 400,
    it is not JSON.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's handler, as FastAPI foresees."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            if request.method not in ("POST", "PUT"):
                return await handle(request)
            idle_timeout_s = parts_of(request).settings.body_idle_timeout_s
            arriving = chunks(request, limit_bytes=MAX_JSON_BYTES, idle_timeout_s=idle_timeout_s)
            body = bytes(await whole(arriving))
            if body and self.body_field is not None:
                _check_media_type(request)
            try:
                return await handle(Request(request.scope, _replayed(body, request.receive)))
            except HTTPException as error:
                if error.__cause__ is None:
                    raise
                raise _unreadable(error.__cause__) from error

        return bounded


def _check_media_type(request: Request) -> None:
    """Refuse what FastAPI would not read as JSON, and would then call no object."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    main, _, sub = media_type.partition("/")
    if main != "application" or not (sub == "json" or sub.endswith("+json")):
        raise problem_error(
            415,
            "media-type-not-supported",
            "The body's media type is not supported",
            f"Content-Type {media_type[:64]!r} is not application/json",
            field="Content-Type",
            limit="application/json",
        )


def _unreadable(cause: BaseException) -> ProblemError:
    """Tell why JSON cannot be read that fails otherwise than by its grammar.

    Such as text that is not UTF-8, lists nested too deeply, a number with too many digits.
    """
    return problem_error(
        400, "malformed-json", "The body is not JSON", str(cause)[:200], field="body"
    )


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Receive `body` once more, then whatever comes after it."""
    coming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return coming.pop() if coming else await receive()

    return receive_again
