"""The `Content-Digest` header (RFC 9530), algorithm sha-256."""

import base64
import binascii
import re

from service.problems import problem_error

_SHA_256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]*):\s*(?=$|,|;)", re.IGNORECASE)


def check_content_digest(header: str | None, digest: str) -> None:
    """Compare a body's digest with what its sender claims; other algorithms are ignored.

    Args:
        header: Value of `Content-Digest`, None when it was not sent.
        digest: `sha256:<hex>` of the bytes received.

    Raises:
        ProblemError: 400, the header is malformed or the bytes differ.
    """
    if header is None or "sha-256" not in header.lower():
        return
    match = _SHA_256.search(header)
    try:
        claimed = base64.b64decode(match[1], validate=True).hex() if match else ""
    except binascii.Error:
        claimed = ""
    if claimed != digest.removeprefix("sha256:"):
        raise problem_error(
            400,
            "content-digest-mismatch",
            "The body is not what Content-Digest says",
            f"received {digest}; the header says {claimed or 'something malformed'}",
            field="Content-Digest",
        )
