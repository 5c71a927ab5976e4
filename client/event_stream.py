"""Server-sent events: the wire format (WHATWG HTML, section 9.2), without the network."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class ServerEvent:
    """One dispatched event; `id` is the last one seen on the stream, or None."""

    id: str | None
    event: str
    data: str


def split_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    r"""Splits a byte stream at \r\n, \n or \r; an unfinished last line is dropped, as specified."""
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        # A \r at the end may be the first half of \r\n: leave it until more is known.
        held = b"\r" if buffer.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(buffer[: len(buffer) - len(held)])
        buffer = rest + held
        for line in lines:
            yield line.decode("utf-8", errors="replace")


def parse_events(lines: Iterable[str]) -> Iterator[ServerEvent]:
    """Parses lines into events; comments (keep-alives) and events without data yield nothing."""
    event_id: str | None = None
    event = ""
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield ServerEvent(event_id, event or "message", "\n".join(data))
            event, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            event = value
        elif field == "id" and "\0" not in value:
            event_id = value or None
