"""Refusing what another web site has a browser send.

The service has no authentication and listens on loopback, which every page that is open in a
browser of this machine can reach. A form or a script of another site can send a request without
asking first, though not read the answer; so what changes something is refused. Browsers tell by a
header that pages cannot set (Fetch Metadata, W3C); other clients do not send it. Not covered: a
service that is reached over plain HTTP from another machine, where browsers do not tell, and a
site whose name is made to point at this machine (DNS rebinding).
"""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from prompt_store.names import shown
from service.errors import answer_error
from service.problems import problem_error

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = (None, "same-origin", "none")
"""Not a browser; a page of this service; the user, by the address bar."""


class RefuseCrossSite:
    """ASGI middleware: 403 for a request from another site or port, unless it only reads."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or answer it."""
        site = Headers(scope=scope).get("sec-fetch-site") if scope["type"] == "http" else None
        if site in _OWN or scope["method"] in _HARMLESS:
            await self._app(scope, receive, send)
            return
        refusal = problem_error(
            403,
            "cross-site-request",
            "Another web site may not change anything here",
            f"{scope['method']} with Sec-Fetch-Site: {shown(str(site))}",
            field="Sec-Fetch-Site",
            limit="same-origin",
        )
        response = await answer_error(Request(scope), refusal)
        await response(scope, receive, send)
