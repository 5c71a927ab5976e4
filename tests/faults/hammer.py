"""Clients that know nothing of draining: one request a connection, one after the other."""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from service.http_server.drain import FIRST_REQUEST_S

PATH = "/v1/ensembles/zoo/classify"
DOCUMENTED = {200, 429, 503}


def hammer(url: str, data: bytes, results: Counter[str], stop: threading.Event) -> None:
    """Send requests until connections are refused."""
    host, port = url.removeprefix("http://").split(":")
    while not stop.is_set():
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        began_s, sent_s = time.monotonic(), float("inf")
        try:
            connection.connect()
            connection.request("POST", PATH, body=data)
            sent_s = time.monotonic()
            answer = connection.getresponse()
            answer.read()
            results[str(answer.status)] += 1
        except ConnectionRefusedError:
            results["refused"] += 1
            return
        except (OSError, http.client.HTTPException) as error:
            # A client that got no processor for so long may have found the door closed: the one
            # thing that is not promised to it.
            is_late = min(sent_s, time.monotonic()) - began_s >= FIRST_REQUEST_S
            results[f"{'late' if is_late else 'lost'}: {error!r}"] += 1
        finally:
            connection.close()


@contextmanager
def hammering(url: str, data: bytes, count: int) -> Generator[Counter[str]]:
    """Run hammers beside the block; the results are complete once it has ended."""
    results: Counter[str] = Counter()
    stop = threading.Event()
    with ThreadPoolExecutor(count) as pool:
        runs = [pool.submit(hammer, url, data, results, stop) for _ in range(count)]
        try:
            yield results
        except BaseException:
            stop.set()
            raise
        for run in runs:
            run.result(60)


def wait_until_answered(results: Counter[str], num_answers: int = 100) -> None:
    """Wait until the clients are at it, however slow the machine is."""
    deadline_s = time.monotonic() + 60
    while results["200"] < num_answers:
        assert time.monotonic() < deadline_s, results
        time.sleep(0.05)


def check_nothing_lost(results: Counter[str], count: int) -> None:
    """Every client was refused in the end, and every request before that was answered."""
    assert results["200"] > 0
    assert results["refused"] == count, results
    assert {int(key) for key in results if key.isdigit()} <= DOCUMENTED, results
    assert not [key for key in results if key.startswith("lost")], results
