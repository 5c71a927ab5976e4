import json
from collections.abc import Iterator

import httpx
import pytest

from tests.result_parts import RESULT_PARTS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, object]:
    return (await client.get("/openapi.json")).json()


def references(node: object) -> Iterator[str]:
    """Every `$ref` below a node."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


async def test_every_reference_leads_somewhere(document: dict[str, dict[str, object]]) -> None:
    schemas = document["components"]["schemas"]
    for reference in set(references(document)):
        assert reference.removeprefix("#/components/schemas/") in schemas


async def test_every_operation_may_answer_with_a_problem_and_has_its_own_name(
    document: dict[str, dict[str, dict[str, dict[str, object]]]],
) -> None:
    names: list[object] = []
    for path, operations in document["paths"].items():
        error = "application/json" if path.startswith("/v2") else "application/problem+json"
        for operation in operations.values():
            names.append(operation["operationId"])
            responses = operation["responses"]
            assert "422" not in responses
            for status in ("4XX", "5XX"):
                assert list(responses[status]["content"]) == [error]
    assert len(set(names)) == len(names)


async def test_an_operation_that_answers_304_takes_the_header_for_it(
    document: dict[str, dict[str, dict[str, dict[str, object]]]],
) -> None:
    found = [
        operation
        for operations in document["paths"].values()
        for operation in operations.values()
        if "304" in operation["responses"]
    ]
    assert len(found) >= 8  # files, and the aliases of prompts and of ensembles
    for operation in found:
        headers = {each["name"] for each in operation["parameters"] if each["in"] == "header"}
        assert "If-None-Match" in headers, operation["operationId"]


async def test_every_json_answer_has_a_schema(
    document: dict[str, dict[str, dict[str, dict[str, dict[str, dict[str, object]]]]]],
) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method not in {"put", "post"} or path.startswith("/v2"):
                continue
            for status, response in operation["responses"].items():
                assert response.get("content"), f"{method} {path} {status}"
                for content in response["content"].values():
                    assert content["schema"], f"{method} {path} {status}"


async def test_the_parts_of_a_result_are_described(
    document: dict[str, dict[str, dict[str, dict[str, dict[str, object]]]]],
) -> None:
    schemas = document["components"]["schemas"]
    assert list(references(schemas["EnsembleView"]["properties"]["result"])) == [
        "#/components/schemas/ResultDocument"
    ]
    assert set(schemas["ResultDocument"]["properties"]) == set(RESULT_PARTS)


async def test_it_has_nothing_that_its_version_of_openapi_has_not(
    document: dict[str, object],
) -> None:
    assert document["openapi"] == "3.1.0"
    assert "itemSchema" not in json.dumps(document)  # of 3.2


async def test_the_contract_is_complete(document: dict[str, dict[str, object]]) -> None:
    offered = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
    }
    registry = {
        f"{call} /v1/{kind}{rest}"
        for kind in ("prompts", "tasks")
        for call, rest in (
            ("GET", ""),
            ("PUT", "/{name}"),
            ("GET", "/{name}"),
            ("DELETE", "/{name}"),
            ("GET", "/{name}/versions"),
            ("GET", "/{name}/versions/{version}"),
            ("GET", "/{name}/content"),
            ("HEAD", "/{name}/content"),
        )
    }
    ensembles = {
        "POST /v1/ensembles",
        "GET /v1/ensembles",
        "GET /v1/ensembles/{name}",
        "DELETE /v1/ensembles/{name}",
        "GET /v1/ensembles/{name}/versions",
        "GET /v1/ensembles/{name}/versions/{version}",
        "GET /v1/ensembles/{name}/events",
        "POST /v1/ensembles/{name}/cancel",
        "GET /v1/ensembles/{name}/content",
        "HEAD /v1/ensembles/{name}/content",
        "GET /v1/ensembles/{name}/report",
        "POST /v1/ensembles/{reference}/classify",
    }
    aliases = {
        f"{call} /v1/{kind}/{{name}}/aliases{rest}"
        for kind in ("prompts", "ensembles")
        for call, rest in (
            ("GET", ""),
            ("GET", "/{alias}"),
            ("PUT", "/{alias}"),
            ("DELETE", "/{alias}"),
            ("GET", "/{alias}/history"),
        )
    }
    operations = {"GET /v1/backbone"} | {
        f"{call} /{path}" for call in ("GET", "HEAD") for path in ("livez", "readyz", "metrics")
    }
    models = {
        f"{call} /v2/models/{{model}}{version}{rest}"
        for version in ("", "/versions/{version}")
        for call, rest in (
            ("GET", ""),
            ("GET", "/config"),
            ("GET", "/ready"),
            ("GET", "/stats"),
            ("POST", "/infer"),
        )
    }
    protocol = {
        "GET /v2",
        "GET /v2/health/live",
        "GET /v2/health/ready",
        "GET /v2/models/stats",
        "POST /v2/repository/index",
        "POST /v2/repository/models/{model}/load",
        "POST /v2/repository/models/{model}/unload",
    }
    assert offered == registry | ensembles | aliases | operations | models | protocol
