"""What names, digests and references look like."""

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from prompt_store.errors import NameInvalidError

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
DIGEST_PATTERN = r"sha256:[0-9a-f]{64}"
MAX_VERSION = 99_999_999
_SHOWN_CHARACTERS = 80

Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]
Digest = Annotated[str, Field(pattern=f"^{DIGEST_PATTERN}$")]


@dataclass(frozen=True)
class NameReference:
    """A name, with a version or (None) meaning the latest."""

    name: str
    version: int | None


@dataclass(frozen=True)
class AliasReference:
    """A name and one of its aliases, which somebody points at a version, or at several."""

    name: str
    alias: str

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}"


@dataclass(frozen=True)
class DigestReference:
    """Content by its digest, whatever its name."""

    digest: str


def shown(value: object) -> str:
    """Return `repr(value)` cut to a length that is safe to put into a message or a log."""
    text = repr(value if not isinstance(value, str) else value[: _SHOWN_CHARACTERS + 1])
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def check_name(name: str) -> str:
    """Return `name`.

    Raises:
        NameInvalidError: It does not match `[a-z0-9][a-z0-9._-]{0,63}`.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise NameInvalidError(f"name {shown(name)} does not match {NAME_PATTERN}")
    return name


def check_version(version: int) -> int:
    """Return `version`.

    Raises:
        NameInvalidError: It is not within 1 to 99,999,999.
    """
    if not 1 <= version <= MAX_VERSION:
        raise NameInvalidError(f"version {shown(version)} is not within 1 to {MAX_VERSION}")
    return version


def check_alias(alias: str) -> str:
    """Return `alias`.

    Raises:
        NameInvalidError: It is not a name, or consists of digits, as only versions do.
    """
    if not re.fullmatch(NAME_PATTERN, alias) or alias.isdecimal():
        raise NameInvalidError(
            f"alias {shown(alias)} does not match {NAME_PATTERN}, or looks like a version"
        )
    return alias


def check_digest(digest: str) -> str:
    """Return `digest`.

    Raises:
        NameInvalidError: It is not `sha256:` followed by 64 lower-case hexadecimal digits.
    """
    if not re.fullmatch(DIGEST_PATTERN, digest):
        raise NameInvalidError(f"digest {shown(digest)} does not match {DIGEST_PATTERN}")
    return digest


def digest_of(data: bytes | memoryview) -> str:
    """Return the digest of `data`, `sha256:<hex>`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse_reference(reference: str) -> NameReference | AliasReference | DigestReference:
    """Parse `name`, `name@3`, `name@alias` or `sha256:<hex>`.

    Raises:
        NameInvalidError: The reference has none of these forms.
    """
    if reference.startswith("sha256:"):
        return DigestReference(check_digest(reference))
    name, separator, version = reference.partition("@")
    if not separator:
        return NameReference(check_name(name), None)
    if re.fullmatch(r"[1-9][0-9]{0,7}", version):
        return NameReference(check_name(name), int(version))
    if not re.fullmatch(NAME_PATTERN, version) or version.isdecimal():
        raise NameInvalidError(
            f"reference {shown(reference)} is not a name, name@version, name@alias or sha256:<hex>"
        )
    return AliasReference(check_name(name), version)
