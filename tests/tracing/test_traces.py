"""Real processes send their spans to a real OTLP receiver, if they are told where it is."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from jobs.records import FitId
from jobs.tracing import start_tracing
from tests.faults.conftest import (  # noqa: F401 - fixtures
    Serve,
    image,
    loaded,
    make_artifact,
    make_prompt,
    make_spec,
    make_task,
    publish,
    serve,
)
from tests.service_process import ROOT
from tests.tiny_backbone import TINY_BACKBONE
from tests.tracing.conftest import Collector
from tests.tracing.spans import SentSpan

# ruff: noqa: F811 - the names of fixtures
CLASSIFY = "/v1/ensembles/{reference}/classify"


@pytest.fixture
def endpoint(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tell every process that is started where the collector is."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    return collector.endpoint


@pytest.fixture
def worker(store_url: str, redis_url: str) -> Iterator[Callable[[], None]]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        settings = {
            "STORE_URL": store_url,
            "REDIS_URL": redis_url,
            "BACKBONE": TINY_BACKBONE,
            "DEVICE": "cpu",
            "WORKER_NUM_THREADS": "1",
        }
        environ = {f"HGPROMPT_{name}": value for name, value in settings.items()}
        started.append(
            subprocess.Popen([sys.executable, "-m", "worker"], cwd=ROOT, env=os.environ | environ)
        )

    yield start
    for process in started:
        process.terminate()
        assert process.wait(60) == 0


def wait_for(collector: Collector, service: str, name: str) -> SentSpan:
    return wait_until(collector, lambda span: (span.service, span.name) == (service, name))


def wait_until(collector: Collector, is_wanted: Callable[[SentSpan], bool]) -> SentSpan:
    deadline_s = time.monotonic() + 60
    while True:
        for span in collector.spans:
            if is_wanted(span):
                return span
        assert time.monotonic() < deadline_s, [span.name for span in collector.spans]
        time.sleep(0.05)


@pytest.mark.usefixtures("endpoint")
def test_a_classification_is_one_trace_from_request_to_forward_pass(
    collector: Collector,
    serve: Serve,
    publish: Callable[..., tuple[FitId, str]],
    image: Callable[..., bytes],
) -> None:
    _, digest = publish("zoo", seed=1)
    server = serve()
    url = server.wait_until_ready()
    assert httpx.get(f"{url}/metrics").status_code == 200
    caller = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    headers = {"traceparent": caller}
    answer = httpx.post(f"{url}/v1/ensembles/zoo/classify", content=image(), headers=headers)
    assert answer.status_code == 200
    server.terminate()  # what is left is sent on leaving
    assert server.process.wait(30) == 0

    request = wait_for(collector, "hgprompt-service", f"POST {CLASSIFY}")
    assert request.trace_id == "0123456789abcdef0123456789abcdef"
    assert request.parent_id == "0123456789abcdef"
    parts = [
        wait_for(collector, "hgprompt-service", name) for name in ("decode", "queue", "forward")
    ]
    for part in parts:
        assert (part.trace_id, part.parent_id) == (request.trace_id, request.span_id)
        assert part.attributes["hgprompt.ensemble"] == "zoo@1"
        assert part.attributes["hgprompt.artifact"] == digest
        assert request.began_ns - 10_000_000 <= part.began_ns <= part.ended_ns
        assert part.ended_ns <= request.ended_ns + 10_000_000
    assert [part.began_ns for part in parts] == sorted(part.began_ns for part in parts)
    of_trace = [span.name for span in collector.spans if span.trace_id == request.trace_id]
    assert sorted(of_trace) == sorted([request.name, "decode", "queue", "forward"])
    assert not [span for span in collector.spans if "metrics" in span.name]


@pytest.mark.usefixtures("endpoint")
def test_a_fit_is_linked_through_redis_to_its_stages_in_the_worker(
    collector: Collector,
    serve: Serve,
    worker: Callable[[], None],
    make_prompt: Callable[..., bytes],
    make_task: Callable[..., bytes],
) -> None:
    with httpx.Client(base_url=serve().wait_until_ready(), timeout=60) as client:
        assert client.put("/v1/prompts/one", content=make_prompt(1)).status_code == 201
        assert client.put("/v1/tasks/t", content=make_task(cat=12, dog=12)).status_code == 201
        wanted = {"name": "mix", "task": "t", "sources": "all"}
        assert client.post("/v1/ensembles", json=wanted).status_code == 202
    request = wait_for(collector, "hgprompt-service", "POST /v1/ensembles")
    worker()
    publishing = wait_for(collector, "hgprompt-worker", "publish")
    # It ends after its stages, so it may be sent in a later batch.
    run = wait_until(collector, lambda span: span.span_id == publishing.parent_id)
    assert request.trace_id in run.links | {run.trace_id}
    assert run.attributes["hgprompt.fit"] == "mix@1"
    assert run.attributes["hgprompt.end"] == "succeeded"
    stages = [span for span in collector.spans if span.parent_id == run.span_id]
    names = [span.name for span in sorted(stages, key=lambda span: span.began_ns)]
    assert names[0] == "images"
    assert names[-1] == "publish"
    assert {"features", "weights", "composite"} <= set(names)


def test_without_an_endpoint_nothing_is_set_up() -> None:
    assert start_tracing("x", {}) is None
    disabled = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}
    assert start_tracing("x", disabled) is None


def test_without_the_extra_the_process_says_so_and_goes_on(tmp_path: Path) -> None:
    """The SDK is hidden from a process of its own."""
    script = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; sys.path.insert(0, sys.argv[1])\n"
        "import logging; logging.basicConfig()\n"
        "from jobs.tracing import start_tracing\n"
        "assert start_tracing('x', {'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://x'}) is None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "install hgprompt[otel]" in done.stderr
