"""A plain Starlette route that the metrics can tell from others."""

from starlette.routing import Match, Route
from starlette.types import Scope


class KnownRoute(Route):
    """Says which route it is, as FastAPI's own routes do; the metrics are kept by route."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as `Route` does, and leave the route in the scope."""
        match, child_scope = super().matches(scope)
        return match, {**child_scope, "route": self} if match is Match.FULL else child_scope
