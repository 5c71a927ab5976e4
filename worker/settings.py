"""Settings of the worker that it shares with no other process."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from configuration.environment import EnvironmentSettings


class WorkerSettings(EnvironmentSettings):
    """How a worker process runs.

    Attributes:
        num_threads: CPU threads of torch; 0 = one for each processor that it may use.
        log_level: Least severe level that is logged.
        metrics_host: Address on which Prometheus metrics are served.
        metrics_port: TCP port for them; 0 serves none.
    """

    model_config = SettingsConfigDict(env_prefix="HGPROMPT_WORKER_")

    num_threads: Annotated[int, Field(ge=0, le=1024)] = 0
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 0
