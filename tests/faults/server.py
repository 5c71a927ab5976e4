"""A real `python -m service` of one process, looked at from outside."""

import time
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.service_process import ServiceProcess

SLOW_BACKBONE = "random:vit_tiny_patch16_224?seed=0&depth=12"
"""Takes tens of milliseconds for an image, so that a queue can build up."""

IDLE = {
    "hgprompt_queue_depth": 0.0,
    "hgprompt_body_bytes": 0.0,
    "hgprompt_decode_queue_depth": 0.0,
    "hgprompt_requests_in_flight": 1.0,  # the scrape itself
}
"""What a service that holds nothing for anybody shows."""


class Server(ServiceProcess):
    """The process, and what it holds."""

    def wait_until_ready(self) -> str:
        """Return the base URL once the service listens."""
        url = self.wait_for_url("Uvicorn running on ")
        assert httpx.get(f"{url}/readyz").status_code == 200
        return url

    def metrics(self) -> dict[str, float]:
        """Scrape: `name` or `name:label value` to value."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return {
            ":".join((sample.name, *sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def wait_until_idle(self) -> dict[str, float]:
        """Scrape until nothing is held for anybody any more."""
        deadline_s = time.monotonic() + 30
        while True:
            metrics = self.metrics()
            if {name: metrics[name] for name in IDLE} == IDLE:
                return metrics
            assert time.monotonic() < deadline_s, metrics
            time.sleep(0.05)

    def peak_bytes(self) -> int:
        """The most memory that the process has had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
