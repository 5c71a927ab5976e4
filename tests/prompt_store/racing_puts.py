"""Run by `test_store_faults`: put every upload of a folder under one name, printing the versions.

Usage: python racing_puts.py STORE_URL NAME UPLOADS
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from prompt_store.blobs import BlobStore
from prompt_store.codec import PromptLimits, read_prompt
from prompt_store.objects import open_object_store
from prompt_store.registry import PromptRegistry


def main(url: str, name: str, uploads: Path) -> None:
    objects = open_object_store(url)
    registry = PromptRegistry(objects, BlobStore(objects), lambda: datetime.now(UTC))
    print("ready", flush=True)  # noqa: T201 - the parent reads it
    sys.stdin.readline()
    for path in sorted(uploads.iterdir()):
        data = path.read_bytes()
        manifest, created = registry.put(name, data, read_prompt(data, PromptLimits()))
        print(path.name, manifest.version, int(created), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
