"""Labelled images out of a parquet file, read by a process with bounded memory.

A page of a few kilobytes may unpack to gigabytes, as one piece and in native code. So the
file is read by a child process, whose memory the kernel limits, and whose rows come through
a pipe as frames:

    b"I", length of the label, length of the image (uint32), label, image
    b"E", length of the message, 0, message                  the file is refused
    b".", 0, 0                                                all rows were sent
"""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from images.errors import ArchiveError
from images.labelled import ArchiveLimits, LabelledImage

IMAGE, ERROR, END = b"I", b"E", b"."
FRAME = struct.Struct("<cII")
MAX_TEXT_BYTES = 1 << 16


def read_parquet(path: Path, limits: ArchiveLimits) -> Iterator[LabelledImage]:
    """Yield the images of a parquet file, row by row.

    Raises:
        ArchiveError: Damaged, other columns, missing values, or a limit exceeded.
    """
    command = [
        sys.executable,
        "-m",
        "images.parquet_process",
        str(path),
        json.dumps(asdict(limits)),
    ]
    # The child must find this package however this process found it.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # The default pool reserves address space, which is what the limit counts.
    environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:  # noqa: S603
        try:
            if child.stdout is None:
                raise AssertionError("the pipe was asked for")
            yield from _received(child.stdout, limits)
        finally:
            child.kill()


def _received(pipe: IO[bytes], limits: ArchiveLimits) -> Iterator[LabelledImage]:
    row = 0
    while True:
        head = pipe.read(FRAME.size)
        if len(head) != FRAME.size:
            raise ArchiveError(
                f"parquet file cannot be read: its reader ended at row {row} "
                f"(it may use {limits.max_reader_memory_bytes} bytes of memory)"
            )
        kind, text_bytes, image_bytes = FRAME.unpack(head)
        # The child holds to the limits too, unless the file has taken it over.
        if text_bytes > MAX_TEXT_BYTES or image_bytes > limits.max_image_bytes:
            raise ArchiveError(f"row {row}: {text_bytes} and {image_bytes} bytes exceed the limits")
        text = pipe.read(text_bytes).decode(errors="replace")
        if kind == END:
            return
        if kind == ERROR:
            raise ArchiveError(text)
        yield LabelledImage(f"row {row}", text, pipe.read(image_bytes))
        row += 1
