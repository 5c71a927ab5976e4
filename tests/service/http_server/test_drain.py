"""Closing connections so that no client loses an answer: a real server, a small application."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from service.http_server.drain import Drain, DrainingServer
from service.http_server.gentle_close import LINGER_S, CloseGently

DRAIN_S = 0.3


async def read(request: Request) -> JSONResponse:
    return JSONResponse(len(await request.body()))


async def refuse(_: Request) -> JSONResponse:
    return JSONResponse("too much", 413)


class Running:
    """The server, on a thread."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(),))
        self.thread.start()
        while True:
            try:
                self.connect().close()
            except ConnectionRefusedError:
                time.sleep(0.01)
            else:
                return

    async def _run(self) -> None:
        self.drain = Drain(DRAIN_S)
        app = Starlette(
            routes=[
                Route("/read", read, methods=["POST"]),
                Route("/refuse", refuse, methods=["PUT"]),
            ]
        )
        app.add_middleware(CloseGently, drain=self.drain)
        config = uvicorn.Config(
            app, port=self.port, http="httptools", ws="none", lifespan="off", log_config=None
        )
        await DrainingServer(config, self.drain).serve()

    def leave(self) -> None:
        self.loop.call_soon_threadsafe(self.drain.begin)

    def wait_until_it_leaves(self) -> None:
        begun = threading.Event()
        self.loop.call_soon_threadsafe(begun.set)  # after what `leave` asked for
        assert begun.wait(20)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def wait_until_it_refuses(self) -> None:
        while True:
            try:
                self.connect().close()
            except ConnectionRefusedError:
                return

    def block(self, seconds: float) -> None:
        """Take the processor from the server."""
        self.loop.call_soon_threadsafe(time.sleep, seconds)


@pytest.fixture
def server() -> Iterator[Running]:
    running = Running()
    yield running
    running.leave()
    running.thread.join(30)
    assert not running.thread.is_alive()
    running.loop.close()


def answer_on(connection: socket.socket) -> bytes:
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found


def test_an_answer_before_the_end_of_the_body_arrives_while_leaving(server: Running) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as client:
        client.connect()
        server.leave()
        server.wait_until_it_leaves()
        client.request("PUT", "/refuse", body=bytes(30_000_000))
        answer = client.getresponse()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert answer.read() == b'"too much"'


def test_a_client_that_sends_no_end_is_not_waited_for(server: Running) -> None:
    with server.connect() as client:
        server.leave()
        server.wait_until_it_leaves()
        began_s = time.monotonic()
        client.sendall(b"PUT /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1")
        assert answer_on(client).endswith(b'"too much"')
    assert LINGER_S <= time.monotonic() - began_s < LINGER_S + 10


def test_a_request_that_came_in_time_is_read_by_a_server_that_could_not_run(
    server: Running,
) -> None:
    with server.connect() as client:
        server.leave()
        server.wait_until_it_refuses()
        server.block(1.5)  # longer than a silent connection is waited for
        client.sendall(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert answer_on(client).endswith(b"\r\n\r\n3")


def test_connections_that_nobody_has_accepted_are_answered(server: Running) -> None:
    server.leave()
    server.block(1.0)
    clients = [server.connect() for _ in range(20)]  # the kernel makes them
    for client in clients:
        client.sendall(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
    for client in clients:
        with client:
            assert answer_on(client).endswith(b"\r\n\r\n3")


def test_whoever_comes_while_it_stops_is_refused_and_not_reset(server: Running) -> None:
    server.leave()
    refused = 0
    deadline_s = time.monotonic() + 20
    while not refused:
        try:
            with server.connect() as client:
                client.sendall(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
                assert b" 200 " in answer_on_one(client)
        except ConnectionRefusedError:
            refused += 1
        assert time.monotonic() < deadline_s


def answer_on_one(client: socket.socket) -> bytes:
    """What has come by the end of an answer on a connection that stays, or by its end."""
    found = b""
    while not found.endswith(b"\r\n\r\n3") and (piece := client.recv(65536)):
        found += piece
    return found


@pytest.mark.parametrize("last", [b"HTTP/1.1\r\nConnection: close", b"HTTP/1.0"])
def test_neither_does_an_answer_get_lost_whose_client_wants_no_other(
    server: Running, last: bytes
) -> None:
    head = b"PUT /refuse " + last + b"\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n"
    with server.connect() as client:
        client.sendall(head + bytes(30_000_000))
        assert answer_on(client).endswith(b'"too much"')
