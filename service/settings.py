"""Settings of the HTTP service, read from `HGPROMPT_…` environment variables."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal, Self

import joblib
from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from configuration.environment import EnvironmentSettings
from service.accelerators import has_nvidia_gpu
from service.host_names import canonical_host, is_loopback, is_unspecified

Role = Literal["all", "api", "classifier"]
Seconds = Annotated[float, Field(gt=0.0, le=3600.0)]
Bytes = Annotated[int, Field(ge=1, le=1 << 40)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]

MAX_AUTO_FRONTS = 32
"""More than these would not help: what they send takes all that one engine process can receive."""


class ServiceSettings(EnvironmentSettings):
    """How one service process listens, and how much it takes on.

    Attributes:
        role: "api" serves registry and fits, "classifier" classification, "all" both.
        host: Address to listen on; anything but loopback needs `allow_insecure_bind`.
        port: TCP port; 0 takes a free one.
        allow_insecure_bind: Listen beyond loopback although there is no authentication.
        allowed_hosts: Names and addresses that the `Host` of a request may have, beside those of
            loopback; none, while listening beyond loopback, allows any.
        log_level: Least severe level that is logged.
        max_batch_size: Images in one forward pass; 0 leaves it to `default_max_batch_size`.
        crowded_batch_size: Images in one forward pass while one ensemble crowds out others; 0
            leaves it to `default_crowded_batch_size`.
        max_queue: Images between admission and answer; beyond it 429.
        max_inflight_bytes: Bodies of classification requests in memory at once; beyond it 429.
        max_images_per_request: Images in one classification request.
        max_classify_body_bytes: Body of one classification request.
        max_image_bytes: One encoded image.
        max_image_pixels: Width times height of one image.
        max_prompt_bytes: Body of one prompt upload.
        max_task_bytes: Body of one task upload.
        max_sources: Source prompts that one fit may name; the fit itself keeps the best few.
        max_fit_bytes: Memory that a fit may take in a worker, as far as its request tells.
        request_deadline_s: A classification that takes longer is answered 504.
        body_idle_timeout_s: A body that pauses for longer is answered 408; a client that leaves its
            answer unread for longer is cut off, and so is a connection on which no request is
            running and nothing arrives.
        drain_s: After SIGTERM, how long new requests are still answered, each on its last
            connection, before the listening socket closes.
        shutdown_grace_s: After that, how long running requests may take, and then the engine.
        decode_threads: Threads that decode images.
        serving_precision: Arithmetic of the answers; "auto" takes bf16 where it is faster and
            decides as fp32 does.
        cuda_graphs: Whether a GPU replays captured passes at a few batch sizes.
        warm_up: Whether forward passes run before the service is ready.
        resident_device_bytes: Artifacts kept on the device while nobody uses them; 0 leaves it to
            `default_device_bytes`.
        resident_host_bytes: Artifacts that had to leave the device, kept in main memory; 0 for what
            `default_host_bytes` says.
        resolve_ttl_s: How long a bare ensemble name may answer with the version before the last,
            an alias with where it pointed before it was moved, and either after a deletion.
        upload_dir: Where uploads are spooled.
        device: Where the backbone runs, as `BackboneSettings` has it.
        front_processes: Processes that speak HTTP and decode, beside one that has the engine; 0 for
            one process that does everything; "auto" for half the cores (32 at most) where there is
            a GPU, and for 0 elsewhere.
        process_timeout_s: A process of this host that gives no sign of life for longer is replaced.
        runtime_dir: Where the processes of this host have a private folder with their sockets.
    """

    role: Role = "all"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    allow_insecure_bind: bool = False
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_batch_size: Annotated[int, Field(ge=0, le=4096)] = 0
    crowded_batch_size: Annotated[int, Field(ge=0, le=4096)] = 0
    max_queue: Count = 1024
    max_inflight_bytes: Bytes = 512_000_000
    max_images_per_request: Annotated[int, Field(ge=1, le=4096)] = 64
    max_classify_body_bytes: Bytes = 100_000_000
    max_image_bytes: Bytes = 20_000_000
    max_image_pixels: Annotated[int, Field(ge=1, le=1_000_000_000)] = 50_000_000
    max_prompt_bytes: Bytes = 16_000_000
    max_task_bytes: Bytes = 2_000_000_000
    max_sources: Annotated[int, Field(ge=1, le=1024)] = 1024
    max_fit_bytes: Bytes = 16_000_000_000
    request_deadline_s: Seconds = 10.0
    body_idle_timeout_s: Seconds = 30.0
    drain_s: Annotated[float, Field(ge=0.0, le=600.0)] = 1.0
    shutdown_grace_s: Seconds = 20.0
    decode_threads: Annotated[int, Field(ge=1, le=256)] = Field(default_factory=joblib.cpu_count)
    serving_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    cuda_graphs: bool = True
    warm_up: bool = True
    resident_device_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = 0
    resident_host_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = 0
    resolve_ttl_s: Annotated[float, Field(ge=0.0, le=1.0)] = 0.25
    upload_dir: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()))
    device: Literal["auto", "cpu", "cuda"] = "auto"
    front_processes: Literal["auto"] | Annotated[int, Field(ge=0, le=256)] = "auto"
    process_timeout_s: Annotated[float, Field(ge=0.5, le=600.0)] = 5.0
    runtime_dir: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()))

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",")) if value.strip() else ()

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts_without_port(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(canonical_host, hosts))

    @model_validator(mode="after")
    def _only_loopback_is_safe(self) -> Self:
        if not self.allow_insecure_bind and not is_loopback(self.host):
            raise ValueError(
                f"HGPROMPT_HOST={self.host} is not a loopback address and the service has no "
                "authentication: anyone who reaches it may read and delete everything; set "
                "HGPROMPT_ALLOW_INSECURE_BIND=true if only trusted clients can reach it"
            )
        return self

    @model_validator(mode="after")
    def _fronts_need_linux(self) -> Self:
        if self.num_fronts and sys.platform != "linux":
            raise ValueError(
                f"HGPROMPT_FRONT_PROCESSES={self.num_fronts} needs Linux (memfd_create, prctl); "
                f"this is {sys.platform}"
            )
        return self

    @model_validator(mode="after")
    def _folders_can_be_written_to(self) -> Self:
        used = {
            "HGPROMPT_UPLOAD_DIR": (self.upload_dir, self.serves_api),
            "HGPROMPT_RUNTIME_DIR": (self.runtime_dir, self.has_fronts),
        }
        for variable, (folder, is_used) in used.items():
            if is_used and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
                raise ValueError(f"{variable}={folder} is not a folder that can be written to")
        return self

    @property
    def checks_hosts(self) -> bool:
        """Whether a request must name a host of loopback, or one of `known_hosts`."""
        return is_loopback(self.host) or bool(self.allowed_hosts)

    @property
    def known_hosts(self) -> tuple[str, ...]:
        """What a request may name beside loopback: `allowed_hosts`, and the address listened on."""
        own = () if is_unspecified(self.host) else (canonical_host(self.host),)
        return (*self.allowed_hosts, *own)

    @property
    def has_fronts(self) -> bool:
        """Whether HTTP and the engine are in processes of their own."""
        return self.num_fronts > 0 and self.classifies

    @property
    def num_fronts(self) -> int:
        """Front processes: what was asked for, or what suits this machine."""
        if self.front_processes != "auto":
            return self.front_processes
        if self.device == "cpu" or sys.platform != "linux" or not has_nvidia_gpu():
            return 0
        return min(max(1, joblib.cpu_count() // 2), MAX_AUTO_FRONTS)

    @property
    def serves_api(self) -> bool:
        """Whether registry and fits are served."""
        return self.role in ("all", "api")

    @property
    def classifies(self) -> bool:
        """Whether classification is served."""
        return self.role in ("all", "classifier")
