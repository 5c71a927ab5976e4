"""What a peer's server is told, through one environment variable."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

VARIABLE = "HGPROMPT_BENCH_PEER"

Variant = Literal["a", "b", "c"]
VARIANTS: dict[Variant, str] = {
    "a": "one model per tenant",
    "b": "batch, then loop over its tenants",
    "c": "gather of prompts and heads by row",
}


class PeerJob(BaseModel):
    """How one server is to be set up.

    Attributes:
        variant: "a" one model per tenant, "b" batch then loop, "c" gather by row.
        num_tenants: Tenants to hold.
        port: To listen on, loopback only.
        tenants: File with their prompts and heads, made by `write_tenants`.
        max_batch_size: Of the peer's dynamic batching.
        max_wait_ms: How long it may wait for a batch to fill.
        workers: Processes that hold the model; in variant "a" one a tenant instead.
        threads: torch threads of each.
        decoders: Processes that only decode; 0 if the model's process decodes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Variant
    num_tenants: int
    port: int
    tenants: Path
    max_batch_size: int
    max_wait_ms: float
    workers: int
    threads: int
    decoders: int

    @classmethod
    def from_environment(cls) -> Self:
        """Read the job that the benchmark gave this process or one of its parents."""
        return cls.model_validate_json(os.environ[VARIABLE])
