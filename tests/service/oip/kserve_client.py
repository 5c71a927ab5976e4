"""Run by KServe's own interpreter: `python kserve_client.py URL IMAGE`, prints JSON."""

import asyncio
import base64
import json
import sys
from pathlib import Path

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(url: str, image: bytes) -> dict[str, object]:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        found: dict[str, object] = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model": await client.is_model_ready(url, "zoo"),
            "missing": await client.is_model_ready(url, "nothing"),
        }
        text = InferInput("image", [1], "BYTES", data=[base64.b64encode(image).decode()])
        reply = await client.infer(url, InferRequest("zoo", [text]), model_name="zoo")
        found["json"] = {each.name: each.data for each in reply.outputs}
        raw = InferInput("image", [1], "BYTES")
        raw.set_data_from_numpy(np.array([image], dtype=np.object_), binary_data=True)
        request = InferRequest("zoo", [raw], parameters={"binary_data_output": True})
        reply = await client.infer(url, request, model_name="zoo")
        found["binary"] = {each.name: np.ravel(each.as_numpy()).tolist() for each in reply.outputs}
        bad = InferInput("image", [1], "BYTES", data=["!"])
        try:
            await client.infer(url, InferRequest("zoo", [bad]), model_name="zoo")
        except httpx.HTTPStatusError as error:
            found["error"] = str(error)
    return found


if __name__ == "__main__":
    answer = asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
    print(json.dumps(answer, default=lambda value: value.decode()))  # noqa: T201
