"""Labelled images out of a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from images.errors import ArchiveError
from images.labelled import ArchiveLimits, Budget, LabelledImage, Layout, entry_parts, is_hidden

# Deeper than folder/class/image there is nothing to find, only to reject.
_MAX_DEPTH = 3


def read_folder(path: Path, limits: ArchiveLimits) -> Iterator[LabelledImage]:
    """Yield the images of a folder, sorted by name.

    Raises:
        ArchiveError: A link, something in the wrong place, or a limit exceeded.
    """
    layout, budget = Layout(limits), Budget(limits)
    for relative in _files(path, "", budget, 1):
        parts = entry_parts(relative, limits)
        if parts is None:
            continue
        label = layout.label(parts)
        with (path / relative).open("rb") as file:
            data = file.read(limits.max_image_bytes + 1)
        budget.check_image(relative, len(data))
        budget.add_bytes(len(data))
        yield LabelledImage(relative, label, data)


def _files(folder: Path, prefix: str, budget: Budget, depth: int) -> Iterator[str]:
    found: list[os.DirEntry[str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            budget.add_entry()
            found.append(entry)
    for entry in sorted(found, key=lambda each: each.name):
        relative = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            if is_hidden(entry.name):
                continue
            if depth >= _MAX_DEPTH:
                raise ArchiveError(f"entry {relative!r}: folder too deep, expected class/image")
            yield from _files(Path(entry.path), f"{relative}/", budget, depth + 1)
        elif entry.is_file(follow_symlinks=False):
            yield relative
        else:
            raise ArchiveError(f"entry {relative!r}: a link or not a plain file")
