"""Run by `test_store_faults` on a small file system: fill the store, then make room again.

Usage: python full_disk.py ROOT UPLOAD; prints what happened as one JSON object.
"""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from prompt_store.blobs import BlobStore
from prompt_store.codec import PromptLimits, read_prompt
from prompt_store.errors import PromptStoreError
from prompt_store.objects import open_object_store
from prompt_store.registry import PromptRegistry


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def main(root: Path, upload: Path) -> None:
    objects = open_object_store(root.as_uri())
    blobs = BlobStore(objects)
    registry = PromptRegistry(objects, blobs, lambda: datetime.now(UTC))
    data = upload.read_bytes()
    prompt = read_prompt(data, PromptLimits())
    filler = blobs.put_bytes(os.urandom(len(data) + 40_000))
    before = files(root)
    errors: list[tuple[str, str]] = []
    for content in (data, upload):
        try:
            registry.put("a", content, prompt)
        except PromptStoreError as error:
            errors.append((type(error).__name__, str(error)))
    after = files(root)
    digits = filler.removeprefix("sha256:")
    (root / "sha256" / digits[:2] / digits).unlink()
    manifest, created = registry.put("a", data, prompt)
    recovered = created and blobs.get_bytes(manifest.digest) == data and manifest.version == 1
    print(  # noqa: T201 - the parent reads it
        json.dumps({"errors": errors, "unchanged": before == after, "recovered": recovered})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
