"""The address that a local service listens on."""

import contextlib
import errno
import socket
from dataclasses import dataclass

from client.errors import StartError

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  translated, not bound


@dataclass(frozen=True)
class Address:
    """Host and port, as given to the service."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Where a program on this machine reaches the service."""
        host = _EVERY_INTERFACE.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def free_address(host: str, port: int) -> Address:
    """Checks that a port can be listened on; port 0 stands for any free one.

    Raises:
        StartError: If it cannot.
    """
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as exc:
        raise StartError(f"cannot listen on host {host!r}: {exc.strerror}") from exc
    with contextlib.closing(socket.socket(family, kind)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
            probe.listen(1)
        except OSError as exc:
            raise StartError(_reason(exc, host, port)) from exc
        return Address(host, probe.getsockname()[1])


def _reason(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; choose another one with --port"
    return f"cannot listen on {host} port {port}: {exc.strerror}"
