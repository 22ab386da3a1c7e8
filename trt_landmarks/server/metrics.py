"""What the server tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from trt_landmarks.results.case import CaseResult
from trt_landmarks.server.jobs import Job
from trt_landmarks.system import resident_bytes


class Metrics:
    """Counters of one server.

    Args:
        depth: gives the scans that wait or are under way.
    """

    def __init__(self, depth: Callable[[], int]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        buckets = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
        labels = ["model"]
        self._scans = Counter("trtlm_scans", "Scans that are done.", ["model", "code"], registry=self._registry)
        self._seconds = Histogram(
            "trtlm_scan_seconds", "From its arrival to its result.", labels, registry=self._registry, buckets=buckets
        )
        self._refused = Counter("trtlm_refused", "Requests that were refused.", ["code"], registry=self._registry)
        Gauge("trtlm_queue_scans", "Scans that wait or are under way.", registry=self._registry).set_function(depth)
        memory = Gauge("trtlm_resident_bytes", "Memory of the process.", registry=self._registry)
        memory.set_function(lambda: float(resident_bytes() or 0))

    def done(self, job: Job, case: CaseResult) -> None:
        """Count a scan that is done; its code is ``ok`` or the error's."""
        self._scans.labels(job.model, "ok" if case.error is None else case.error.code).inc()
        self._seconds.labels(job.model).observe(case.timing_ms["server"] / 1000)

    def refused(self, code: str) -> None:
        """Count a request that gave no scan."""
        self._refused.labels(code).inc()

    def text(self) -> tuple[bytes, str]:
        """The page for Prometheus, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
