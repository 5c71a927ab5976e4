"""Run by `test_store_faults`: put one prompt, killed at the n-th file operation, for every n.

Usage: python killed_puts.py FOLDER UPLOAD. Store n is FOLDER/n; its number is printed when its put
was killed. The operations are those that Python audits (open, mkdir, link, remove, chmod), so that
the code under test runs as it is.
"""

import os
import signal
import sys
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from prompt_store.blobs import BlobStore
from prompt_store.codec import PromptLimits, read_prompt
from prompt_store.objects import ObjectStore
from prompt_store.registry import PromptRegistry

OPERATIONS = {"open", "os.mkdir", "os.link", "os.remove", "os.chmod"}


def put_and_be_killed(root: Path, data: bytes, last_operation: int) -> None:
    objects = ObjectStore(root)
    registry = PromptRegistry(objects, BlobStore(objects), lambda: datetime.now(UTC))
    prompt = read_prompt(data, PromptLimits())
    done = 0

    def on_operation(event: str, _: object) -> None:
        nonlocal done
        if event in OPERATIONS:
            if done == last_operation:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1

    sys.addaudithook(on_operation)
    registry.put("killed", data, prompt)
    os._exit(0)


def main(folder: Path, upload: Path) -> None:
    data = upload.read_bytes()
    for last_operation in count():
        root = folder / str(last_operation)
        root.mkdir()
        child = os.fork()  # before any call to obstore, whose threads would not survive it
        if child == 0:
            put_and_be_killed(root, data, last_operation)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        print(last_operation, flush=True)  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
