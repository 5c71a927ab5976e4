"""The service that the demo talks to: one of its own, or one that runs already."""

import shutil
import signal
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from client.api import Client
from client.deployment_view import DeploymentView
from client.errors import StartError
from client.up import Deployment, LocalOptions, local_deployment

CHECK_INTERVAL_S = 0.5


@dataclass(frozen=True)
class DemoService:
    """A service to talk to.

    Attributes:
        client: Connected to it.
        data_dir: The service's data, None if it is not ours.
    """

    client: Client
    data_dir: Path | None = None


@contextmanager
def running_service(url: str) -> Generator[DemoService]:
    """A service that runs already."""
    with Client(url) as client:
        yield DemoService(client)


@contextmanager
def own_service(
    console: Console, options: LocalOptions, *, verbose: bool
) -> Generator[DemoService]:
    """A service of our own; main thread only.

    Raises:
        StartError: If it cannot be started; also raised inside the block, wherever that is just
            waiting, when a process keeps dying.
    """
    with (
        DeploymentView(console, verbose=verbose) as view,
        local_deployment(options, view.hooks) as deployment,
    ):
        view.started()
        with _watched(deployment), Client(deployment.address.url) as client:
            yield DemoService(client, options.data_dir)
        view.stage("stopping the service")


@contextmanager
def temporary_folder(*, keep: bool) -> Generator[Path]:
    """A new folder, removed afterwards unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="hgprompt-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)


@dataclass
class _Watch:
    """Restarts dead children from a thread, while the main thread talks HTTP."""

    deployment: Deployment
    failure: StartError | None = None
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stopped.wait(CHECK_INTERVAL_S):
            try:
                self.deployment.supervisor.check()
            except StartError as exc:
                self.failure = exc
                _interrupt_main_thread()
                return


class _ChildGivenUp(BaseException):
    """Raised in the main thread by the signal that the watch sends to it."""


def _raise(signum: int, frame: FrameType | None) -> NoReturn:
    del signum, frame
    raise _ChildGivenUp


def _interrupt_main_thread() -> None:
    """Ends whatever the main thread waits for; a signal is the only thing that can."""
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGUSR1)


@contextmanager
def _watched(deployment: Deployment) -> Generator[None]:
    watch = _Watch(deployment)
    previous = signal.signal(signal.SIGUSR1, _raise)
    thread = threading.Thread(target=watch.run, name="watch", daemon=True)
    thread.start()
    try:
        yield
    except _ChildGivenUp:
        raise watch.failure or StartError("a process was given up") from None
    finally:
        watch.stopped.set()
        thread.join()
        signal.signal(signal.SIGUSR1, previous)
