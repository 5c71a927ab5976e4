"""Tells the store that was opened from what is at its path while its volume is not mounted.

A store has an empty folder `.identity-<32 hexadecimal digits>` in its root, made by the first
process that opens it. An empty mount point has none, and another store has another one. Processes
that open a new store at the same moment may make one each; all of them stay, and each process looks
for the one that it found or made.

It is made once the folders that lead to the root, which the process may have made too, are on the
disk: whoever finds it need not make sure of them.
"""

import secrets
from pathlib import Path

from prompt_store.durable_files import sync_folders, sync_path

PREFIX = ".identity-"


class StoreIdentity:
    """The identity of the store that is in a folder now; made if it has none.

    Args:
        root: The store's folder, which exists.

    Raises:
        OSError: The folder cannot be read, or nothing can be made in it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._mark = next(iter(sorted(root.glob(f"{PREFIX}*"))), None) or _made(root)

    def check(self) -> None:
        """Make sure that the folder still holds that store, by one look at it.

        Raises:
            OSError: It does not, or cannot be looked at.
        """
        if not self._mark.is_dir():
            raise OSError(
                f"the store at {self._root} is not the one that was opened, which has "
                f"{self._mark.name}: its volume is not mounted, or another one is"
            )


def _made(root: Path) -> Path:
    mark = root / f"{PREFIX}{secrets.token_hex(16)}"
    sync_path(root)
    mark.mkdir()
    sync_folders(root, root)
    return mark
