"""How much memory resident artifacts may take, where the settings leave it open."""

import os

import torch

GPU_SHARE = 0.5
"""Of the memory that is free once the backbone is loaded; the rest is for forward passes."""

CPU_SHARE = 0.25
"""Of the machine's memory."""


def default_device_bytes(device: torch.device) -> int:
    """Return a budget for the artifacts on a device; ask once the backbone is there."""
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(GPU_SHARE * free_bytes)
    return int(CPU_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
