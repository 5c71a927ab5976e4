"""uvicorn's HTTP protocol, bounded where uvicorn's is not: headers, silence, requests at once."""

import asyncio
import socket
from collections import deque
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.http_server.closing_transport import ClosingTransport
from service.http_server.request_parser import RequestParser
from service.problems import MEDIA_TYPE, Problem

MAX_OVERHEAD_BYTES = 1 << 16
"""How much a client may send that is neither a whole header nor a part of a body."""

LINGER_S = 2.0
"""How long to read on after a refusal: to close on what still arrives would take it back."""

UNREAD_S = 5.0
"""While the process is leaving: how long a client may take to read the end of its answers."""

UNSENT_BYTES = 1 << 16
"""How much of an answer the kernel may keep that it has not sent."""

MAX_UNANSWERED = 17
"""How many requests a connection may have at once: one that is running, the others wait for it."""

HANG_UP = "hgprompt.hang_up"
"""Where in the scope of a request the application finds how to end its connection."""


HEADERS_TOO_LARGE = Problem(
    431,
    "headers-too-large",
    "The headers are too large",
    f"the headers have more than {MAX_OVERHEAD_BYTES} bytes",
    {"field": "headers", "limit": MAX_OVERHEAD_BYTES},
)


class BoundedProtocol(HttpToolsProtocol):
    """Holds no connection for ever, nor headers or requests without end.

    A connection on which no request is running, and on which nothing arrives for a while, is
    closed: it may have sent nothing, half a header, or the body of a request that was answered
    before it had come. uvicorn closes those only that have sent nothing since an answer.

    A client that sends requests faster than it gets answers loses its connection: uvicorn would
    keep what it sends.

    Args:
        idle_timeout_s: How long nothing may arrive.
        rest: Of uvicorn.
    """

    def __init__(self, *, idle_timeout_s: float, **rest: Any) -> None:
        super().__init__(**rest)
        self.parser = RequestParser(self, self)
        self._idle_timeout_s = idle_timeout_s
        self._overhead_bytes = 0
        self._has_refused = False
        self._unanswered: deque[RequestResponseCycle] = deque()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        self._closing = ClosingTransport(transport, self.loop, self._idle_timeout_s)
        super().connection_made(cast("asyncio.Transport", self._closing))
        _report_what_leaves(transport)
        self._wait(self._idle_timeout_s)

    def eof_received(self) -> None:
        """Close, as the event loop would, but not for ever."""
        self.transport.close()

    def shutdown(self) -> None:
        """Close when the requests that are running have been answered."""
        self._closing.hurry(UNREAD_S)
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Take what arrived; the connection ends if it leads to nothing."""
        if self._has_refused:
            return
        self._overhead_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self._has_refused:
            return
        if self._overhead_bytes > MAX_OVERHEAD_BYTES:
            self._refuse(HEADERS_TOO_LARGE)
        elif not self._is_running():
            self._wait(self._idle_timeout_s)
        elif self.pipeline and len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()  # or nobody would see that the client leaves

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request; uvicorn tells the newest, which may not even run."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        self._closing.forget()

    def on_message_begin(self) -> None:
        """Give the application of each request the means to end its connection."""
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[HANG_UP] = self.transport.abort

    def on_headers_complete(self) -> None:
        """Begin to count again; the request runs at once, or when those before it are answered."""
        self._overhead_bytes = 0
        if len(self._unanswered) >= MAX_UNANSWERED:
            self.transport.abort()
            raise httptools.HttpParserError  # so that the rest is not parsed
        super().on_headers_complete()
        self._unanswered.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Begin to count again."""
        self._overhead_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Leave it to the next parser if a head ends here that wishes to upgrade."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        self._unanswered.popleft()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        if not self.transport.is_closing():
            self._refuse(Problem(400, "bad-request", "The request cannot be served", msg))

    def _should_upgrade(self) -> bool:
        """Whether to speak WebSocket."""
        return False

    def _is_running(self) -> bool:
        """Whether a request has no answer yet; then its application sees to its time."""
        return bool(self._unanswered)

    def _wait(self, timeout_s: float) -> None:
        """Close the connection after a while."""
        self.timeout_keep_alive_task = self.loop.call_later(
            timeout_s, self.timeout_keep_alive_handler
        )

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem, or end the connection if an answer is under way."""
        if self._is_running():
            self.transport.abort()
            return
        body = bytes(problem.response().body)
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
            f"Content-Type: {MEDIA_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        self._has_refused = True
        self.transport.write(head.encode("ascii") + body)
        self.transport.write_eof()
        self._wait(LINGER_S)


def _report_what_leaves(transport: asyncio.Transport) -> None:
    """Let the kernel ask for more whenever a little has left.

    Else it asks when a third of its buffer is empty, which may be a megabyte: a client that reads
    slowly but steadily would seem to read nothing.
    """
    connection: socket.socket = transport.get_extra_info("socket")
    if hasattr(socket, "TCP_NOTSENT_LOWAT") and connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
