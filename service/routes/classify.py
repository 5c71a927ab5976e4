"""Classification: a plain Starlette route, because it is the hot path."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, cast

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse

from prompt_store.names import DigestReference, parse_reference
from service.assignment_key import assignment_key
from service.bodies import chunks
from service.classify_body import images_of
from service.cpu_threads import on_cpu_thread
from service.disconnects import while_connected
from service.errors import problem_of
from service.inference.admission import BodyRoom
from service.inference.classifier import Classification, Classifier
from service.inference.resolver import Reference
from service.inference.rows import RowOutcome, RowResult
from service.known_route import KnownRoute
from service.parts import parts_of
from service.problems import ProblemError, problem_error
from service.query_parameters import refuse_others

PATH = "/v1/ensembles/{reference}/classify"
DEFAULT_TOP_K = 5
MAX_TOP_K = 10_000
QUERY_PARAMETERS = ("top_k",)

MAX_SHOWN_ON_LOOP = 500
"""Classes whose probabilities are written on the event loop; each takes some 4 microseconds."""

SORTED_PER_SHOWN = 40
"""Classes that are sorted in the time in which one is written."""


async def classify(request: Request) -> JSONResponse:
    """Answer `POST /v1/ensembles/{name, name@version or name@alias}/classify?top_k=`."""
    reference = _reference(request.path_params["reference"])
    key = assignment_key(request.headers)
    refuse_others(request, QUERY_PARAMETERS)
    top_k = _top_k(request.query_params.get("top_k"))
    await _classifier(request).check(reference)
    with _classifier(request).admission.body(reference.name) as room:
        images = await _images(request, room)
        answer = await while_connected(
            request, _classifier(request).classify(reference, images, key)
        )
    if len(answer.outcomes) == 1 and isinstance(answer.outcomes[0], Exception):
        raise answer.outcomes[0]
    if _is_large(answer, top_k):
        return await on_cpu_thread(_response, answer, top_k)
    return _response(answer, top_k)


async def _images(request: Request, room: BodyRoom) -> Sequence[bytes | ProblemError]:
    """The images in the body, which takes its room as it arrives."""
    settings = parts_of(request).settings

    body = chunks(
        request,
        limit_bytes=settings.max_classify_body_bytes,
        idle_timeout_s=settings.body_idle_timeout_s,
        admit=room.add,
    )
    async with aclosing(body) as parts:
        return await images_of(request.headers, parts, max_images=settings.max_images_per_request)


def _classifier(request: Request) -> Classifier:
    return cast("Classifier", request.app.state.classifier)


def _reference(text: str) -> Reference:
    reference = parse_reference(text)
    if isinstance(reference, DigestReference):
        raise problem_error(
            422,
            "invalid-name",
            "A name or reference is malformed",
            "an ensemble is named by name, name@version or name@alias, not by digest",
            field="reference",
        )
    return reference


def _top_k(text: str | None) -> int:
    if text is None:
        return DEFAULT_TOP_K
    top_k = (
        int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_TOP_K)) else 0
    )
    if not 1 <= top_k <= MAX_TOP_K:
        raise problem_error(
            422,
            "invalid-request",
            "The request is not valid",
            f"top_k={text[:32]!r} is not a whole number from 1 to {MAX_TOP_K}",
            field="top_k",
            limit=MAX_TOP_K,
        )
    return top_k


def _is_large(answer: Classification, top_k: int) -> bool:
    """Whether writing the reply takes more than a few milliseconds."""
    num_classes = len(answer.classes)
    shown = min(top_k, num_classes) + num_classes / SORTED_PER_SHOWN
    return len(answer.outcomes) * shown > MAX_SHOWN_ON_LOOP


def _response(answer: Classification, top_k: int) -> JSONResponse:
    return JSONResponse(_document(answer, top_k))


def _document(answer: Classification, top_k: int) -> dict[str, Any]:
    served = answer.served
    results = [outcome for outcome in answer.outcomes if isinstance(outcome, RowResult)]
    digests = {result.digest for result in results}
    if not digests <= {served.digest}:
        raise AssertionError(f"asked {served.digest}, computed by {digests}")
    return {
        "ensemble": {"name": served.name, "version": served.version, "digest": served.digest},
        "predictions": [_row(outcome, answer.classes, top_k) for outcome in answer.outcomes],
        "timing_ms": {
            "decode": _ms(answer.decode_s),
            "queue": _ms(max((result.queue_s for result in results), default=0.0)),
            "forward": _ms(max((result.forward_s for result in results), default=0.0)),
        },
    }


def _row(outcome: RowOutcome, classes: tuple[str, ...], top_k: int) -> object:
    """One image's classes, most probable first (ties by index), or its problem."""
    if isinstance(outcome, Exception):
        return {"error": problem_of(outcome).document()}
    best = np.argsort(-outcome.probabilities, kind="stable")[:top_k]
    return [
        {"label": classes[index], "index": index, "probability": probability}
        for index, probability in zip(
            best.tolist(), outcome.probabilities[best].tolist(), strict=True
        )
    ]


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


classify_route = KnownRoute(PATH, classify, methods=["POST"])
