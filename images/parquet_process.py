"""The process that reads a parquet file for `images.parquet_reader`.

Run as `python -m images.parquet_process FILE LIMITS`; the frames go to standard output.
"""

import json
import sys
from pathlib import Path

from images.errors import ArchiveError
from images.labelled import ArchiveLimits
from images.parquet_reader import END, ERROR, FRAME, IMAGE, MAX_TEXT_BYTES
from images.parquet_rows import read_rows


def main() -> None:
    """Send the rows of the file, or the reason why it is refused."""
    limits = ArchiveLimits(**json.loads(sys.argv[2]))
    _limit_memory(limits.max_reader_memory_bytes)
    try:
        for image in read_rows(Path(sys.argv[1]), limits):
            _send(IMAGE, image.label, image.data)
    except ArchiveError as error:
        _send(ERROR, str(error))
    else:
        _send(END, "")


def _limit_memory(size: int) -> None:
    if sys.platform == "linux":
        import resource  # noqa: PLC0415

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _send(kind: bytes, text: str, image: bytes = b"") -> None:
    encoded = text.encode(errors="replace")[:MAX_TEXT_BYTES]
    sys.stdout.buffer.write(FRAME.pack(kind, len(encoded), len(image)))
    sys.stdout.buffer.write(encoded + image)


if __name__ == "__main__":
    main()
