"""What a result depends on besides its input: machine, versions, commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

_PACKAGES = ("torch", "timm", "numpy", "scipy", "pillow")


class Machine(BaseModel):
    """Where a run was computed, and with what.

    Attributes:
        processor: Its name.
        num_cores: Of the processor.
        num_threads: Of torch.
        device: Name of the GPU, or "cpu".
        system: Operating system.
        versions: Of Python and of packages.
        commit: Of this checkout, with a plus if tracked files were changed; None outside one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    num_cores: int
    num_threads: int
    device: str
    system: str
    versions: dict[str, str]
    commit: str | None

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"{self.processor}, {self.num_cores} cores, torch threads: {self.num_threads}, "
            f"device {self.device}, {self.system}; {versions}"
        )


def describe_machine(device: torch.device) -> Machine:
    """Describe this machine and the code that runs on it."""
    cuda = device.type == "cuda"
    return Machine(
        processor=_processor(),
        num_cores=os.cpu_count() or 1,
        num_threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if cuda else "cpu",
        system=platform.platform(),
        versions={"python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
        commit=_commit(),
    )


def _processor() -> str:
    """The processor's own name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of this checkout, with a plus if tracked files were changed; None outside one."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603 - constants
                ["git", *arguments],  # noqa: S607 - wherever git is installed
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}+" if git("status", "--porcelain", "--untracked-files=no") else commit
