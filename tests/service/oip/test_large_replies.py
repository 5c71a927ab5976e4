"""Replies with many numbers are written beside the event loop."""

import base64
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from jobs.records import FitId
from service.oip import routes


@pytest.mark.anyio
async def test_many_probabilities_do_not_hold_up_the_event_loop(
    open_client: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]],
    publish: Callable[..., tuple[FitId, str]],
    image: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish("zoo", classes=[f"class-{i}" for i in range(600)])
    writers: list[threading.Thread] = []
    write = routes.infer_response

    def watched(*args: Any) -> Response:
        writers.append(threading.current_thread())
        return write(*args)

    monkeypatch.setattr(routes, "infer_response", watched)
    text = base64.b64encode(image(0)).decode()
    async with open_client() as client:
        for count in (1, 4):
            inputs = [{"name": "image", "datatype": "BYTES", "shape": [count]}]
            inputs[0]["data"] = [text] * count
            answer = await client.post("/v2/models/zoo/infer", json={"inputs": inputs})
            assert answer.status_code == 200, answer.text
            shapes = {each["name"]: each["shape"] for each in answer.json()["outputs"]}
            assert shapes["probabilities"] == [count, 600]

    assert [thread is threading.main_thread() for thread in writers] == [True, False]
