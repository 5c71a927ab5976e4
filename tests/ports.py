"""Ports for servers that must be told theirs before they start."""

import socket


def free_port() -> int:
    """One that the kernel picks at random, so that tests in other processes get others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
