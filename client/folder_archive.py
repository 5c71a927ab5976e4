"""A folder of labelled images as one zip file."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from client.errors import ClientError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can carry
_READABLE_FILE = 0o100644 << 16
_IGNORED_FOLDERS = frozenset({"__MACOSX"})


def zip_folder(folder: Path, target: Path) -> int:
    """Zips a folder so that equal contents give equal bytes, and so an equal digest.

    Names are sorted, times and permissions fixed, nothing is compressed (images already are).
    Hidden files and folders are left out.

    Returns:
        The number of files in the zip.

    Raises:
        ClientError: If there is no file in the folder, or one cannot be read.
    """
    num_files = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, path in sorted(_files(folder)):
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.external_attr = _READABLE_FILE
            info.create_system = 3  # Unix, whatever this machine is
            try:
                archive.writestr(info, path.read_bytes())
            except OSError as exc:
                raise ClientError(f"cannot read {path}: {exc.strerror}") from exc
            num_files += 1
    if num_files == 0:
        raise ClientError(f"{folder} holds no files; expected one folder of images per class")
    return num_files


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields (name inside the zip, path) of every file that is not hidden."""
    for path in _walk(folder, frozenset()):
        yield path.relative_to(folder).as_posix(), path


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Follows links to folders, except those that lead back to a folder they lie in."""
    real = folder.resolve()
    if real in above:
        return
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _IGNORED_FOLDERS:
            continue
        if path.is_dir():
            yield from _walk(path, above | {real})
        else:
            yield path
