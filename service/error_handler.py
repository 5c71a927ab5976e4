"""What the application answers when something raised: a problem, in the form of the path asked."""

import logging
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.body_members import known_members
from service.errors import problem_of
from service.inference import errors as inference
from service.metrics.requests import REFUSAL
from service.oip.errors import is_oip, oip_response
from service.openapi import allowed_methods
from service.problems import Problem, ProblemError
from service.validation import unknown_places, validation_problem

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
LOGGED_BEFORE = (ProblemError, inference.EngineUnavailableError, inference.NoMemoryError)
"""Errors that need no line of their own for each request."""
EXPECTED = (
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    HTTPStatus.INSUFFICIENT_STORAGE,
)
"""A line is enough: there may be one for each request, and where it was raised says nothing."""

HTTP_SLUGS = {
    400: "bad-request",
    404: "no-such-route",
    405: "method-not-allowed",
    413: "body-too-large",
    415: "media-type-not-supported",
}


def http_problem(request: Request, error: HTTPException) -> Problem:
    """Return the problem for what the framework refuses itself: unknown routes and methods."""
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # The framework names the methods of the first route of the path only. It is right about
        # paths that the document leaves out: those of the document itself.
        allowed = allowed_methods(request.app, request.url.path)
        headers |= {"Allow": allowed} if allowed else {}
    return Problem(
        error.status_code,
        HTTP_SLUGS.get(error.status_code, "http-error"),
        "The request cannot be served",
        f"{request.method} {request.url.path}: {error.detail}",
        headers=headers,
    )


async def answer_error(request: Request, error: Exception) -> Response:
    """Exception handler: answer with a problem, log those that are the service's own fault."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    if isinstance(error, RequestValidationError):
        problem = validation_problem(error, known_members(request, unknown_places(error)))
    elif isinstance(error, HTTPException):
        problem = http_problem(request, error)
    else:
        problem = problem_of(error)
    request.scope[REFUSAL] = _reason(error, problem)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, LOGGED_BEFORE):
        fields = {"method": request.method, "path": request.url.path, "problem": problem.slug}
        if problem.status in EXPECTED:
            logger.warning("request failed: %s", error, extra=fields)
        else:
            logger.error("request failed", exc_info=error, extra=fields)
    return oip_response(problem) if is_oip(request.url.path) else problem.response()


def _reason(error: Exception, problem: Problem) -> str:
    """What was wrong, as the metrics have it: the problem, and of a full queue what is full."""
    if isinstance(error, inference.QueueFullError):
        return f"{problem.slug}:{error.scarce}"
    return problem.slug
