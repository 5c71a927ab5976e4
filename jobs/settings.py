"""Where the deployment's two shared parts are, and how patient its workers are."""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from redis.asyncio.connection import parse_url

from configuration.environment import SECRET, EnvironmentSettings

Seconds = Annotated[float, Field(gt=0.0, le=86_400.0)]


class DeploymentSettings(EnvironmentSettings):
    """Settings that the service and the workers of one deployment must agree on.

    Attributes:
        redis_url: `unix:///path.sock`, `redis://host:port/db` or `rediss://…`.
        store_url: The object store, e.g. `file:///var/lib/hgprompt`.
        lease_s: A worker silent for this long has lost its fit to another one.
        heartbeat_s: A running fit reports this often, and notices a cancel within it.
        max_attempts: A fit that killed this many workers is declared dead.
        sweep_interval_s: How often unfinished fits that nobody holds are queued again.
        fit_stop_grace_s: How long a running fit may take to stop when it is told to, before its
            worker exits without it.
        redis_timeout_s: The longest that one exchange with Redis may take.
        progress_ttl_s: How long the event stream of a fit outlives its last event.
    """

    redis_url: Annotated[str, SECRET] = "redis://127.0.0.1:6379/0"
    store_url: str = "file:///var/lib/hgprompt"
    lease_s: Seconds = 30.0
    heartbeat_s: Seconds = 1.5
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    sweep_interval_s: Seconds = 10.0
    fit_stop_grace_s: Seconds = 20.0
    redis_timeout_s: Seconds = 2.0
    progress_ttl_s: Seconds = 86_400.0

    @field_validator("redis_url")
    @classmethod
    def _understood_by_redis(cls, url: str) -> str:
        try:
            parse_url(url)
        except ValueError:  # whose message may quote a part of the password
            raise ValueError(
                "is not of the form redis://:password@host:6379/0, rediss://… or "
                "unix:///path.sock; special characters of a password must be percent-encoded"
            ) from None
        return url

    @model_validator(mode="after")
    def _beats_fit_into_the_lease(self) -> Self:
        # A fit is run again only after two heartbeats were missed on top of an expired lease.
        if self.heartbeat_s > self.lease_s / 8:
            raise ValueError(
                f"HGPROMPT_HEARTBEAT_S={self.heartbeat_s:g} must be at most an eighth of "
                f"HGPROMPT_LEASE_S={self.lease_s:g}"
            )
        return self
