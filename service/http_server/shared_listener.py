"""Accepting connections from a socket that several processes listen on.

An event loop accepts whatever has connected as soon as it looks, so of a hundred clients that
connect at once one process may get nearly all, for as long as they stay. Here a process accepts one
connection and then goes on with its other work: meanwhile the others have their turn, and one that
is busy has it less often.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

logger = logging.getLogger(__name__)

RETRY_S = 1.0
"""So long nothing is accepted after that failed, for want of descriptors, say."""


class SharedListener:
    """Accepts from a bound socket, one connection at a time. Used on the event loop only.

    It has of `asyncio.Server` what uvicorn asks for.

    Args:
        listener: Bound; listens from now on.
        backlog: Connections that the kernel may queue.
        make_protocol: Called for each connection.
    """

    def __init__(
        self, listener: socket.socket, backlog: int, make_protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        self.sockets = (listener,)
        self._listener = listener
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._taking: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        listener.listen(backlog)
        self._listen()

    def close(self) -> None:
        """Accept no more; the socket stays as it is."""
        self._closed = True
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Wait until what has been accepted is in the hands of its protocol."""
        await asyncio.gather(*self._taking, return_exceptions=True)

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client is gone
        except OSError:
            logger.exception("a connection could not be accepted")
            self._loop.remove_reader(self._listener)
            self._loop.call_later(RETRY_S, self._listen)
            return
        task = self._loop.create_task(self._take(connection))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    async def _take(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:
            connection.close()  # it broke off before it began
