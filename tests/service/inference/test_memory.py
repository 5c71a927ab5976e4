import os
from pathlib import Path

import pytest
import torch

from service.inference.memory import (
    default_device_bytes,
    default_host_bytes,
    main_memory_bytes,
)

PHYSICAL_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max\n", PHYSICAL_BYTES),
        ("500000000\n", 500_000_000),
        ("9223372036854771712\n", PHYSICAL_BYTES),  # how version 1 says "no limit"
        (None, PHYSICAL_BYTES),
    ],
)
def test_a_container_has_the_memory_that_it_may_use(
    tmp_path: Path, text: str | None, expected: int
) -> None:
    limit = tmp_path / "memory.max"
    if text is not None:
        limit.write_text(text)
    assert main_memory_bytes([tmp_path / "absent", limit]) == expected


def test_by_default_artifacts_leave_most_of_the_memory_to_others() -> None:
    """On a CPU both places are the same memory."""
    cpu = torch.device("cpu")
    assert default_device_bytes(cpu) + default_host_bytes(cpu) <= PHYSICAL_BYTES / 4
    assert 0 < default_host_bytes(torch.device("cuda")) <= PHYSICAL_BYTES / 4


def test_what_start_up_set_aside_on_a_gpu_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1000]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.append(3000))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free[-1], 4000))
    assert default_device_bytes(torch.device("cuda")) == 1500
