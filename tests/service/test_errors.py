import dataclasses
import json
import math
import os
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ensemble.options import FitOptions
from images.errors import ImagesError
from jobs.errors import JobsError
from jobs.records import FitId
from prompt_store.errors import IdempotencyInProgressError, PromptStoreError
from prompt_store.names import NAME_PATTERN
from service.errors import KINDS, problem_of
from service.inference.errors import InferenceError, QueueFullError
from tests.service.conftest import Opener

pytestmark = pytest.mark.anyio


async def test_unknown_routes_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    missing = await client.get("/v1/nothing/here")
    assert (missing.status_code, missing.json()["type"]) == (
        404,
        "urn:hgprompt:problem:no-such-route",
    )
    wrong = await client.patch("/v1/prompts/fashion")
    assert wrong.status_code == 405
    assert wrong.json()["type"] == "urn:hgprompt:problem:method-not-allowed"
    assert wrong.headers["allow"] == "DELETE, GET, PUT"
    assert (
        missing.headers["content-type"]
        == wrong.headers["content-type"]
        == "application/problem+json"
    )


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/redoc"])
async def test_a_path_outside_the_document_says_what_it_takes(
    client: httpx.AsyncClient, path: str
) -> None:
    wrong = await client.post(path)
    assert wrong.status_code == 405
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v1/prompts/fashion"),
        ("POST", "/v1/ensembles/zoo/cancel"),
        ("POST", "/v1/ensembles/zoo/classify"),
        ("POST", "/v2/repository/models/zoo/unload"),
    ],
)
async def test_another_web_site_changes_nothing(
    client: httpx.AsyncClient, method: str, path: str, site: str
) -> None:
    refused = await client.request(method, path, headers={"Sec-Fetch-Site": site})
    assert refused.status_code == 403
    assert site in refused.text
    own = await client.request(method, path, headers={"Sec-Fetch-Site": "same-origin"})
    assert own.status_code != 403
    read = await client.get("/v1/prompts", headers={"Sec-Fetch-Site": site})
    assert read.status_code == 200


JSON = {"Content-Type": "application/json"}
MEMBERS = "method, name, options, seed, sources, task"
HINT = "a version is told by ?version= or /versions/N"
OPTIONS = ", ".join(sorted(field.name for field in dataclasses.fields(FitOptions)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"name": ', "Expecting value at character 9"),
        (b'{"name": "\xff"}', "'utf-8' codec can't decode byte 0xff in position 10"),
        (b"[" * 100_000, "maximum recursion depth exceeded"),
        (b'{"seed": %s}' % (b"9" * 5000), "value has 5000 digits"),
    ],
)
async def test_malformed_json_is_400_and_says_why(
    client: httpx.AsyncClient, content: bytes, reason: str
) -> None:
    response = await client.post("/v1/ensembles", content=content, headers=JSON)
    problem = response.json()
    assert response.status_code == 400
    assert (problem["type"], problem["field"]) == ("urn:hgprompt:problem:malformed-json", "body")
    assert reason in problem["detail"]


@pytest.mark.parametrize("media_type", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_json_under_another_media_type_is_415(
    client: httpx.AsyncClient, media_type: str
) -> None:
    """`curl --data '{…}'` sends the first."""
    headers = {"If-None-Match": "*", **({"Content-Type": media_type} if media_type else {})}
    body = b'{"name": "zoo", "task": "t", "sources": "all"}'
    for refused in (
        await client.post("/v1/ensembles", content=body, headers=headers),
        await client.put("/v1/ensembles/a/aliases/b", content=b'{"version": 1}', headers=headers),
        await client.put("/v1/prompts/a/aliases/b", content=b'{"version": 1}', headers=headers),
    ):
        assert refused.status_code == 415
        assert refused.json() == {
            "type": "urn:hgprompt:problem:media-type-not-supported",
            "title": "The body's media type is not supported",
            "status": 415,
            "detail": f"Content-Type {media_type!r} is not application/json",
            "field": "Content-Type",
            "limit": "application/json",
        }


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "Application/JSON", "application/foo+json"]
)
async def test_json_is_known_by_its_media_type(client: httpx.AsyncClient, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    body = b'{"name": "zoo", "task": "missing", "sources": "all"}'
    answer = await client.post("/v1/ensembles", content=body, headers=headers)
    assert answer.json()["type"] == "urn:hgprompt:problem:unknown-task"


async def test_a_body_that_no_route_reads_may_have_any_media_type(
    client: httpx.AsyncClient,
) -> None:
    headers = {"Content-Type": "text/plain"}
    answer = await client.post("/v1/ensembles/zoo/cancel", content=b"x", headers=headers)
    assert answer.json()["type"] == "urn:hgprompt:problem:ensemble-not-found"


@pytest.mark.parametrize(
    ("fields", "field", "detail", "limit"),
    [
        ({"seed": -1}, "seed", "seed -1 should be greater than or equal to 0", 0),
        ({"seed": 2**63}, "seed", f"seed {2**63} should be less than {2**63}", 2**63),
        (
            {"options": {"prompt_learning_rate": 0}},
            "options.prompt_learning_rate",
            "options.prompt_learning_rate 0 should be greater than 0",
            0,
        ),
        (
            {"options": {"shrinkage": 0}},
            "options.shrinkage",
            "options.shrinkage 0 should be greater than or equal to 0.000001",
            1e-6,
        ),
        (
            {"options": {"shrinkage": math.nan}},
            "options.shrinkage",
            "options.shrinkage NaN is not a number",
            1,
        ),
        (
            {"options": {"max_sources": 101}},
            "options.max_sources",
            "options.max_sources 101 should be less than or equal to 100",
            100,
        ),
        (
            {"options": {"composition": None}},
            "options.composition",
            "options.composition null should be 'feature_sum' or 'exact'",
            None,
        ),
        ({"task": "t" * 130}, "task", None, 129),
        ({"sources": "some"}, "sources", None, None),
        ({"sources": ["count", ""]}, "sources[1]", None, 1),
        ({"sources": ["count", 3]}, "sources[1]", "sources[1] 3 should be a valid string", None),
        (
            {"literal['all']": 1},
            "literal['all']",
            f"\"literal['all']\" is not known here; there are {MEMBERS}",
            MEMBERS,
        ),
        (
            {"options": {"epochs": 1}},
            "options.epochs",
            f"'options.epochs' is not known here; there are {OPTIONS}",
            OPTIONS,
        ),
        (
            {"task": ["t"] * 99},
            "task",
            f"task {json.dumps(['t'] * 17)[:80]}… should be a valid string",
            None,
        ),
        ({"seed": True}, "seed", "seed true should be a valid integer", None),
        ({"seed": "3"}, "seed", "seed '3' should be a valid integer", None),
        *(
            (
                {"options": {name: value}},
                f"options.{name}",
                f"options.{name} {written} should be a valid {kind}",
                None,
            )
            for name, value, written, kind in (
                ("tuning_epochs", "3", "'3'", "integer"),
                ("max_sources", True, "true", "integer"),
                ("shrinkage", "0.5", "'0.5'", "number"),
                ("penalty_weight", False, "false", "number"),
                ("align", 1, "1", "boolean"),
                ("ablations", "yes", "'yes'", "boolean"),
            )
        ),
        ({"name": "A@1"}, "name", f"name 'A@1' does not match {NAME_PATTERN}", None),
    ],
)
async def test_a_wrong_value_has_its_callers_name_and_its_limit(
    client: httpx.AsyncClient,
    fields: dict[str, object],
    field: str,
    detail: str | None,
    limit: float | str | None,
) -> None:
    body = {"name": "zoo", "task": "t", "sources": "all", **fields}
    answer = await client.post("/v1/ensembles", content=json.dumps(body), headers=JSON)
    assert answer.status_code == 422
    problem = answer.json()
    first = problem["errors"][0]
    assert (problem["field"], first["field"]) == (field, field)
    assert (problem.get("limit"), first.get("limit")) == (limit, limit)
    assert detail in (None, first["detail"])
    assert type(first.get("limit")) in (
        type(None),
        str,
        float if field in ("options.shrinkage", "options.prompt_learning_rate") else int,
    )
    assert problem["detail"].startswith(first["detail"])


async def test_an_integer_may_be_written_as_any_number(client: httpx.AsyncClient) -> None:
    """As JSON Schema has it; and a number as an integer."""
    options = {"tuning_epochs": 3.0, "max_sources": 2.0, "penalty_weight": 1}
    body = {"name": "zoo", "task": "t", "sources": "all", "seed": 7.0, "options": options}
    answer = await client.post("/v1/ensembles", json=body)
    assert answer.json()["type"] == "urn:hgprompt:problem:unknown-task"
    body["seed"] = 7.5
    answer = await client.post("/v1/ensembles", json=body)
    assert answer.json()["field"] == "seed"


async def test_a_wrong_query_parameter_has_its_limit(client: httpx.AsyncClient) -> None:
    problem = (await client.get("/v1/prompts?limit=1001")).json()
    assert (problem["field"], problem["limit"]) == ("limit", 1000)
    assert problem["detail"] == "limit '1001' should be less than or equal to 1000"


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("prompts?limit=0", "limit '0' should be greater than or equal to 1"),
        (
            "prompts/shapes/content?version=prod",
            "version 'prod' should be a valid integer, unable to parse string as an integer",
        ),
        ("tasks?cursor=A", f"cursor 'A' does not match {NAME_PATTERN}"),
        (
            "prompts/shapes@1",
            f"name 'shapes@1' does not match {NAME_PATTERN}; {HINT}",
        ),
        (f"prompts/{'x' * 99}", f"name '{'x' * 79}… does not match {NAME_PATTERN}"),
    ],
)
async def test_a_wrong_part_of_the_url_is_repeated(
    client: httpx.AsyncClient, path: str, detail: str
) -> None:
    answer = await client.get(f"/v1/{path}")
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)


async def test_of_the_body_only_its_members_are_repeated(client: httpx.AsyncClient) -> None:
    """And an unknown name is told those of its place, however deep that is."""
    for body, detail in (
        ([], "body should be a valid dictionary or object to extract fields from"),
        (
            {"versions": [{"version": 1, "weight": 1, "share": 1}]},
            "'versions[0].share' is not known here; there are version, weight",
        ),
    ):
        headers = {"If-Match": "*"}
        answer = await client.put("/v1/ensembles/a/aliases/b", json=body, headers=headers)
        assert (answer.status_code, answer.json()["detail"]) == (422, detail)


async def test_a_rule_over_several_values_is_told_as_it_was_written(
    client: httpx.AsyncClient,
) -> None:
    headers = {"If-Match": "*"}
    answer = await client.put("/v1/ensembles/a/aliases/b", json={}, headers=headers)
    assert answer.json()["detail"] == "body: exactly one of version and versions is needed"


async def test_every_wrong_value_is_listed(client: httpx.AsyncClient) -> None:
    body = {"name": "ZOO", "sources": "all", "seed": -5}
    problem = (await client.post("/v1/ensembles", json=body)).json()
    assert [entry["field"] for entry in problem["errors"]] == ["name", "task", "seed"]
    assert problem["detail"] == (
        f"name 'ZOO' does not match {NAME_PATTERN}; task is missing; "
        "seed -5 should be greater than or equal to 0"
    )


async def test_an_unforeseen_error_leaks_nothing(
    open_client: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client() as client:
        parts = client._transport.app.state.parts
        monkeypatch.setattr(parts.prompts._series, "_objects", None)
        response = await client.get("/v1/prompts/fashion")
    assert response.status_code == 500
    assert response.json() == {
        "type": "urn:hgprompt:problem:internal",
        "title": "Internal error",
        "status": 500,
        "detail": "the service failed; its log has the details",
    }


def _subclasses(base: type[Exception]) -> set[type[Exception]]:
    found = set(base.__subclasses__())
    return found | {each for cls in found for each in _subclasses(cls)}


INTERNAL = {
    "FitHeldError",
    "FenceLostError",
    "FitRefusedError",
    "FitStoppedError",
    "HandlerStuckError",
    "InputsUnavailableError",
    "InspectionStoppedError",
    "NotRecordedError",
    "WorkerBrokenError",
}
"""Errors of the worker's side, or told only to those who asked to stop; no route meets them."""


@pytest.mark.parametrize("base", [PromptStoreError, JobsError, ImagesError, InferenceError])
def test_every_error_of_a_package_has_its_problem(base: type[Exception]) -> None:
    unmapped = {cls.__name__ for cls in _subclasses(base) if not KINDS.keys() & set(cls.__mro__)}
    assert unmapped - INTERNAL == set()


def test_retry_after_is_whole_seconds() -> None:
    problem = problem_of(QueueFullError("full", retry_after_s=1.2, scarce="queue", limit=9))
    assert problem.document()["limit"] == 9
    assert (problem.status, problem.headers["Retry-After"]) == (429, "2")


async def test_what_is_expected_under_load_is_logged_in_a_line(
    open_client: Opener,
    publish: Callable[..., FitId],
    image: Callable[..., bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish("zoo")
    async with open_client(request_deadline_s=1e-6) as client:
        late = await client.post("/v1/ensembles/zoo/classify", content=image())
    assert (late.status_code, late.json()["limit"]) == (504, 1e-6)
    (record,) = (each for each in caplog.records if each.name == "service.error_handler")
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert "no answer within the deadline of 1e-06 s" in record.getMessage()


async def test_an_upload_to_a_full_store_is_logged_in_a_line(
    client: httpx.AsyncClient,
    make_prompt: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_a_full_disk(descriptor: int, mode: str) -> Any:
        os.close(descriptor)
        return open("/dev/full", mode)  # noqa: PTH123

    monkeypatch.setattr(os, "fdopen", on_a_full_disk)
    refused = await client.put("/v1/prompts/p", content=make_prompt())
    assert (refused.status_code, refused.json()["type"]) == (507, "urn:hgprompt:problem:store-full")
    (record,) = (each for each in caplog.records if each.name == "service.error_handler")
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert "No space left on device" in record.getMessage()


def test_a_full_disk_is_507() -> None:
    assert problem_of(OSError(28, "No space left on device")).status == 507
    assert problem_of(OSError(5, "Input/output error")).status == 500


def test_a_request_that_is_worked_on_says_when_to_come_again() -> None:
    problem = problem_of(IdempotencyInProgressError("not answered yet", retry_after_s=12.3))
    assert (problem.status, problem.headers) == (409, {"Retry-After": "13"})
