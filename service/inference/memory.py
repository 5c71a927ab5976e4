"""How much memory resident artifacts may take, where the settings leave it open."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

GPU_SHARE = 0.5
"""Of the memory that is free once the backbone is loaded; the rest is for forward passes."""

CPU_SHARE = 0.25
"""Of the machine's memory, or of what this container may use of it."""

_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Control groups, version 2 and 1, as a container sees its own."""


def default_device_bytes(device: torch.device) -> int:
    """Return a budget for the artifacts on a device; ask once the backbone is there."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what start-up has set aside and uses no more is free
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(GPU_SHARE * free_bytes)
    return int(CPU_SHARE * main_memory_bytes())


def default_host_bytes(device: torch.device) -> int:
    """Return a budget for artifacts that left the device.

    None on a CPU: its device is main memory already, and moving frees nothing.
    """
    return 0 if device.type == "cpu" else int(CPU_SHARE * main_memory_bytes())


def main_memory_bytes(limits: Sequence[Path] = _CONTAINER_LIMITS) -> int:
    """Return how much main memory there is for this process.

    Args:
        limits: Files that may hold a lower number of bytes.
    """
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    texts = [path.read_text().strip() for path in limits if path.is_file()]
    return min([physical, *(int(text) for text in texts if text.isdigit())])
