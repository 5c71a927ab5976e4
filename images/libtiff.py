"""libtiff, with which Pillow reads TIFF images, writes what it dislikes to stderr by itself."""

import ctypes
from pathlib import Path

_MAPPED_FILES = Path("/proc/self/maps")


def silence_libtiff() -> None:
    """Keep libtiff from writing to stderr, once `PIL.Image` is loaded and libtiff with it.

    For a damaged fax-coded image it writes a line for every row of pixels, past the log and its
    format: an upload of 180 kB wrote 3.6 MB. Nothing is lost, Pillow raises what went wrong. On
    systems without `/proc` this does nothing.
    """
    if not _MAPPED_FILES.exists():
        return
    lines = _MAPPED_FILES.read_text(encoding="utf-8").splitlines()
    for path in {line.split(maxsplit=5)[-1] for line in lines if "/libtiff" in line}:
        ctypes.CDLL(path).TIFFSetErrorHandler(None)
