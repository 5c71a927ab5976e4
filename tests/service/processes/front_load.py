"""Clients that classify the same image all the time."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import httpx


class Load:
    """Threads that post, and count what came back: (status, problem type or None)."""

    def __init__(self, url: str, data: bytes, expected: object, num_clients: int = 4) -> None:
        self.url = url
        self.data = data
        self.expected = expected
        self.seen: Counter[tuple[int, str | None]] = Counter()
        self.broken: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(num_clients)
        self._clients = [self._pool.submit(self._run) for _ in range(num_clients)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for client in self._clients:
            client.result(60)
        self._pool.shutdown()

    def take(self) -> Counter[tuple[int, str | None]]:
        """What was seen since the last call."""
        with self._lock:
            seen, self.seen = self.seen, Counter()
        return seen

    def _run(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                try:
                    response = client.post(
                        f"{self.url}/v1/ensembles/zoo/classify", content=self.data
                    )
                except httpx.TransportError as error:  # its front was killed
                    with self._lock:
                        self.broken.append(repr(error))
                    continue
                body = response.json()
                if response.status_code == 200:
                    assert body["predictions"] == self.expected
                else:
                    assert response.headers["retry-after"]
                    time.sleep(0.01)
                with self._lock:
                    self.seen[response.status_code, body.get("type")] += 1
