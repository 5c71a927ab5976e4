"""Whether there is a GPU, for those who do without torch."""

from pathlib import Path

NVIDIA_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""What NVIDIA's driver shows on Linux, and under Windows' Subsystem for Linux."""


def has_nvidia_gpu() -> bool:
    """Return whether the driver of an NVIDIA GPU is here."""
    return any(device.exists() for device in NVIDIA_DEVICES)
