"""`Idempotency-Key`: a request that is sent again is answered as the first time."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Header
from starlette.requests import Request
from starlette.responses import Response

from prompt_store.idempotency import Answer, Claim, IdempotencyStore
from service.errors import problem_of

MAX_KEY_CHARACTERS = 255
REPLAYED = "Idempotency-Replayed"
_SERVER_ERRORS = 500

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_KEY_CHARACTERS,
        description="A retry with the same key and body gets the first success again, with "
        f"`{REPLAYED}: true`; 409 while the first request is not answered yet, 422 with another "
        "body. A refusal (4xx) is not kept: what was refused is judged anew, and may be changed",
    ),
]


async def answered_once(
    request: Request,
    key: str | None,
    store: IdempotencyStore,
    work: Callable[[Claim | None], Awaitable[Response]],
) -> Response:
    """Do `work`, or repeat the answer that it gave before under this key.

    Only successes are kept: a refusal changed nothing, so a retry is judged anew, and another
    request may come with the key. After any other failure, only the same one may.

    Args:
        request: Whose method, path and body the key belongs to.
        key: Value of `Idempotency-Key`; None does the work without more ado.
        store: The answers given so far.
        work: Does what is asked and answers; raises what it refuses. It is given the claim, None
            without a key: a try before may have done the work though it seemed to fail, or was
            killed before it could answer, which only `work` can find out.

    Raises:
        IdempotencyMismatchError: The key came with another request.
        IdempotencyInProgressError: The first request is still being worked on.
    """
    if key is None:
        return await work(None)
    digest = await _request_digest(request)
    claim = await asyncio.to_thread(store.begin, key, digest)
    if not isinstance(claim, Claim):
        return _response(claim, replayed=True)
    try:
        response = await work(claim)
    except BaseException as error:
        await asyncio.to_thread(store.release, claim, refused=_is_refusal(error))
        raise
    answer = Answer(
        status=response.status_code,
        headers=_kept_headers(response),
        body=bytes(response.body),
    )
    return _response(await asyncio.to_thread(store.finish, claim, answer), replayed=False)


def _is_refusal(error: BaseException) -> bool:
    """Whether it will be answered 4xx, so that nothing was done."""
    return isinstance(error, Exception) and problem_of(error).status < _SERVER_ERRORS


async def _request_digest(request: Request) -> str:
    head = f"{request.method} {request.url.path}\n".encode()
    return f"sha256:{hashlib.sha256(head + await request.body()).hexdigest()}"


def _kept_headers(response: Response) -> dict[str, str]:
    return {name: response.headers[name] for name in ("content-type", "location")}


def _response(answer: Answer, *, replayed: bool) -> Response:
    headers = {**answer.headers, **({REPLAYED: "true"} if replayed else {})}
    return Response(answer.body, answer.status, headers=headers)
