"""What was answered to an idempotency key, so that a replay gets the same answer.

| key | holds |
|---|---|
| `idempotency/<hash>/attempts/<8 digits>.json` | when an attempt began and at what request |
| `idempotency/<hash>/released/<8 digits>.json` | this attempt failed, and whether it was refused |
| `idempotency/<hash>/answer.json` | the first answer |

`<hash>` is the SHA-256 of the caller's key, which may hold any characters. An attempt that was
neither answered nor released, because its process was killed, is taken over after a while. A key
belongs to the first request that came with it, unless every attempt so far was refused.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from prompt_store.clock import Clock
from prompt_store.documents import get_document, put_document
from prompt_store.errors import (
    IdempotencyInProgressError,
    IdempotencyMismatchError,
    NotFoundError,
)
from prompt_store.names import shown
from prompt_store.objects import ObjectStore


class Answer(BaseModel):
    """An HTTP answer, to be given again as it was.

    Attributes:
        status: HTTP status.
        headers: Those to be replayed, such as `location`.
        body: The body's bytes.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )

    status: int
    headers: dict[str, str] = Field(default_factory=dict[str, str])
    body: bytes


@dataclass(frozen=True)
class Claim:
    """The right to do the work of a request.

    Attributes:
        key: The caller's idempotency key.
        attempt: Which try at the request this is, from 1.
    """

    key: str
    attempt: int

    @property
    def key_digest(self) -> str:
        """What tells the key from others, of a form that any key has."""
        return f"sha256:{_hashed(self.key)}"

    @property
    def is_retry(self) -> bool:
        """Whether an earlier try may have done the work, and only its answer was not kept."""
        return self.attempt > 1


class _Attempt(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    request_digest: str
    began_at: datetime


class _Release(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    refused: bool


class IdempotencyStore:
    """First answers by idempotency key, kept for ever.

    Args:
        objects: Where they are kept.
        clock: Tells how old an unanswered attempt is.
        takeover_after_s: Age at which an unanswered attempt counts as killed; above the longest
            time that a request takes.
    """

    def __init__(self, objects: ObjectStore, clock: Clock, *, takeover_after_s: float = 60) -> None:
        self._objects = objects
        self._clock = clock
        self._takeover_after = timedelta(seconds=takeover_after_s)

    def begin(self, key: str, request_digest: str) -> Claim | Answer:
        """Claim `key` for a request, unless it has been answered.

        Args:
            key: The caller's idempotency key.
            request_digest: Digest of everything that makes the request: method, path, body.

        Returns:
            A claim, which the caller must `finish` or `release`, or the answer given before.

        Raises:
            IdempotencyMismatchError: The key belongs to another request.
            IdempotencyInProgressError: The first request is still being worked on.
        """
        folder = _folder(key)
        numbers = self._numbers(folder, "attempts")
        if numbers:
            latest = self._attempt(folder, numbers[-1])
            if latest.request_digest != request_digest and not self._all_refused(folder, numbers):
                raise IdempotencyMismatchError(
                    f"idempotency key {shown(key)} was first used for another request"
                )
            answer = self._answer(folder)
            if answer is not None:
                return answer
            left = latest.began_at + self._takeover_after - self._clock()
            # One that seems to have begun later than now was made before the clock was set back.
            alive = timedelta(0) < left <= self._takeover_after
            if alive and numbers[-1] not in self._numbers(folder, "released"):
                raise _in_progress(key, left)
        attempt = _Attempt(request_digest=request_digest, began_at=self._clock())
        number = (numbers or [0])[-1] + 1
        if not put_document(self._objects, f"{folder}/attempts/{number:08d}.json", attempt):
            raise _in_progress(key, self._takeover_after)  # a twin has just claimed it
        return Claim(key, number)

    def finish(self, claim: Claim, answer: Answer) -> Answer:
        """Keep `answer` for replays and return the answer to give.

        That is the first one kept, which is another if this attempt was taken over meanwhile.
        """
        key = f"{_folder(claim.key)}/answer.json"
        if put_document(self._objects, key, answer):
            return answer
        return get_document(self._objects, key, Answer)

    def release(self, claim: Claim, *, refused: bool) -> None:
        """Let the next request with this key do the work, because this attempt failed.

        Args:
            claim: The attempt.
            refused: Whether it is certain that it has done nothing: if that is so of every attempt,
                the next request may be another one.
        """
        key = _release_key(_folder(claim.key), claim.attempt)
        put_document(self._objects, key, _Release(refused=refused))

    def _all_refused(self, folder: str, attempts: list[int]) -> bool:
        return all(self._refused(folder, number) for number in reversed(attempts))

    def _refused(self, folder: str, attempt: int) -> bool:
        try:
            release = get_document(self._objects, _release_key(folder, attempt), _Release)
        except NotFoundError:
            return False
        return release.refused

    def _answer(self, folder: str) -> Answer | None:
        try:
            return get_document(self._objects, f"{folder}/answer.json", Answer)
        except NotFoundError:
            return None

    def _attempt(self, folder: str, number: int) -> _Attempt:
        return get_document(self._objects, f"{folder}/attempts/{number:08d}.json", _Attempt)

    def _numbers(self, folder: str, kind: str) -> list[int]:
        keys = self._objects.list(f"{folder}/{kind}")
        return [int(key.rpartition("/")[2].removesuffix(".json")) for key in keys]


_PATIENCE = timedelta(seconds=5)
"""After which it is worth while to ask again: most requests are answered by then."""


def _folder(key: str) -> str:
    return f"idempotency/{_hashed(key)}"


def _release_key(folder: str, attempt: int) -> str:
    return f"{folder}/released/{attempt:08d}.json"


def _hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _in_progress(key: str, left: timedelta) -> IdempotencyInProgressError:
    return IdempotencyInProgressError(
        f"the first request with idempotency key {shown(key)} has not been answered yet",
        retry_after_s=min(left, _PATIENCE).total_seconds(),
    )
