"""Worker processes whose handler does what the ensemble's name says; it logs each run to a file.

Run as a script it takes orders on stdin, one JSON object a line, and answers each with a line:
`{"start": env, "stderr": path}` forks a worker and answers its pid; `{"poll": pid}` answers the
worker's exit code, or null while it runs. Forking saves every worker the second that imports take.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

from jobs.context import FitContext
from jobs.ensembles import EnsembleStore
from jobs.errors import FitRefusedError, FitStoppedError
from jobs.records import FitResultDocs
from jobs.settings import DeploymentSettings
from jobs.worker import run_worker, stop_on_signals
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.objects import open_object_store


class TaskTooSmallError(ValueError):
    """Raised by the handler with a message for users."""


def note(what: str, context: FitContext) -> None:
    line = f"{what} {context.request.fit_id} {context.attempt} {os.getpid()} {time.time()}\n"
    with Path(os.environ["FIT_LOG"]).open("a") as log:
        log.write(line)


def docs(context: FitContext) -> FitResultDocs:
    artifact = f"{context.request.fit_id} {context.attempt}".encode()
    return FitResultDocs(artifact, {"attempt": context.attempt, "seed": context.request.seed})


def handle(context: FitContext) -> FitResultDocs:
    note("begin", context)
    BEHAVIOURS[context.request.name.partition("-")[0]](context)
    note("end", context)
    return docs(context)


def quick(context: FitContext) -> None:
    context.report_progress("features", 1, 1)
    context.report_progress("weights", 5, 10, weights={"fashion": 1.0}, objective=0.5)


def slow(context: FitContext) -> None:
    """Take `seed` milliseconds, willing to stop."""
    deadline = time.monotonic() + context.request.seed / 1000
    while time.monotonic() < deadline:
        if context.should_stop():
            note(f"stop:{context.stop_reason}", context)
            raise FitStoppedError
        context.report_progress("tuning", 1, 2)
        time.sleep(0.01)


def deaf(context: FitContext) -> None:
    """Take `seed` milliseconds, whatever happens."""
    time.sleep(context.request.seed / 1000)


def poison(_: FitContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refused(_: FitContext) -> None:
    raise FitRefusedError("too-few-images", "Too few images", "1 image, at least 2 are needed")


def small(_: FitContext) -> None:
    raise TaskTooSmallError("1 image, at least 2 are needed")


def bug(_: FitContext) -> None:
    raise KeyError("secret")


def exhausted(_: FitContext) -> None:
    next(iter(()))


BEHAVIOURS = {
    behaviour.__name__: behaviour
    for behaviour in (quick, slow, deaf, poison, refused, small, bug, exhausted)
}


async def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    settings = DeploymentSettings()
    objects = open_object_store(settings.store_url)
    store = EnsembleStore(
        objects,
        BlobStore(objects),
        utc_now,
        max_attempts=settings.max_attempts,
    )
    stopping = asyncio.Event()
    stop_on_signals(stopping)
    await run_worker(handle, store, settings, stopping=stopping, expected=(TaskTooSmallError,))


def start(env: dict[str, str], stderr: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ.update(env)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    code = 1
    try:
        asyncio.run(main())
        code = 0
    except BaseException:
        logging.getLogger(__name__).exception("the worker failed")
    finally:
        os._exit(code)


def poll(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def take_orders() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        forks = "start" in order
        answer = start(order["start"], order["stderr"]) if forks else poll(order["poll"])
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    take_orders()
