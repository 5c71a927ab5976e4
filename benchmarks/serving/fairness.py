"""How much a greedy ensemble delays another: `python -m benchmarks.serving.fairness URL A B`.

Against a service that runs and has two ensembles. One client sends single images to the second
ensemble, one after the other; first alone, then beside clients of the first ensemble that send as
many requests of many images as are admitted, in alternation. Prints the quantiles of the single
images' latency, quiet and disturbed, and their ratio.
"""

import argparse
import asyncio
import io
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus

import httpx
import numpy as np
from PIL import Image

QUANTILES = (0.5, 0.9, 0.99)


def jpeg(size_px: int, seed: int) -> bytes:
    """A JPEG of noise, `size_px` wide and high."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


async def be_greedy(client: httpx.AsyncClient, path: str, body: bytes, images: int) -> None:
    """Send requests of many images until cancelled."""
    while True:
        files = [("images", (str(i), body)) for i in range(images)]
        if (await client.post(path, files=files)).status_code != HTTPStatus.OK:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def greedy_clients(
    client: httpx.AsyncClient, path: str, *, clients: int, size_px: int, images: int
) -> AsyncGenerator[None]:
    """Run them beside the block, after a second's start."""
    body = jpeg(size_px, 0)
    tasks = [asyncio.create_task(be_greedy(client, path, body, images)) for _ in range(clients)]
    await asyncio.sleep(1.0)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def latencies_s(
    client: httpx.AsyncClient, path: str, count: int, statuses: Counter[int]
) -> list[float]:
    """Seconds that single images take, one after the other."""
    body, found = jpeg(224, 1), list[float]()
    for _ in range(count):
        started_s = time.perf_counter()
        statuses[(await client.post(path, content=body)).status_code] += 1
        found.append(time.perf_counter() - started_s)
    return found


async def measure(arguments: argparse.Namespace) -> None:
    """Alternate quiet and disturbed rounds, and print what they took."""
    greedy, modest = (f"/v1/ensembles/{name}/classify" for name in arguments.ensembles)
    statuses: Counter[int] = Counter()
    quiet: list[float] = []
    disturbed: list[float] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=arguments.url, timeout=120, limits=limits) as client:
        await latencies_s(client, modest, 5, Counter())
        for _ in range(arguments.rounds):
            quiet += await latencies_s(client, modest, arguments.count, statuses)
            async with greedy_clients(
                client,
                greedy,
                clients=arguments.clients,
                size_px=arguments.size_px,
                images=arguments.images,
            ):
                disturbed += await latencies_s(client, modest, arguments.count, statuses)
    print(f"answers to the modest ensemble by status: {dict(statuses)}")
    for q in QUANTILES:
        before_ms, after_ms = (1000 * float(np.quantile(each, q)) for each in (quiet, disturbed))
        ratio = after_ms / before_ms
        print(f"p{100 * q:g}: quiet {before_ms:.1f} ms, disturbed {after_ms:.1f} ms, x{ratio:.2f}")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description="How much a greedy ensemble delays another.")
    parser.add_argument("url")
    parser.add_argument("ensembles", nargs=2, help="the greedy one and the modest one")
    parser.add_argument("--clients", type=int, default=10, help="of the greedy ensemble")
    parser.add_argument("--images", type=int, default=32, help="in each of their requests")
    parser.add_argument("--size-px", type=int, default=224, help="side of their images")
    parser.add_argument("--count", type=int, default=50, help="single images in a round")
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
