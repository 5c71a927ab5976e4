"""One place where requests are sent, repeated and turned into errors."""

import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from client.errors import ClientError, ProblemError, ServiceUnreachableError

RETRIED_STATUSES = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
IN_PROGRESS = "urn:hgprompt:problem:idempotency-in-progress"
TWIN_PATIENCE_S = 90.0
"""Longest wait for an earlier try of the same request; a lost one is taken over after 60 s."""
MAX_DETAIL_CHARS = 300

BodyFactory = Callable[[], bytes | Iterable[bytes]]
Params = Mapping[str, str | int]


@dataclass(frozen=True)
class RetryPolicy:
    """How a repeatable request is repeated.

    Attributes:
        attempts: How often a request is sent at most.
        first_delay_s: Pause before the second attempt; doubles with each further one.
        max_delay_s: Longest pause, also when the service asks for more by Retry-After.
    """

    attempts: int = 4
    first_delay_s: float = 0.25
    max_delay_s: float = 5.0

    def delay_s(self, attempt: int, retry_after: str | None = None) -> float:
        """Seconds to wait after the attempt with this number (from 0)."""
        delay_s = self.first_delay_s * 2**attempt
        if retry_after is not None and retry_after.isdecimal():
            delay_s = max(delay_s, float(retry_after))
        return min(delay_s, self.max_delay_s)


def segment(name: str) -> str:
    """A name as one segment of a path, whatever characters it has.

    Raises:
        ClientError: If it is empty or no Unicode text, as a file name may be.
    """
    try:
        quoted = quote(name, safe="")
    except UnicodeEncodeError as exc:
        raise ClientError(f"{name!r} cannot be a name: it is not UTF-8") from exc
    if not quoted:
        raise ClientError("'' cannot be a name: it is empty")
    return quoted


@dataclass(frozen=True)
class Request:
    """One call; `body` makes a fresh body for every attempt, `files` become a multipart body.

    Attributes:
        read_timeout_s: Longest wait for the answer, where the service has much to do before it
            gives one; None is the client's.
    """

    method: str
    path: str
    params: Params | None = None
    headers: Mapping[str, str] | None = None
    body: BodyFactory | None = None
    json: object = None
    files: Sequence[tuple[str, tuple[str, bytes, str]]] | None = None
    repeatable: bool = True
    read_timeout_s: float | None = None


class Transport:
    """Sends requests; repeats those that may be repeated; raises on anything but 2xx and 304."""

    def __init__(
        self,
        base_url: str,
        timeout_s: float,
        retry: RetryPolicy,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Opens no connection yet.

        Raises:
            ClientError: If `base_url` is not an http(s) URL.
        """
        self.base_url = base_url.rstrip("/")
        self.retry = retry
        self._timeout_s = timeout_s
        self.sleep = sleep
        url = _checked_url(self.base_url)
        # An HTTP proxy from the environment cannot reach this machine's loopback.
        trust_env = not _is_loopback(url.host)
        try:
            self.http = httpx.Client(base_url=self.base_url, timeout=timeout_s, trust_env=trust_env)
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as exc:
            raise ClientError(
                f"proxy or certificates that the environment names cannot be used: {exc}"
            ) from exc

    def send(self, request: Request) -> httpx.Response:
        """Sends one call.

        Raises:
            ProblemError: If the service refused it.
            ServiceUnreachableError: If no answer came.
            ClientError: If the body cannot be sent as JSON.
        """
        retries = self.retry.attempts - 1 if request.repeatable else 0
        attempt, waited_s = 0, 0.0
        while True:
            try:
                response = self._send_once(request)
            except httpx.TransportError as exc:
                if attempt == retries:
                    raise self.unreachable(exc) from exc
                delay_s = self.retry.delay_s(attempt)
                attempt += 1
            else:
                delay_s = self.retry.delay_s(attempt, response.headers.get("retry-after"))
                if _is_in_progress(response) and waited_s < TWIN_PATIENCE_S:
                    waited_s += delay_s
                elif response.status_code in RETRIED_STATUSES and attempt < retries:
                    attempt += 1
                else:
                    raise_for_problem(response)
                    return response
            self.sleep(delay_s)

    def _send_once(self, request: Request) -> httpx.Response:
        try:
            return self.http.request(
                request.method,
                request.path,
                params=request.params,
                headers=request.headers,
                content=request.body() if request.body else None,
                json=request.json,
                files=request.files,
                timeout=self._timeout(request),
            )
        except UnicodeEncodeError as exc:
            raise ClientError(f"{exc.object!r} cannot be sent: it is not UTF-8") from exc

    def _timeout(self, request: Request) -> httpx.Timeout:
        return httpx.Timeout(self._timeout_s, read=request.read_timeout_s or self._timeout_s)

    def unreachable(self, exc: Exception) -> ServiceUnreachableError:
        """The error to raise when the service gave no answer."""
        reason = str(exc) or type(exc).__name__
        return ServiceUnreachableError(f"no answer from {self.base_url} ({reason})")


class _Problem(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: str
    title: str
    detail: str | None = None


def _is_in_progress(response: httpx.Response) -> bool:
    """Whether an earlier try of the same request, whose answer was lost, is still being served."""
    return response.status_code == HTTPStatus.CONFLICT and IN_PROGRESS in response.text


def raise_for_problem(response: httpx.Response) -> None:
    """Raises the problem an answer carries, if it is not a success; the body must be read.

    Raises:
        ProblemError: If the status is neither 2xx nor 304.
    """
    if response.is_success or response.status_code == HTTPStatus.NOT_MODIFIED:
        return
    try:
        problem = _Problem.model_validate_json(response.content)
    except ValidationError:
        text = " ".join(response.text.split())[:MAX_DETAIL_CHARS]
        problem = _Problem(
            type="about:blank",
            title=response.reason_phrase or f"HTTP {response.status_code}",
            detail=text or None,
        )
    raise ProblemError(
        type=problem.type,
        title=problem.title,
        detail=problem.detail,
        status=response.status_code,
    )


def _checked_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as exc:
        raise ClientError(f"{base_url!r} is not a URL: {exc}") from exc
    if url.scheme not in {"http", "https"} or not url.host:
        raise ClientError(f"{base_url!r} is not a URL like http://127.0.0.1:8000")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a host name
