"""A server that answers from a script, and stand-ins for the two processes that `up` starts."""

import json
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import pytest

from client.api import Client
from client.cli import main
from client.transport import RetryPolicy

Eventually = Callable[[Callable[[], bool], str], None]
Command = tuple[str, ...]

TASK = {
    "name": "pets",
    "version": 1,
    "digest": "sha256:cc",
    "size_bytes": 4,
    "created_at": "2026-01-02T03:04:05Z",
    "format": "zip",
    "classes": ["cat", "dog"],
    "counts": [1, 1],
    "num_images": 2,
}


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@dataclass
class Received:
    """One request as it came over the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class ScriptedServer:
    """Answers each connection with the next bytes of the script, after `delay_s`, and closes it."""

    url: str
    script: list[bytes] = field(default_factory=list[bytes])
    received: list[Received] = field(default_factory=list[Received])
    delay_s: float = 0.0

    def will_answer(self, body: object, status: int = 200, **headers: str) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"Content-Length: {len(text.encode())}",
        ]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.script.append("\r\n".join([*lines, "Connection: close", "", text]).encode())

    def will_hang_up(self) -> None:
        self.script.append(b"")

    def will_stream(self, *events: str) -> None:
        """Server-sent events; the connection breaks after the last one."""
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = [f"{len(event.encode()):x}\r\n{event}\r\n" for event in events]
        self.script.append(head + "".join(chunks).encode())


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            received = read_request(self.rfile)
            if received is not None:
                scripted.received.append(received)
                time.sleep(scripted.delay_s)
                with suppress(BrokenPipeError):  # the client has lost its patience
                    self.wfile.write(scripted.script.pop(0))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as tcp:
        scripted = ScriptedServer(f"http://127.0.0.1:{tcp.server_address[1]}")
        thread = threading.Thread(target=tcp.serve_forever, args=(0.01,))
        thread.start()
        yield scripted
        tcp.shutdown()
        thread.join()


def read_request(wire: BufferedIOBase) -> Received | None:
    first = wire.readline().decode().split()
    if not first:
        return None
    headers: dict[str, str] = {}
    while line := wire.readline().decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = wire.read(int(headers.get("content-length", "0")))
    return Received(first[0], first[1], headers, body)


@pytest.fixture
def pauses() -> list[float]:
    """The pauses that the client made between attempts, in seconds."""
    return []


@pytest.fixture
def api(server: ScriptedServer, pauses: list[float]) -> Iterator[Client]:
    retry = RetryPolicy(attempts=3, first_delay_s=0.5)
    with Client(server.url, timeout_s=5.0, retry=retry, sleep=pauses.append) as client:
        yield client


@pytest.fixture
def run(
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs the command line in this process, against the scripted server."""
    monkeypatch.setenv("HGPROMPT_URL", server.url)

    def command(*args: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["hgprompt", *map(str, args)])
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        code = exited.value.code
        if isinstance(code, str):  # what the interpreter does with it
            return Ran(1, out, err + code + "\n")
        return Ran(code or 0, out, err)

    return command


@pytest.fixture
def eventually() -> Eventually:
    """Waits until a condition holds; fails with its name if it does not come true."""

    def wait(holds: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + 30.0
        while not holds():
            if time.monotonic() > deadline_s:
                pytest.fail(f"did not happen: {what}")
            time.sleep(0.02)

    return wait


@pytest.fixture
def is_running() -> Callable[[int], bool]:
    """Whether a process exists and is more than a zombie that nobody has reaped yet."""

    def check(pid: int) -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    return check


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str, str], Command]:
    """Makes a command of some Python source."""

    def make(name: str, source: str) -> Command:
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        return (sys.executable, "-I", "-S", str(path))

    return make
