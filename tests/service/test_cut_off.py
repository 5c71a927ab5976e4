"""Requests that outlast the grace period: a real server, a small application."""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from service.cut_off import AnswerCutOff
from service.http_server.drain import Drain, DrainingServer

PROBLEM = b'"type": "urn:hgprompt:problem:not-serving"'


async def read(request: Request) -> JSONResponse:
    return JSONResponse(len(await request.body()))


async def begin(request: Request) -> StreamingResponse:
    return StreamingResponse(request.stream())


class Running:
    """The server, on a thread."""

    def __init__(self) -> None:
        self.drain = Drain(0.1)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(),))
        self.thread.start()

    async def _run(self) -> None:
        routes = [
            Route("/v1/read", read, methods=["PUT"]),
            Route("/v2/read", read, methods=["PUT"]),
            Route("/v1/begin", begin, methods=["PUT"]),
        ]
        app = Starlette(routes=routes)
        app.add_middleware(AnswerCutOff, drain=self.drain)
        config = uvicorn.Config(
            app, http="httptools", ws="none", lifespan="off", timeout_graceful_shutdown=1
        )
        await DrainingServer(config, self.drain).serve(sockets=[self.listener])
        await asyncio.sleep(0.5)  # a process would end now, and its connections with it

    def begin_upload(self, path: str) -> socket.socket:
        connection = socket.create_connection(self.listener.getsockname(), timeout=60)
        head = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head.encode() + b"1")
        return connection

    def leave(self) -> None:
        self.loop.call_soon_threadsafe(self.drain.begin)


@pytest.fixture
def server() -> Iterator[Running]:
    running = Running()
    yield running
    running.leave()
    running.thread.join(60)
    assert not running.thread.is_alive()
    running.loop.close()


@pytest.mark.parametrize(
    ("path", "said"), [("/v1/read", PROBLEM), ("/v2/read", b'{"error":"the service stopped before')]
)
def test_what_does_not_end_in_time_is_told_to_come_again(
    server: Running, path: str, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with server.begin_upload(path) as client, client.makefile("rb") as answers:
        server.leave()
        answer = answers.read()
    assert answer.startswith(b"HTTP/1.1 503 "), answer
    assert b"\r\nretry-after: 5\r\n" in answer
    assert said in answer
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [record for record in told if record.exc_info]
    assert "request failed: the service stopped before" in caplog.text


def test_an_answer_that_has_begun_is_not_answered_again(server: Running) -> None:
    with server.begin_upload("/v1/begin") as client, client.makefile("rb") as answers:
        assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
        server.leave()
        assert b"HTTP/1.1" not in answers.read()
