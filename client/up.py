"""The whole service on one machine: Redis, `python -m service` and `python -m worker`."""

import contextlib
import functools
import os
import site
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.api import Client
from client.child import ChildSpec
from client.data_dir import DataDirLock
from client.hooks import Hooks
from client.local_address import Address, free_address
from client.redis_server import PrivateRedis, find_redis_program
from client.supervisor import CRASH_GRACE_S, RestartPolicy, Supervisor

REDIS_TIMEOUT_S = 20.0
SERVICE_TIMEOUT_S = 3600.0  # the first start downloads weights
PROBE_TIMEOUT_S = 5.0

# What a child does between SIGTERM and its end, as docs/operations.md says: the engine ends after
# the requests, and has as much time again.
SERVICE_ENDS_S = (
    ("HGPROMPT_DRAIN_S", 1.0),
    ("HGPROMPT_SHUTDOWN_GRACE_S", 20.0),
    ("HGPROMPT_SHUTDOWN_GRACE_S", 20.0),
)
WORKER_ENDS_S = (("HGPROMPT_FIT_STOP_GRACE_S", 20.0),)
SPARE_GRACE_S = 10.0

SERVICE = "service"
WORKER = "worker"
REDIS = "redis"


@dataclass(frozen=True)
class LocalOptions:
    """How to run the service on this machine.

    Attributes:
        data_dir: Everything that lasts, and the logs.
        host: Where to listen.
        port: Where to listen; 0 takes any free port.
        environ: Environment for the children; `HGPROMPT_REDIS_URL` in it is used as it is, and
            so is `HGPROMPT_STORE_URL`.
        service: Command of the HTTP service.
        worker: Command of the fit worker.
        policy: When children that died are started again.
    """

    data_dir: Path
    host: str
    port: int
    environ: Mapping[str, str]
    service: tuple[str, ...] = field(default_factory=lambda: python_module(SERVICE))
    worker: tuple[str, ...] = field(default_factory=lambda: python_module(WORKER))
    policy: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass(frozen=True)
class Deployment:
    """A running local service; call `supervisor.check()` often."""

    address: Address
    data_dir: Path
    supervisor: Supervisor

    @property
    def log_dir(self) -> Path:
        """Holds one log for each child."""
        return log_folder(self.data_dir)


def log_folder(data_dir: Path) -> Path:
    """Where the children's logs are."""
    return data_dir / "logs"


@contextlib.contextmanager
def local_deployment(options: LocalOptions, hooks: Hooks) -> Generator[Deployment]:
    """Starts everything, waits until the service answers, and ends everything on leaving.

    Raises:
        StartError: If something cannot be started.
        StopRequestedError: If the user asked to stop meanwhile.
    """
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(
            DataDirLock.acquire(options.data_dir, ending_s=CRASH_GRACE_S + 2)
        )
        address = free_address(options.host, options.port)
        lock.announce(address.url)
        log_dir = log_folder(options.data_dir)
        log_dir.mkdir(exist_ok=True)
        supervisor = stack.enter_context(
            Supervisor(log_dir, hooks, policy=options.policy, held_fds=(lock.children_fd,))
        )
        redis_url = options.environ.get("HGPROMPT_REDIS_URL") or _start_redis(
            options, supervisor, hooks
        )
        environ = child_environ(options, address, redis_url)
        hooks.stage("loading the backbone (the first start downloads its weights)")
        supervisor.start(
            ChildSpec(SERVICE, options.service, environ, grace_s=grace_s(environ, SERVICE_ENDS_S))
        )
        with Client(address.url, timeout_s=PROBE_TIMEOUT_S) as client:
            ready = functools.partial(_is_ready, client, hooks)
            supervisor.wait_until(SERVICE, ready, SERVICE_TIMEOUT_S, "become ready")
        # Only now: the two would compete for the processor, or for the download of the weights.
        supervisor.start(
            ChildSpec(WORKER, options.worker, environ, grace_s=grace_s(environ, WORKER_ENDS_S))
        )
        yield Deployment(address, options.data_dir, supervisor)


def grace_s(environ: Mapping[str, str], stages_s: Sequence[tuple[str, float]]) -> float:
    """How long a child may take to end: what its settings give each stage, and some more.

    Args:
        environ: The child's.
        stages_s: The setting of each stage, and its default.
    """
    total_s = SPARE_GRACE_S
    for name, default_s in stages_s:
        try:
            total_s += float(environ.get(name, default_s))
        except ValueError:  # the child itself refuses it, with the reason
            total_s += default_s
    return total_s


def _is_ready(client: Client, hooks: Hooks) -> bool:
    readiness = client.readiness()
    if readiness.reason is not None:
        hooks.stage(f"not ready yet: {readiness.reason}")
    return readiness.ready


def _start_redis(options: LocalOptions, supervisor: Supervisor, hooks: Hooks) -> str:
    program = find_redis_program(options.environ.get("PATH"))
    redis = PrivateRedis.prepare(program, options.data_dir)
    hooks.stage(f"starting Redis ({program.label})")
    supervisor.start(
        ChildSpec(
            REDIS, redis.argv, env=options.environ, cwd=redis.folder, grace_s=5.0, ends_last=True
        )
    )
    supervisor.wait_until(REDIS, redis.answers, REDIS_TIMEOUT_S, "answer")
    return redis.url


def python_module(name: str) -> tuple[str, ...]:
    """The command that runs one of our modules; -P: never one of the working folder's."""
    return (sys.executable, "-P", "-m", name)


def module_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which our packages are found, also when run from a source folder."""
    root = str(Path(__file__).resolve().parents[1])
    installed = {str(Path(folder).resolve()) for folder in _site_folders()}
    if root in installed:
        return dict(environ)
    paths = [root, *filter(None, environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths)}


def _site_folders() -> list[str]:
    return [*site.getsitepackages(), site.getusersitepackages()]


def child_environ(options: LocalOptions, address: Address, redis_url: str) -> dict[str, str]:
    """The environment of service and worker."""
    environ = module_environ(options.environ)
    if not environ.get("HGPROMPT_STORE_URL"):
        _store_folder(options.data_dir).mkdir(exist_ok=True)
        environ["HGPROMPT_STORE_URL"] = store_url(options.data_dir)
    return environ | {
        "HGPROMPT_REDIS_URL": redis_url,
        "HGPROMPT_ROLE": "all",
        "HGPROMPT_HOST": address.host,
        "HGPROMPT_PORT": str(address.port),
        "PYTHONUNBUFFERED": "1",
    }


def store_url(data_dir: Path) -> str:
    """The object store of a local deployment."""
    return _store_folder(data_dir).as_uri()


def _store_folder(data_dir: Path) -> Path:
    return data_dir.resolve() / "store"
