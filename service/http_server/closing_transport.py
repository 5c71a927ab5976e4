"""Closing connections whose clients do not read."""

import asyncio
from typing import Any


class ClosingTransport:
    """A transport that, once closed, does not wait for its client for ever.

    To close a connection is to write first what it still has to write; a client that reads nothing
    of its last answers would keep it open, and the process from leaving. So it is given a while.

    Args:
        transport: Of the event loop; used for everything else.
        loop: The event loop.
        patience_s: How long the client may take to read what is left.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, patience_s: float
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._patience_s = patience_s
        self._giving_up: asyncio.TimerHandle | None = None
        self.write = transport.write  # often called

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Close when everything has been written, or after a while."""
        self._transport.close()
        if self._giving_up is None and self._transport.get_write_buffer_size():
            self._giving_up = self._loop.call_later(self._patience_s, self._transport.abort)

    def hurry(self, patience_s: float) -> None:
        """Wait no longer than this, from now on if it is closed already."""
        self._patience_s = min(self._patience_s, patience_s)
        if self._giving_up is not None:
            self.forget()
            self.close()

    def forget(self) -> None:
        """Do nothing more; the connection has ended."""
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
