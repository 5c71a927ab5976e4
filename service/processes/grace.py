"""How long the processes of a host may take to end."""

from service.settings import ServiceSettings

MARGIN_S = 5.0
"""What a child gets beyond its own deadlines before it is killed."""


def fronts_grace_s(settings: ServiceSettings) -> float:
    """Return how long fronts may take from SIGTERM to their end."""
    return settings.drain_s + settings.shutdown_grace_s + MARGIN_S


def engine_grace_s(settings: ServiceSettings) -> float:
    """Return how long the engine may take once the fronts are gone."""
    return settings.shutdown_grace_s + MARGIN_S
