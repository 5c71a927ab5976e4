"""Refusing what another web site has a browser send.

The service has no authentication and listens on loopback, which every page that is open in a
browser of this machine can reach. A form or a script of another site can send a request without
asking first, though not read the answer; so what changes something is refused. Browsers tell by
headers that pages cannot set: `Sec-Fetch-Site` (Fetch Metadata, W3C); where they do not send that,
being old or speaking plain HTTP with another machine, `Origin` (RFC 6454), which must then be the
one that the request is for. Other clients send neither.

To a site whose name is made to point at this machine (DNS rebinding) the browser takes the service
for that site itself, and lets its pages read too. It still sends their name as `Host`, which pages
cannot set either; so while the service is reached by loopback it answers to no other name.

Not covered: such a site, and a service that is reached from another machine, where any name may be
right unless those that are have been set.
"""

import re
from collections.abc import Collection
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from prompt_store.names import shown
from service.error_handler import answer_error
from service.host_names import canonical_host, is_loopback
from service.problems import problem_error

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = ("same-origin", "none")
"""A page of this service; the user, by the address bar."""

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]*)?")
"""An IPv6 address or what else there is, and a port (RFC 9110, 7.2)."""

_MAX_REMEMBERED = 64
"""Values of `Host`: clients keep theirs, so that a request costs a look instead of parsing."""


class RefuseUnknownHost:
    """ASGI middleware: 421 for a request whose `Host` is neither of loopback nor allowed.

    One without `Host`, as HTTP/1.0 may send it, comes from no browser and is passed on.

    Args:
        app: What answers.
        known: Names and addresses beside those of loopback, as `canonical_host` returns them.
    """

    def __init__(self, app: ASGIApp, known: Collection[str]) -> None:
        self._app = app
        self._known = frozenset(known)
        self._is_known = lru_cache(maxsize=_MAX_REMEMBERED)(self._look_at)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or answer it."""
        headers = scope["headers"] if scope["type"] == "http" else ()
        for name, value in headers:
            if name == b"host" and not self._is_known(value):
                await self._refuse(value.decode("latin-1"), scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _refuse(self, host: str, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = problem_error(
            421,
            "unknown-host",
            "The service does not answer to this name",
            f"Host: {shown(host)} is no name of loopback; if it is one of this service, add it "
            "to HGPROMPT_ALLOWED_HOSTS",
            field="Host",
            limit="localhost, *.localhost, 127.0.0.0/8, [::1] or one of HGPROMPT_ALLOWED_HOSTS",
        )
        response = await answer_error(Request(scope), refusal)
        await response(scope, receive, send)

    def _look_at(self, host: bytes) -> bool:
        name = _name(host.decode("latin-1"))
        if name is None:
            return False
        return name in self._known or name.endswith(".localhost") or is_loopback(name)


class RefuseCrossSite:
    """ASGI middleware: 403 for a request from another site or port, unless it only reads.

    Args:
        app: What answers.
        allowed: Names and addresses, as `canonical_host` returns them, whose pages are of this
            service although the request names another host, as behind a proxy.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str] = ()) -> None:
        self._app = app
        self._allowed = frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or answer it."""
        found = None
        if scope["type"] == "http" and scope["method"] not in _HARMLESS:
            found = self._foreign(Headers(scope=scope))
        if found is None:
            await self._app(scope, receive, send)
            return
        header, value = found
        refusal = problem_error(
            403,
            "cross-site-request",
            "Another web site may not change anything here",
            f"{scope['method']} with {header}: {shown(value)}",
            field=header,
            limit="same-origin",
        )
        response = await answer_error(Request(scope), refusal)
        await response(scope, receive, send)

    def _foreign(self, headers: Headers) -> tuple[str, str] | None:
        """The header that tells of another site; `Origin` where the better one is missing."""
        site = headers.get("sec-fetch-site")
        if site is not None:
            return None if site in _OWN else ("Sec-Fetch-Site", site)
        host = headers.get("host", "")
        foreign = (each for each in headers.getlist("origin") if not self._is_own(each, host))
        return next((("Origin", origin) for origin in foreign), None)

    def _is_own(self, origin: str, host: str) -> bool:
        """Say whether an origin, such as `http://localhost:8000`, is that of a request."""
        authority = origin.partition("://")[2].lower()
        return authority == host.lower() != "" or _name(authority) in self._allowed


def _name(authority: str) -> str | None:
    """A host without its port in the form in which it is compared; None if it is no host."""
    parts = _HOST.fullmatch(authority)
    try:
        return canonical_host(parts[1] or parts[2]) if parts else None
    except ValueError:
        return None
