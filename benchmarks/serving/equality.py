"""Whether two servers give the same probabilities."""

from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from benchmarks.serving.errors import UnequalOutputsError
from benchmarks.serving.load import PreparedRequest

TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
"""Largest difference of a probability. In bf16 sums of another order differ in the second digit."""
TIMEOUT_S = 60.0


def our_probabilities(document: dict[str, Any]) -> list[float]:
    """Return the probabilities in class order from an answer of ours that names all classes."""
    (predictions,) = document["predictions"]
    by_index = {row["index"]: row["probability"] for row in predictions}
    return [by_index[index] for index in sorted(by_index)]


def answers(url: str, requests: Sequence[PreparedRequest]) -> list[dict[str, Any]]:
    """Send requests one after another and return the documents.

    Raises:
        UnequalOutputsError: One was not answered 200.
    """
    found: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        for request in requests:
            response = client.post(
                request.path, content=request.body, headers=dict(request.headers)
            )
            if not response.is_success:
                raise UnequalOutputsError(
                    f"{url}{request.path} answered {response.status_code}: {response.text[:500]}"
                )
            found.append(response.json())
    return found


def largest_difference(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], *, tolerance: float
) -> float:
    """Return the largest difference of two sets of probabilities, one list an image.

    Raises:
        UnequalOutputsError: It exceeds the tolerance, or the shapes differ.
    """
    if [len(each) for each in ours] != [len(each) for each in theirs]:
        raise UnequalOutputsError("the servers answered different numbers of classes")
    differences = [
        np.abs(np.asarray(one) - np.asarray(other)).max()
        for one, other in zip(ours, theirs, strict=True)
    ]
    worst = float(max(differences))
    if not worst <= tolerance:  # a NaN is refused too
        raise UnequalOutputsError(
            f"probabilities differ by {worst:.2g}; the tolerance is {tolerance:g}"
        )
    return worst
