"""Run by `test_store_faults`: put a file that the system refuses to write in full, then may.

Usage: python short_write.py ROOT UPLOAD; prints what happened as one JSON object.
"""

import json
import resource
import sys
from datetime import UTC, datetime
from pathlib import Path

from prompt_store.blobs import BlobStore
from prompt_store.codec import PromptLimits, read_prompt
from prompt_store.errors import PromptStoreError
from prompt_store.objects import open_object_store
from prompt_store.registry import PromptRegistry


def main(root: Path, upload: Path) -> None:
    objects = open_object_store(root.as_uri())
    registry = PromptRegistry(objects, BlobStore(objects), lambda: datetime.now(UTC))
    data = upload.read_bytes()
    prompt = read_prompt(data, PromptLimits())
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) - 1, unlimited[1]))
    errors: list[tuple[str, str]] = []
    try:
        registry.put("a", data, prompt)
    except PromptStoreError as error:
        errors.append((type(error).__name__, str(error)))
    left = [str(path) for path in root.rglob("*") if path.is_file()]
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    version = registry.put("a", data, prompt)[0].version
    print(json.dumps({"errors": errors, "left": left, "version": version}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
