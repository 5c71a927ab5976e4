"""Errors as clients of the protocol read them: `{"error": text}`, whatever went wrong."""

from http import HTTPStatus

from starlette.responses import JSONResponse

from service.problems import Problem, ProblemError, problem_error

PREFIX = "/v2"
_BAD_REQUEST = {HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}


def is_oip(path: str) -> bool:
    """Say whether a path belongs to the protocol."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def oip_response(problem: Problem) -> JSONResponse:
    """Return the protocol's response for a problem; what the client sent wrongly is 400."""
    status = 400 if problem.status in _BAD_REQUEST else problem.status
    detail = problem.detail.encode(errors="backslashreplace").decode()  # JSON has lone surrogates
    return JSONResponse({"error": detail}, status, headers=dict(problem.headers))


def bad_infer(detail: str) -> ProblemError:
    """Return 400 for an inference request that breaks the protocol or the model's signature."""
    return problem_error(400, "invalid-infer-request", "The inference request is invalid", detail)
