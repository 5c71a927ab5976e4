"""`python -m service` with front processes: the parent of the fronts and of the engine."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from prompt_store.scratch import remove_leftovers, scratch_folder
from service.http_server.listeners import drop_newcomers
from service.processes.assignment import ENGINE, front_name
from service.processes.child import SILENT_BEATS, ChildSpec, python_module
from service.processes.grace import engine_grace_s, fronts_grace_s
from service.processes.restarts import RestartPolicy
from service.processes.supervisor import GaveUpError, Supervisor
from service.settings import ServiceSettings

logger = logging.getLogger(__name__)

FRONT_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "TOKIO_WORKER_THREADS": "2"}
"""A front multiplies no matrices and asks little of the store, yet NumPy's library and the store's
would start a thread for each processor in every one: with 32 processors more than a thousand."""

MAX_SOCKET_PATH_BYTES = 107  # sun_path of <sys/un.h>, with its zero


def supervise(settings: ServiceSettings) -> int:
    """Run fronts and engine until SIGTERM; returns the exit status.

    The listening sockets are bound here, once, so that a port that is in use is noticed before
    anything is loaded, and none of a dead front's connections is refused.
    """
    with ExitStack() as stack:
        remove_leftovers(settings.runtime_dir)
        folder = stack.enter_context(scratch_folder(settings.runtime_dir))
        longest = len(bytes(folder / front_name(settings.num_fronts))) + len(".statistics")
        if longest > MAX_SOCKET_PATH_BYTES:
            sys.exit(
                f"service: runtime_dir={settings.runtime_dir} is too long for the path of a "
                f"socket: {longest} bytes, the limit is {MAX_SOCKET_PATH_BYTES}"
            )
        try:
            listeners = [stack.enter_context(each) for each in bound(settings.host, settings.port)]
        except OSError as error:
            sys.exit(f"service: cannot listen on {settings.host}:{settings.port}: {error}")
        try:
            asyncio.run(_run(settings, folder, listeners))
        except GaveUpError as error:
            logger.critical("gave up: %s", error)
            return 1
    return 0


def bound(host: str, port: int) -> list[socket.socket]:
    """Bind every address of a host, without listening yet.

    Raises:
        OSError: One of them cannot be bound, or the host is unknown.
    """
    sockets: list[socket.socket] = []
    with ExitStack() as undo:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = undo.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            sockets.append(listener)
        undo.pop_all()
    return sockets


async def _run(settings: ServiceSettings, folder: Path, listeners: Sequence[socket.socket]) -> None:
    beat_s = settings.process_timeout_s / (SILENT_BEATS + 1)
    supervisor = Supervisor(
        [_fronts(settings, listeners), [_engine(settings)]],
        str(folder),
        beat_s=beat_s,
        policy=RestartPolicy(),
    )

    hurry = asyncio.Event()
    leaving = asyncio.create_task(_stop_listening(supervisor, hurry, listeners, settings.drain_s))

    def stop() -> None:
        if supervisor.stopping.is_set():
            hurry.set()
        supervisor.stop()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop)
    port = listeners[0].getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        await supervisor.run(
            lambda: logger.info(
                "serving on http://%s:%d with %d fronts", host, port, settings.num_fronts
            )
        )
    finally:
        hurry.set()
        await leaving


async def _stop_listening(
    supervisor: Supervisor,
    hurry: asyncio.Event,
    listeners: Sequence[socket.socket],
    drain_s: float,
) -> None:
    """Keep newcomers out once the fronts have drained; they take over whoever has connected."""
    await supervisor.stopping.wait()
    with suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            await hurry.wait()
    for listener in listeners:
        drop_newcomers(listener)
        listener.close()


def _fronts(settings: ServiceSettings, listeners: Sequence[socket.socket]) -> list[ChildSpec]:
    grace_s = fronts_grace_s(settings)
    descriptors = tuple(listener.fileno() for listener in listeners)
    program = python_module("service.processes.front")
    return [
        ChildSpec(front_name(index), program, grace_s, descriptors, FRONT_ENVIRONMENT)
        for index in range(settings.num_fronts)
    ]


def _engine(settings: ServiceSettings) -> ChildSpec:
    program = python_module("service.processes.engine")
    return ChildSpec(ENGINE, program, engine_grace_s(settings))
