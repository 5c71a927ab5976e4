"""Names and addresses of hosts, in the one form in which they are compared."""

import ipaddress
import re

_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def canonical_host(host: str) -> str:
    """Return a name in lower case without final dot, or an IP address as it is usually written.

    Args:
        host: Without port; an IPv6 address with or without brackets.

    Raises:
        ValueError: It is neither.
    """
    found = host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
    try:
        return str(ipaddress.ip_address(found))
    except ValueError:
        if _HOST_NAME.fullmatch(found):
            return found
        raise ValueError(
            f"{host!r} is neither a host name nor an IP address; without scheme, port and path"
        ) from None


def is_loopback(host: str) -> bool:
    """Say whether an address to listen on is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_unspecified(host: str) -> bool:
    """Say whether an address to listen on stands for all of the machine's (0.0.0.0, ::)."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
