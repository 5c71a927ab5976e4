"""A parser of HTTP requests for which a wish to upgrade changes nothing.

RFC 9110, section 7.8: a server may ignore `Upgrade` and answer as if it were not there. httptools
takes what follows such a head for another protocol, so the body of the request is lost: Java's
client and `curl --http2` ask for HTTP/2 with their first request, whatever its method.
"""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""Headers, in lower case, that say where a request ends."""


class RequestParser(httptools.HttpRequestParser):
    """Hands over to another parser, which knows of no upgrade, where httptools would stop.

    Args:
        callbacks: Called by httptools.
        told: Told of each request; its `parser` is set to the next one.
    """

    def __init__(self, callbacks: object, told: HttpToolsProtocol) -> None:
        super().__init__(callbacks)
        self._told = told
        # As uvicorn has it: a request behind one that closes the connection spoils no answer.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """Parse what has arrived."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            self._successor().feed_data(rest)

    def _successor(self) -> "RequestParser":
        """Begin a parser that is in the middle of the newest request, behind its head."""
        body_only = _BodyOnly(self._told)
        self._told.parser = successor = RequestParser(body_only, self._told)
        framing = b"".join(
            b"%b: %b\r\n" % header for header in self._told.headers if header[0] in FRAMING
        )
        successor.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
        body_only.is_priming = False
        return successor


class _BodyOnly:
    """Passes on all but the head of the first request."""

    def __init__(self, told: HttpToolsProtocol) -> None:
        self.is_priming = True
        self._told = told
        self.on_body = told.on_body
        self.on_message_complete = told.on_message_complete

    def on_message_begin(self) -> None:
        if not self.is_priming:
            self._told.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self.is_priming:
            self._told.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_priming:
            self._told.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.is_priming:
            self._told.on_headers_complete()
