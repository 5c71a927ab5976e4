"""What a disk may do to a stored file."""

from pathlib import Path


def leave_half(path: Path) -> None:
    """Leave the first half of a file, which the store has made read-only."""
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
