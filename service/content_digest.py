"""The `Content-Digest` header (RFC 9530), algorithms sha-256 and sha-512."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping

from service.problems import ProblemError, problem_error

ALGORITHMS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
_KEY = r"[A-Za-z*][A-Za-z0-9_.*-]*"
_PARAMETER = rf';\x20*{_KEY}(?:=(?:"[^"]*"|[^\s,;"]+))?'
_PLAIN_MEMBER = rf"{_KEY}=:[A-Za-z0-9+/=]*:(?:{_PARAMETER})*"
_MEMBERS = re.compile(rf"{_PLAIN_MEMBER}(?:[\x20\t]*,[\x20\t]*{_PLAIN_MEMBER})*")
_MEMBER = re.compile(rf"({_KEY})=:([A-Za-z0-9+/=]*):(?:{_PARAMETER})*")
_SHOWN_CHARACTERS = 80


def checked_algorithms(lines: Iterable[str]) -> set[str]:
    """Return the algorithms that a body's digests are needed of to check it.

    Args:
        lines: Every value of `Content-Digest`, none when it was not sent.
    """
    text = ", ".join(lines).lower()
    return {name for name in ALGORITHMS if name in text}


def check_content_digest(lines: Iterable[str], digests: Mapping[str, bytes]) -> None:
    """Compare a body's digests with what its sender claims; other algorithms are ignored.

    Args:
        lines: Every value of `Content-Digest`, none when it was not sent.
        digests: Those of the bytes received by algorithm, at least those of `checked_algorithms`.

    Raises:
        ProblemError: 400, the header is malformed or the bytes differ.
    """
    claimed = _digests(", ".join(lines).strip())
    for name in ALGORITHMS:
        if name in claimed and claimed[name] != digests[name]:
            raise problem_error(
                400,
                "content-digest-mismatch",
                "The body is not what Content-Digest says",
                f"received {name} {digests[name].hex()}; the header says "
                f"{claimed[name].hex() or 'nothing'}",
                field="Content-Digest",
            )


def _digests(value: str) -> dict[str, bytes]:
    """Read a dictionary of byte sequences (RFC 8941, 3.2); the last of equal keys counts."""
    if value and not _MEMBERS.fullmatch(value):
        raise _malformed(value)
    try:
        return {
            key.lower(): base64.b64decode(encoded, validate=True)
            for key, encoded in _MEMBER.findall(value)
        }
    except binascii.Error as error:
        raise _malformed(value) from error


def _malformed(value: str) -> ProblemError:
    return problem_error(
        400,
        "malformed-content-digest",
        "Content-Digest cannot be read",
        f"{value[:_SHOWN_CHARACTERS]!r} is not a list such as sha-256=:<base64>:",
        field="Content-Digest",
    )
