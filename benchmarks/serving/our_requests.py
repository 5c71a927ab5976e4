"""Classification requests to the service."""

import random
from collections.abc import Sequence

from benchmarks.serving.load import PreparedRequest

CONTENT_TYPE = ("Content-Type", "application/octet-stream")
MIN_REQUESTS = 64
"""So that a few tenants see more than one image each."""


def classify_requests(
    names: Sequence[str], pictures: Sequence[bytes], *, top_k: int | None = None
) -> list[PreparedRequest]:
    """Return requests that go round the tenants in a random order that is always the same."""
    query = "" if top_k is None else f"?top_k={top_k}"
    return [
        PreparedRequest(f"/v1/ensembles/{names[tenant]}/classify{query}", picture, (CONTENT_TYPE,))
        for tenant, picture in assignments(len(names), pictures)
    ]


def assignments(num_tenants: int, pictures: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Return (tenant, picture) of each request: every tenant equally often, in random order."""
    rng = random.Random(0)  # noqa: S311 - an order, not a secret
    rounds = -(-MIN_REQUESTS // num_tenants)
    every = range(num_tenants)
    tenants = [tenant for _ in range(rounds) for tenant in rng.sample(every, num_tenants)]
    return [(tenant, pictures[i % len(pictures)]) for i, tenant in enumerate(tenants)]
