"""`docs/metrics.md` and what the processes register may not drift apart."""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from worker.metrics import WorkerMetrics

pytestmark = pytest.mark.anyio

Opener = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
Families = dict[str, str]
"""Name, as it is asked for, to type."""

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
ROW = re.compile(r"^\| `(hgprompt_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)


def documented(*sections: str) -> Families:
    bodies = [PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0] for section in sections]
    return {name: kind for body in bodies for name, kind, _ in ROW.findall(body)}


def asked_for(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name


async def scraped(client: httpx.AsyncClient) -> Families:
    text = (await client.get("/metrics")).text
    return {
        asked_for(family.name, family.type): family.type
        for family in text_string_to_metric_families(text)
        if family.name.startswith("hgprompt_")
    }


EVERY = "Service, every role"
API = "Service, roles `all` and `api`"
CLASSIFIER = "Service, roles `all` and `classifier`"


@pytest.mark.parametrize(
    ("role", "sections"),
    [
        ("all", (EVERY, API, CLASSIFIER)),
        ("api", (EVERY, API)),
        ("classifier", (EVERY, CLASSIFIER)),
    ],
)
async def test_the_page_has_what_a_service_serves(
    open_client: Opener, role: str, sections: tuple[str, ...]
) -> None:
    async with open_client(role=role) as client:
        assert await scraped(client) == documented(*sections)


def test_the_page_has_what_a_worker_serves() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    served = {
        asked_for(metric.name, metric.type): metric.type
        for metric in registry.collect()
        if metric.name.startswith("hgprompt_")
    }
    assert served == documented("Worker")


async def test_labels_are_the_documented_ones_and_hold_no_names_of_users(
    client: httpx.AsyncClient,
    publish: Callable[..., object],
    image: Callable[..., bytes],
) -> None:
    publish("secret-name")
    await client.post("/v1/ensembles/secret-name/classify", content=image())
    await client.post("/v1/ensembles/secret-name/classify", content=b"no image")
    await client.request("BREW", "/secret-name")
    text = (await client.get("/metrics")).text
    assert "secret-name" not in text
    assert "BREW" not in text
    labels = {name: set(re.findall(r"`(\w+)`", columns)) for name, _, columns in ROW.findall(PAGE)}
    for family in text_string_to_metric_families(text):
        name = asked_for(family.name, family.type)
        for sample in family.samples:
            if name in labels:
                assert sample.labels.keys() - {"le"} == labels[name], name


def test_every_name_carries_its_unit_or_counts() -> None:
    for name, kind in documented(EVERY, API, CLASSIFIER, "Worker").items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|millis\w*|minutes|kb|mb)$", name), name


@pytest.mark.parametrize(("status", "reason"), [(415, "not-an-image"), (404, "ensemble-not-found")])
async def test_refusals_are_counted_by_reason(
    client: httpx.AsyncClient, publish: Callable[..., object], status: int, reason: str
) -> None:
    publish("zoo")
    name = "zoo" if status == 415 else "nothing"
    answer = await client.post(f"/v1/ensembles/{name}/classify", content=b"no image")
    assert answer.status_code == status
    text = (await client.get("/metrics")).text
    assert f'hgprompt_refused_requests_total{{reason="{reason}"}} 1.0' in text
