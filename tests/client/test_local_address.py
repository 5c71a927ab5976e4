import socket

import pytest

from client.errors import StartError
from client.local_address import Address, free_address


def test_port_zero_takes_a_free_one() -> None:
    address = free_address("127.0.0.1", 0)
    assert address.port > 0
    assert free_address("127.0.0.1", address.port) == address


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"port {port} on 127.0.0.1 is in use.*--port"):
            free_address("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_a_host_that_is_not_this_machine_is_named(host: str) -> None:
    with pytest.raises(StartError, match=f"cannot listen on .*{host}"):
        free_address(host, 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),  # noqa: S104
        ("::", "http://[::1]:80"),
        ("example.org", "http://example.org:80"),
    ],
)
def test_the_url_is_one_that_this_machine_can_open(host: str, url: str) -> None:
    assert Address(host, 80).url == url
