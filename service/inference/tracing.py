"""Spans of a classification, recorded once it has been answered."""

import time
from collections.abc import Sequence

from jobs.tracing import is_traced, record_span
from service.inference.resolver import Served
from service.inference.rows import RowOutcome, RowResult


def record_classification(
    served: Served, outcomes: Sequence[RowOutcome], *, began_s: float, decode_s: float
) -> None:
    """Record decoding, queue and forward pass as children of the request's span, if it has one.

    Args:
        served: What answered.
        outcomes: The request's rows; of those, the one that waited longest is shown.
        began_s: When decoding began, on the monotonic clock.
        decode_s: Until the last image was decoded.
    """
    if not is_traced():
        return
    about = {
        "hgprompt.ensemble": f"{served.name}@{served.version}",
        "hgprompt.artifact": served.digest,
        "hgprompt.images": len(outcomes),
    }
    record_span("decode", began_s, began_s + decode_s, about)
    results = [outcome for outcome in outcomes if isinstance(outcome, RowResult)]
    if results:
        last = max(results, key=lambda result: result.queue_s + result.forward_s)
        ended_s = time.monotonic()
        started_s = ended_s - last.forward_s
        record_span("queue", started_s - last.queue_s, started_s, about)
        record_span("forward", started_s, ended_s, about)
