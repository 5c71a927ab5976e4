"""Prometheus metrics of classification, in a registry of this process's application."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.inference.admission import Admission
from service.inference.decoding import DecodePool, DecodeReport
from service.inference.observer import GivenUp
from service.metrics.buckets import SECONDS, SIZES

if TYPE_CHECKING:  # what measures requests needs no torch
    from service.inference.engine import BatchReport
    from service.inference.residency import Residency


class InferenceMetrics:
    """What the classifier measures: an `InferenceObserver`.

    Args:
        registry: Where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._decode_wait_seconds = self._seconds(
            "hgprompt_decode_wait_seconds", "Time an image waited for a thread to decode it"
        )
        self._decode_seconds = self._seconds(
            "hgprompt_decode_seconds", "Decoding and resizing an image"
        )
        self._queue_seconds = self._seconds(
            "hgprompt_queue_seconds", "Time an image waited for its forward pass"
        )
        self._forward_seconds = self._seconds(
            "hgprompt_forward_seconds", "Duration of a forward pass"
        )
        self._load_seconds = self._seconds(
            "hgprompt_artifact_load_seconds", "Reading an artifact and copying it to the device"
        )
        self._batch_size = self._sizes("hgprompt_batch_size", "Images in a forward pass")
        self._batch_ensembles = self._sizes(
            "hgprompt_batch_ensembles", "Distinct artifacts in a forward pass"
        )
        self._batch_failures = self._count("hgprompt_batch_failures", "Forward passes that failed")
        self._load_failures = self._count(
            "hgprompt_artifact_load_failures", "Artifacts that could not be loaded"
        )
        self._evictions = self._count(
            "hgprompt_artifact_evictions", "Artifacts that left the device for others"
        )
        self._given_up = self._count(
            "hgprompt_abandoned_images",
            "Admitted images whose request ended before its answer, by why",
            "reason",
        )
        for why in ("deadline", "disconnect"):
            self._given_up.labels(why)

    def watch_front(self, admission: Admission, decoder: DecodePool) -> None:
        """Read at each scrape what requests hold and wait for."""
        self._read("queue_depth", "Images from admission to answer", lambda: admission.num_images)
        self._read("body_bytes", "Classification bodies in memory", lambda: admission.num_bytes)
        self._read(
            "decode_queue_depth", "Images that wait to be decoded", lambda: decoder.num_waiting
        )

    def watch_engine(self, residency: "Residency") -> None:
        """Read at each scrape where artifacts are, and what they take there."""
        self._read("resident_artifacts", "Artifacts on the device", lambda: residency.num_resident)
        self._read(
            "resident_bytes", "Memory of artifacts on the device", lambda: residency.device_bytes
        )
        self._read(
            "host_memory_artifacts",
            "Artifacts in main memory that left the device",
            lambda: residency.num_in_host_memory,
        )
        self._read("host_memory_bytes", "Memory of those", lambda: residency.host_bytes)

    def batch_ran(self, report: "BatchReport") -> None:
        """Record one forward pass."""
        for wait_s in report.queue_s:
            self._queue_seconds.observe(wait_s)
        self._forward_seconds.observe(report.forward_s)
        self._batch_size.observe(report.size)
        self._batch_ensembles.observe(report.num_artifacts)
        if report.failed:
            self._batch_failures.inc()

    def image_decoded(self, report: DecodeReport) -> None:
        """Record one image."""
        self._decode_wait_seconds.observe(report.wait_s)
        self._decode_seconds.observe(report.decode_s)

    def artifact_loaded(self, load_s: float) -> None:
        """Record one artifact that came to the device."""
        self._load_seconds.observe(load_s)

    def artifact_load_failed(self) -> None:
        """Record one artifact that did not."""
        self._load_failures.inc()

    def artifact_evicted(self) -> None:
        """Record one artifact that left."""
        self._evictions.inc()

    def images_given_up(self, count: int, why: GivenUp) -> None:
        """Record a request that ended before its answer."""
        self._given_up.labels(why).inc(count)

    def _read(self, name: str, help_: str, read: Callable[[], float]) -> None:
        Gauge(f"hgprompt_{name}", help_, registry=self._registry).set_function(read)

    def _seconds(self, name: str, help_: str) -> Histogram:
        return Histogram(name, help_, buckets=SECONDS, registry=self._registry)

    def _sizes(self, name: str, help_: str) -> Histogram:
        return Histogram(name, help_, buckets=SIZES, registry=self._registry)

    def _count(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(name, help_, labels, registry=self._registry)
