"""Settings of the backbone, read from `HGPROMPT_…` environment variables."""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from backbones.errors import DeviceUnavailableError
from backbones.info import LoadedBackbone
from backbones.loading import load_backbone
from configuration.environment import EnvironmentSettings


class BackboneSettings(EnvironmentSettings):
    """Which backbone, where it runs and in which arithmetic fits use it.

    `precision` is that of everything that learns: fits and the training of prompts.
    The service does not look at it and has a setting of its own, because answers may be computed
    in less precision than what they are learned in.
    """

    backbone: str = Field(default="offline-vit-s14", min_length=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    cache_dir: Path = Field(default_factory=lambda: Path.home() / ".cache" / "hgprompt")

    def torch_device(self) -> torch.device:
        """Return the device to run on; "auto" takes a GPU where there is one.

        Raises:
            DeviceUnavailableError: "cuda" was asked for and torch finds no GPU.
        """
        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise DeviceUnavailableError("HGPROMPT_DEVICE=cuda, but torch finds no GPU here")
        if self.device == "auto":
            return torch.device("cuda" if available else "cpu")
        return torch.device(self.device)

    def load(self) -> LoadedBackbone:
        """Load the backbone these settings name."""
        return load_backbone(
            self.backbone,
            cache_dir=self.cache_dir,
            device=self.torch_device(),
            precision=self.precision,
        )
