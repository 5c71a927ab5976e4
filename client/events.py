"""Following a fit's event stream through lost connections."""

from collections.abc import Callable, Iterator

import httpx
from pydantic import ValidationError

from client.errors import ProblemError, UnexpectedReplyError
from client.event_stream import ServerEvent, parse_events, split_lines
from client.replies import Event, Progress
from client.transport import Params, Transport, raise_for_problem

OUTCOME = "outcome"
NOTHING_MORE = 204  # WHATWG HTML, section 9.2: do not reconnect
SILENCE_S = 60.0  # a healthy stream carries a comment or an event more often than this
MAX_FAILURES = 12  # in a row; with the transport's longest delay of 5 s about a minute


class _NothingMoreError(Exception):
    """The service says that no event follows."""


def follow_events(
    transport: Transport, path: str, params: Params, last_event_id: str | None = None
) -> Iterator[Event]:
    """Yields events up to and including the outcome; resumes where a lost connection stopped.

    Yields none if `last_event_id` is that of the outcome.

    Raises:
        ProblemError: If the service refuses the call.
        ServiceUnreachableError: If no connection can be had for about a minute.
        UnexpectedReplyError: If an event cannot be read.
    """
    failures = 0

    def forgive() -> None:
        nonlocal failures
        failures = 0

    while True:
        reason = httpx.RemoteProtocolError("the event stream ended early")
        try:
            for event in _stream(transport, path, params, last_event_id, on_bytes=forgive):
                last_event_id = event.id or last_event_id
                yield _parse(event)
                if event.event == OUTCOME:
                    return
        except _NothingMoreError:
            return
        except httpx.TransportError as exc:
            reason = exc
        except ProblemError as exc:
            if exc.status < 500 or failures >= MAX_FAILURES:  # noqa: PLR2004  server errors start at 500
                raise
        failures += 1
        if failures > MAX_FAILURES:
            raise transport.unreachable(reason)
        transport.sleep(transport.retry.delay_s(failures - 1))


def _stream(
    transport: Transport,
    path: str,
    params: Params,
    last_event_id: str | None,
    *,
    on_bytes: Callable[[], None],
) -> Iterator[ServerEvent]:
    """One connection's events; `on_bytes` is called at whatever comes, comments too."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    timeout = httpx.Timeout(SILENCE_S, connect=transport.http.timeout.connect)
    with transport.http.stream(
        "GET", path, params=params, headers=headers, timeout=timeout
    ) as response:
        if not response.is_success:
            response.read()
            raise_for_problem(response)
        if response.status_code == NOTHING_MORE:
            raise _NothingMoreError
        yield from parse_events(split_lines(_noting(response.iter_bytes(), on_bytes)))


def _noting(chunks: Iterator[bytes], on_bytes: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        on_bytes()
        yield chunk


def _parse(event: ServerEvent) -> Event:
    try:
        progress = Progress.model_validate_json(event.data)
    except ValidationError as exc:
        raise UnexpectedReplyError(f"event {event.id} cannot be read: {event.data[:200]}") from exc
    return Event(id=event.id, event=event.event, progress=progress)
