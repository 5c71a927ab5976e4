"""Routes of the Open Inference Protocol; plain Starlette, because inference is the hot path."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version as package_version
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prompt_store.artifacts import read_artifact
from prompt_store.blobs import BlobStore
from prompt_store.names import DigestReference, NameReference, parse_reference
from service.assignment_key import assignment_key
from service.bodies import chunks, whole
from service.bounded_route import MAX_JSON_BYTES
from service.cpu_threads import on_cpu_thread
from service.disconnects import while_connected
from service.errors import problem_of
from service.health import Health
from service.inference.classifier import Classification, Classifier
from service.inference.engine_client import EngineClient
from service.inference.errors import (
    DeadlineExceededError,
    EngineStoppedError,
    EngineUnavailableError,
    QueueFullError,
    too_late,
)
from service.inference.resolver import Reference, Served
from service.inference.rows import RowOutcome, RowResult
from service.known_route import KnownRoute
from service.oip.content import InferContent, off_the_loop, read_content
from service.oip.errors import PREFIX, bad_infer
from service.oip.infer_request import InferRequest, parse_infer_request
from service.oip.infer_response import infer_response
from service.oip.metadata import model_config, model_metadata, server_metadata
from service.oip.repository import RepositoryIndex
from service.oip.statistics import Keys, ModelStatistics, statistics_json
from service.parts import parts_of
from service.problems import problem_error

MODEL = f"{PREFIX}/models/{{model}}"
VERSION = f"{MODEL}/versions/{{version}}"
REPOSITORY = f"{PREFIX}/repository"

MAX_VALUES_ON_LOOP = 2000
"""Numbers that are written on the event loop; as JSON each takes some microsecond."""

NEEDED_BY_A_MODEL = frozenset({"engine"})
"""Checks without which nothing can be inferred; models are ready while, say, Redis is away."""


async def server(_: Request) -> Response:
    """Answer `GET /v2`."""
    return JSONResponse(server_metadata(package_version("hgprompt")))


async def live(request: Request) -> Response:
    """Answer `GET /v2/health/live`."""
    return _health("live", await _health_of(request).liveness())


async def ready(request: Request) -> Response:
    """Answer `GET /v2/health/ready`."""
    return _health("ready", await _readiness(request))


async def metadata(request: Request) -> Response:
    """Answer `GET /v2/models/{model}`: the signature."""
    served, parts = await _resolve(request), parts_of(request)
    async with _deadline(request):
        versions = await asyncio.to_thread(_repository(request).ready, served.name)
        num_classes = await asyncio.to_thread(_num_classes, parts.blobs, served.digest)
    model = request.path_params["model"]
    return JSONResponse(
        model_metadata(model, served, versions, num_classes=num_classes, backbone=parts.backbone)
    )


async def config(request: Request) -> Response:
    """Answer `GET /v2/models/{model}/config`."""
    served, parts = await _resolve(request), parts_of(request)
    async with _deadline(request):
        num_classes = await asyncio.to_thread(_num_classes, parts.blobs, served.digest)
    model = request.path_params["model"]
    return JSONResponse(
        model_config(model, served, num_classes=num_classes, backbone=parts.backbone)
    )


async def model_ready(request: Request) -> Response:
    """Answer `GET /v2/models/{model}/ready`: 200 if it can be used, else why not."""
    await _resolve(request)
    checks = await _readiness(request, NEEDED_BY_A_MODEL)
    return _health("ready", checks, name=request.path_params["model"])


async def statistics(request: Request) -> Response:
    """Answer `GET /v2/models/{model}/stats`, for the version that would answer."""
    served = await _resolve(request)
    return await _collected(request, [(served.name, served.version)])


async def all_statistics(request: Request) -> Response:
    """Answer `GET /v2/models/stats`: every version used since the service began."""
    return await _collected(request, None)


async def infer(request: Request) -> Response:
    """Answer `POST /v2/models/{model}/infer`."""
    reference, key = _reference(request), assignment_key(request.headers)
    started_s = time.perf_counter()
    try:
        wanted, answer = await _admitted(request, reference, key)
    except QueueFullError:
        _count_failure(request, reference, time.perf_counter() - started_s)
        raise
    results = [each for each in answer.outcomes if isinstance(each, RowResult)]
    model, headers = request.path_params["model"], request.headers
    written = (wanted, model, answer.served, answer.classes, results, headers)
    if _num_values(results) > MAX_VALUES_ON_LOOP:
        return await on_cpu_thread(infer_response, *written)
    return infer_response(*written)


async def _admitted(
    request: Request, reference: Reference, key: str | None
) -> tuple[InferRequest, Classification]:
    """Take in the body and answer what it asks for."""
    settings = parts_of(request).settings
    await _classifier(request).check(reference)
    with _classifier(request).admission.body(reference.name) as room:
        content = await read_content(
            request,
            room,
            limit_bytes=settings.max_classify_body_bytes,
            idle_timeout_s=settings.body_idle_timeout_s,
        )
        return await while_connected(request, _answer(request, reference, key, content))


async def index(request: Request) -> Response:
    """Answer `POST /v2/repository/index`; `{"ready": true}` leaves out what cannot be used."""
    document = await _small_json(request)
    ready_only = document.get("ready", False)
    if not isinstance(ready_only, bool):
        raise bad_infer("ready is neither true nor false")
    repository = _repository(request)

    def answer() -> Response:
        # Both keep the interpreter from other threads: for 10,000 versions `json` for 20 ms,
        # `msgspec` for 1 ms.
        content = msgspec.json.encode(repository.entries(ready_only=ready_only))
        return Response(content, media_type="application/json")

    looking: asyncio.Lock = request.app.state.repository_looking
    async with _deadline(request):
        await looking.acquire()
        look = asyncio.create_task(asyncio.to_thread(answer))
        # By the look itself: it goes on in its thread when nobody waits for it any more.
        look.add_done_callback(lambda _: looking.release())
        return await asyncio.shield(look)


async def load(request: Request) -> Response:
    """Answer `POST /v2/repository/models/{model}/load`: bring the artifact to the device."""
    document = await _small_json(request)
    if document.get("parameters"):
        raise bad_infer("load takes no parameters: an ensemble's artifact cannot be changed")
    digest = (await _resolve(request)).digest
    async with _deadline(request):
        await _engine(request).load(digest)
    return JSONResponse({})


async def unload(request: Request) -> Response:
    """Answer `POST /v2/repository/models/{model}/unload`: let the artifact go, unless in use."""
    await _small_json(request)
    await _engine(request).unload((await _resolve(request)).digest)
    return JSONResponse({})


async def _parsed(request: Request, content: InferContent) -> InferRequest:
    parts = parts_of(request)

    def parse() -> InferRequest:
        return parse_infer_request(
            content,
            image_size_px=parts.backbone.image_size_px,
            max_images=parts.settings.max_images_per_request,
        )

    return await on_cpu_thread(parse) if off_the_loop(content) else parse()


async def _answer(
    request: Request, reference: Reference, key: str | None, content: InferContent
) -> tuple[InferRequest, Classification]:
    """Classify all rows; the protocol has no errors by row, so one bad row fails the request."""
    wanted = await _parsed(request, content)
    started_s = time.perf_counter()
    try:
        answer = await _classifier(request).classify(
            reference, wanted.rows, key, wants_features=wanted.wants_features
        )
    except (DeadlineExceededError, EngineStoppedError, EngineUnavailableError):
        _count_failure(request, reference, time.perf_counter() - started_s)
        raise
    total_s = time.perf_counter() - started_s
    for row, outcome in enumerate(answer.outcomes):
        error = _row_error(row, outcome)
        if error is not None:
            _statistics(request).failed(answer.served, total_s=total_s)
            raise error
    results = [each for each in answer.outcomes if isinstance(each, RowResult)]
    _statistics(request).succeeded(
        answer.served, results, decode_s=answer.decode_s, total_s=total_s
    )
    return wanted, answer


def _num_values(results: Sequence[RowResult]) -> int:
    """Numbers that a reply may hold: probabilities and features."""
    arrays = [array for each in results for array in (each.probabilities, each.features)]
    return sum(array.size for array in arrays if array is not None)


def _count_failure(request: Request, reference: Reference, total_s: float) -> None:
    """Count a request that nothing answered, unless it is open what would have."""
    if isinstance(reference, NameReference):
        served = _classifier(request).resolver.last_known(reference)
        if served is not None:
            _statistics(request).failed(served, total_s=total_s)


def _row_error(row: int, outcome: RowOutcome) -> Exception | None:
    """A row's error, with its number where the row itself is at fault; None if it has a result."""
    if isinstance(outcome, RowResult):
        return None
    problem = problem_of(outcome)
    if problem.status >= 500:  # noqa: PLR2004
        return outcome
    return bad_infer(f"row {row}: {problem.detail}")


def _num_classes(blobs: BlobStore, digest: str) -> int:
    return len(read_artifact(blobs.get_bytes(digest)).classes)


async def _resolve(request: Request) -> Served:
    async with _deadline(request):
        return await _classifier(request).resolver.resolve(
            _reference(request), assignment_key(request.headers)
        )


@asynccontextmanager
async def _deadline(request: Request) -> AsyncGenerator[None]:
    """Give up after as long as a classification may take, as when the store hangs."""
    seconds = parts_of(request).settings.request_deadline_s
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise too_late(seconds) from error


def _reference(request: Request) -> Reference:
    """Parse `{model}`, a name or name@alias, with `{version}` where the path has one."""
    model, version = request.path_params["model"], request.path_params.get("version")
    if version is not None:
        if not (version.isascii() and version.isdigit()):
            raise bad_infer(f"version {version[:32]!r} is not a number")
        if "@" in model:
            raise bad_infer(f"model {model[:80]!r} says which version already; the path does too")
        model = f"{model}@{version}"
    reference = parse_reference(model)
    if isinstance(reference, DigestReference):
        raise problem_error(
            400, "invalid-name", "A name is malformed", "a model is not named by digest"
        )
    return reference


async def _small_json(request: Request) -> dict[str, Any]:
    """The JSON object in the body; an empty body stands for an empty object."""
    timeout_s = parts_of(request).settings.body_idle_timeout_s
    body = await whole(chunks(request, limit_bytes=MAX_JSON_BYTES, idle_timeout_s=timeout_s))
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise bad_infer(f"the request is not JSON: {str(error)[:128]}") from error
    if not isinstance(document, dict):
        raise bad_infer("the request is not a JSON object")
    return document


def _health(state: str, checks: dict[str, str], **members: str) -> Response:
    failing = [f"{check}: {outcome}" for check, outcome in checks.items() if outcome != "ok"]
    if failing:
        error = f"not {state}: {'; '.join(failing)}"
        return JSONResponse({**members, "error": error, state: False}, 503)
    return JSONResponse({**members, state: True})


async def _readiness(request: Request, names: Collection[str] | None = None) -> dict[str, str]:
    """Checks of the process by name, all or those of `names`: "ok" or what is wrong."""
    checks = await _health_of(request).readiness(names)
    if parts_of(request).drain.begun.is_set():
        checks["draining"] = "the process is stopping"
    return checks


def _health_of(request: Request) -> Health:
    return cast("Health", request.app.state.health)


def _classifier(request: Request) -> Classifier:
    return cast("Classifier", request.app.state.classifier)


def _engine(request: Request) -> EngineClient:
    return _classifier(request).engine


def _repository(request: Request) -> RepositoryIndex:
    return cast("RepositoryIndex", request.app.state.repository_index)


def _statistics(request: Request) -> ModelStatistics:
    return cast("ModelStatistics", request.app.state.model_statistics)


async def _collected(request: Request, keys: Keys) -> Response:
    """The statistics of this process, or of all fronts of its host."""
    found = await request.app.state.collect_statistics(keys)
    content = await on_cpu_thread(statistics_json, found)
    return Response(content, media_type="application/json")


def _both(path: str, handler: Callable[[Request], Awaitable[Response]], method: str) -> list[Any]:
    """The route for the version that serves, and the one for a version by number."""
    return [KnownRoute(f"{base}{path}", handler, methods=[method]) for base in (MODEL, VERSION)]


OIP_ROUTES = [
    *_both("/infer", infer, "POST"),
    KnownRoute(PREFIX, server, methods=["GET"]),
    KnownRoute(f"{PREFIX}/health/live", live, methods=["GET"]),
    KnownRoute(f"{PREFIX}/health/ready", ready, methods=["GET"]),
    KnownRoute(f"{PREFIX}/models/stats", all_statistics, methods=["GET"]),
    *_both("", metadata, "GET"),
    *_both("/config", config, "GET"),
    *_both("/ready", model_ready, "GET"),
    *_both("/stats", statistics, "GET"),
    KnownRoute(f"{REPOSITORY}/index", index, methods=["POST"]),
    KnownRoute(f"{REPOSITORY}/models/{{model}}/load", load, methods=["POST"]),
    KnownRoute(f"{REPOSITORY}/models/{{model}}/unload", unload, methods=["POST"]),
]
