"""Which backbone is measured, where and by which command."""

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version

from backbones.info import LoadedBackbone
from backbones.settings import BackboneSettings
from benchmarks.reporting.machine import describe_machine
from benchmarks.serving.records import Backbone, Provenance

OFFLINE = "offline-vit-s14"
LARGE = "random:vit_small_patch14_dinov2?seed=0&img_size=224&depth=11"
BASE = "random:vit_base_patch16_224?seed=0"
LABELS = {"84px": OFFLINE, "224px": LARGE, "vit-b16": BASE}
"""The offline backbone, one of the same architecture at the usual input size, and one that takes a
GPU."""


@dataclass(frozen=True)
class Measured:
    """A backbone to measure.

    Attributes:
        label: One of `LABELS`, or a setting `HGPROMPT_BACKBONE` as it is.
        precision: "fp32" or "bf16".
    """

    label: str
    precision: str

    @property
    def spec(self) -> str:
        """The setting `HGPROMPT_BACKBONE`."""
        return LABELS.get(self.label, self.label)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a server loads this backbone."""
        return {
            "HGPROMPT_BACKBONE": self.spec,
            "HGPROMPT_PRECISION": self.precision,  # of the peers, as of everything in a bare loop
            "HGPROMPT_SERVING_PRECISION": self.precision,
        }

    @cached_property
    def loaded(self) -> LoadedBackbone:
        """The backbone in this process; `HGPROMPT_DEVICE` and the cache are the caller's."""
        values = {"backbone": self.spec, "precision": self.precision}
        return BackboneSettings.model_validate({**BackboneSettings().model_dump(), **values}).load()

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda"."""
        return self.loaded.vit.device.type

    @property
    def record(self) -> Backbone:
        """What is written down about it."""
        return Backbone(
            label=self.label,
            spec=self.spec,
            precision=self.precision,
            image_size_px=self.loaded.info.image_size_px,
        )

    def provenance(self) -> Provenance:
        """Describe this run."""
        machine = describe_machine(self.loaded.vit.device)
        versions = {name: version(name) for name in ("uvicorn", "starlette", "uvloop")}
        return Provenance(
            command=" ".join(["python", "-m", "benchmarks.serving", *sys.argv[1:]]),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine.model_copy(update={"versions": machine.versions | versions}),
            device=self.device,
        )
