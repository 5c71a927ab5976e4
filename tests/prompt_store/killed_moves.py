"""Run by `test_aliases`: move an alias once, killed at the n-th file operation, for every n.

Usage: python killed_moves.py FOLDER. Store n is FOLDER/n, with an alias at its first move; its
number is printed when the second was killed. The operations are those that Python audits, as in
`killed_puts`.
"""

import os
import signal
import sys
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from prompt_store.aliases import AliasBook
from prompt_store.objects import ObjectStore
from prompt_store.splits import Split

OPERATIONS = {"open", "os.mkdir", "os.link", "os.remove", "os.chmod"}
FIRST = (
    b'{"name":"zoo","alias":"prod","number":1,"split":{"shares":[{"version":1,"weight":1.0}]},'
    b'"moved_at":"2026-01-02T03:04:05Z"}'
)


def move_and_be_killed(root: Path, last_operation: int) -> None:
    book = AliasBook(ObjectStore(root), "ensembles", lambda: datetime.now(UTC))
    done = 0

    def on_operation(event: str, _: object) -> None:
        nonlocal done
        if event in OPERATIONS:
            if done == last_operation:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1

    sys.addaudithook(on_operation)
    book.move("zoo", "prod", Split.only(2), lambda now: now == 1)
    os._exit(0)


def main(folder: Path) -> None:
    for last_operation in count():
        root = folder / str(last_operation)
        first = root / "ensembles/zoo/aliases/prod/00000001.json"
        first.parent.mkdir(parents=True)
        first.write_bytes(FIRST)
        child = os.fork()  # before any call to obstore, whose threads would not survive it
        if child == 0:
            move_and_be_killed(root, last_operation)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        print(last_operation, flush=True)  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    main(Path(sys.argv[1]))
