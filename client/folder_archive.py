"""A folder as one zip file: labelled images, or an adapter of PEFT."""

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from client.bodies import read_file
from client.errors import ClientError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
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
        ClientError: If there is no file in the folder, if one cannot be read or has a name that is
            not UTF-8, or if there is no room for the zip.
    """
    files = sorted(_files(folder))
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            num_files = _write(archive, files)
    except OSError as exc:
        raise ClientError(f"cannot write {target}: {exc.strerror}") from exc
    if num_files == 0:
        raise ClientError(f"{folder} holds no files; expected one folder of images per class")
    return num_files


def zip_adapter(folder: Path) -> bytes:
    """Zips what a registry needs of an adapter that PEFT saved; equal files give equal bytes.

    Raises:
        ClientError: If one of its two files cannot be read.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, [(name, folder / name) for name in ADAPTER_FILES])
    return buffer.getvalue()


def _write(archive: zipfile.ZipFile, files: Iterable[tuple[str, Path]]) -> int:
    """Stores files under their names, with fixed times and permissions; how many they were."""
    num_files = 0
    for name, path in files:
        info = zipfile.ZipInfo(name, date_time=_EPOCH)
        info.external_attr = _READABLE_FILE
        info.create_system = 3  # Unix, whatever this machine is
        content = read_file(path)
        try:
            archive.writestr(info, content)
        except UnicodeEncodeError as exc:
            raise ClientError(f"{name!r} cannot be sent: its name is not UTF-8") from exc
        num_files += 1
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
    try:
        found = list(folder.iterdir())
    except OSError as exc:
        raise ClientError(f"cannot read {folder}: {exc.strerror}") from exc
    for path in found:
        if path.name.startswith(".") or path.name in _IGNORED_FOLDERS:
            continue
        if path.is_dir():
            yield from _walk(path, above | {real})
        else:
            yield path
