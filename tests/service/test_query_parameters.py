from collections.abc import Callable

import httpx
import pytest

from jobs.records import FitId

pytestmark = pytest.mark.anyio
VALUES = {"name": "zoo", "reference": "zoo", "version": "1", "alias": "stable"}


async def test_every_operation_refuses_parameters_that_it_does_not_have(
    client: httpx.AsyncClient,
) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    asked = 0
    for path, operations in paths.items():
        if not path.startswith("/v1/"):
            continue
        for method, operation in operations.items():
            answer = await client.request(method, path.format(**VALUES), params={"verison": "1"})
            assert answer.status_code == 422, f"{method} {path}"
            asked += 1
            if method == "head":
                continue
            problem = answer.json()
            assert (problem["type"], problem["field"]) == (
                "urn:hgprompt:problem:invalid-request",
                "verison",
            )
            for each in operation.get("parameters", ()):
                if each["in"] == "query":
                    assert each["name"] in problem["detail"].split("; ")[1]
    assert asked > 30


async def test_a_mistyped_version_deletes_nothing(
    client: httpx.AsyncClient, publish: Callable[..., FitId]
) -> None:
    publish("zoo")
    # An ensemble is deleted with all its versions, so that `version` is unknown here too.
    for name in ("version", "verison"):
        refused = await client.delete("/v1/ensembles/zoo", params={name: 1})
        assert refused.status_code == 422
        assert refused.json()["detail"] == (
            f"{name!r} is not a query parameter here; there are none"
        )
    assert (await client.get("/v1/ensembles/zoo")).status_code == 200
    assert (await client.delete("/v1/ensembles/zoo")).status_code == 204


async def test_known_parameters_are_named_and_a_long_one_is_cut(client: httpx.AsyncClient) -> None:
    refused = await client.get("/v1/prompts", params={"limit": 5, "c" * 1000: "x"})
    assert refused.status_code == 422
    problem = refused.json()
    assert problem["field"] == "c" * 64
    assert problem["limit"] == "backbone, cursor, label, limit"
    one = await client.get("/v1/ensembles/zoo", params={"verison": 1})
    assert one.json()["detail"] == "'verison' is not a query parameter here; there is version"


async def test_a_parameter_that_is_given_twice_is_refused(
    client: httpx.AsyncClient, publish: Callable[..., FitId]
) -> None:
    """One of the two would have no effect."""
    publish("zoo")
    for path, name in (("/v1/ensembles/zoo", "version"), ("/v1/ensembles", "limit")):
        refused = await client.get(f"{path}?{name}=1&{name}=2")
        assert refused.status_code == 422
        assert refused.json()["detail"] == f"{name!r} is given 2 times; it may be given once"
        assert (refused.json()["field"], refused.json()["limit"]) == (name, 1)
    twice = await client.post("/v1/ensembles/zoo/classify?top_k=1&top_k=2", content=b"x")
    assert (twice.status_code, twice.json()["field"]) == (422, "top_k")


async def test_probes_and_foreign_clients_may_send_what_they_like(
    client: httpx.AsyncClient,
) -> None:
    for path in ("/livez", "/metrics", "/v2/health/live"):
        assert (await client.get(path, params={"at": "1"})).status_code == 200
