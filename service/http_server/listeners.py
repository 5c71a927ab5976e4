"""Closing a listening socket without resetting anybody.

The kernel completes a handshake by itself and queues the connection until it is accepted. Closing
the socket resets what is queued, and what is queued between the last look and the close; the client
believes to be connected. So first of all no handshake may begin any more: a packet filter on the
socket drops SYN segments, whoever shares the socket. Handshakes under way complete, the queue is
emptied, and nobody comes after that. A client whose SYN was dropped sends it again a second later
(RFC 6298, 2.1) and is then refused, or reaches whoever listens by then.
"""

import ctypes
import logging
import socket
import struct
import sys

logger = logging.getLogger(__name__)

SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>

HANDSHAKE_S = 0.5
"""How long a handshake may take to complete: a round trip. Below a second, after which clients
whose SYN was dropped try again."""

# Classic BPF on the TCP header, <linux/bpf_common.h>: operation, jumps if true and false, operand.
_LOAD_BYTE, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x54, 0x15, 0x06
_FLAGS_AT, _SYN, _SYN_ACK = 13, 0x02, 0x12
_NO_SYN = (
    (_LOAD_BYTE, 0, 0, _FLAGS_AT),
    (_AND, 0, 0, _SYN_ACK),
    (_JUMP_IF_EQUAL, 0, 1, _SYN),
    (_RETURN, 0, 0, 0),  # drop it
    (_RETURN, 0, 0, 0xFFFFFFFF),  # keep all of it
)


def drop_newcomers(listener: socket.socket) -> bool:
    """Let no handshake begin on a listening socket any more, in any process that shares it.

    Returns:
        Whether the operating system can do that: Linux, without privileges.
    """
    if not sys.platform.startswith("linux"):
        return False
    steps = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in _NO_SYN))
    program = struct.pack("@HP", len(_NO_SYN), ctypes.addressof(steps))  # struct sock_fprog
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    except OSError:
        logger.warning(
            "connections made while the listening socket closes may be reset", exc_info=True
        )
        return False
    return True


def accept_waiting(listener: socket.socket) -> list[socket.socket]:
    """Return the connections that the kernel has queued."""
    listener.setblocking(False)
    waiting: list[socket.socket] = []
    while True:
        try:
            waiting.append(listener.accept()[0])
        except BlockingIOError:
            return waiting
        except ConnectionAbortedError:
            continue  # its client is gone
        except OSError:
            logger.exception("connections are reset that cannot be accepted")
            return waiting
