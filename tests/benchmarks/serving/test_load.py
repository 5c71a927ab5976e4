import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.serving.errors import LoadError
from benchmarks.serving.load import Load, PreparedRequest, parse_output

GOOD = (
    "Running 1s test\n  1 threads and 2 connections\n\n"
    'MEASURED {"requests": 100, "duration_us": 2000000, "p50_us": 1500, "p99_us": 9000, '
    '"max_us": 9999, "refused": 0, "broken": 0, "timeouts": 0}\n'
)


def test_the_measurement_is_read_from_what_wrk_prints() -> None:
    result = parse_output(GOOD, client_cpu_s=0.25)
    assert (result.requests, result.throughput) == (100, 50.0)
    assert (result.p50_ms, result.p99_ms, result.client_cpu_s) == (1.5, 9.0, 0.25)


@pytest.mark.parametrize("kind", ["refused", "broken", "timeouts"])
def test_a_run_with_failed_requests_is_no_measurement(kind: str) -> None:
    with pytest.raises(LoadError, match=kind):
        parse_output(GOOD.replace(f'"{kind}": 0', f'"{kind}": 3'), client_cpu_s=0)


@pytest.mark.parametrize("output", ["", "unable to connect", GOOD + GOOD])
def test_other_output_is_no_measurement(output: str) -> None:
    with pytest.raises(LoadError, match="no measurement"):
        parse_output(output, client_cpu_s=0)


def test_nothing_answered_is_no_measurement() -> None:
    with pytest.raises(LoadError):
        parse_output(GOOD.replace('"requests": 100', '"requests": 0'), client_cpu_s=0)


def test_a_request_goes_over_the_wire_whole() -> None:
    request = PreparedRequest("/a?b=1", b"\r\n\0x", (("X-Y", "z"),))
    expected = b"POST /a?b=1 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 4\r\nX-Y: z\r\n\r\n\r\n\0x"
    assert request.encode("h:1") == expected


class _Seen(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: set[tuple[str, bytes]] = set()
        self.status = 200


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, _Seen)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.seen.add((self.path, body))
        self.send_response(server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server() -> Iterator[_Seen]:
    with _Seen() as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


@needs_wrk
def test_every_prepared_request_is_sent(server: _Seen, tmp_path: Path) -> None:
    requests = [PreparedRequest(f"/{i}", bytes([i]) * i) for i in range(5)]
    load = Load(f"http://127.0.0.1:{server.server_port}", requests, tmp_path, "five")
    result = load.run(num_clients=2, duration_s=1)
    assert server.seen == {(f"/{i}", bytes([i]) * i) for i in range(5)}
    assert result.requests > 5
    assert 0 < result.p50_ms <= result.p99_ms
    assert result.client_cpu_s > 0


@needs_wrk
def test_refusals_are_noticed(server: _Seen, tmp_path: Path) -> None:
    server.status = 429
    url = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(LoadError, match="refused"):
        Load(url, [PreparedRequest("/", b"")], tmp_path, "one").run(num_clients=1, duration_s=1)
