"""What a server counts, in the form of Prometheus.

With several processes on one machine each counts in files of a folder, from which any of them
answers for all (https://prometheus.github.io/client_python/multiprocess/).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector

from modpkg.core.system_processes import is_running

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with the folder of several processes; it is read when the library is imported."""
CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
OTHER = "other"


class Metrics:
    """The counters of one server in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self._registry, "namespace": "modpkg"}
        self._requests = Counter(
            "requests", "Requests that were answered.", ["method", "route", "status"], **make
        )
        self._seconds = Histogram(
            "request_seconds", "Until the answer was sent.", ["route"], buckets=_SECONDS, **make
        )
        self.under_way = Gauge(
            "requests_under_way", "Requests under way.", multiprocess_mode="livesum", **make
        )
        self.received = Counter("received_bytes", "Bytes of requests' bodies.", **make)
        self.sent = Counter("sent_bytes", "Bytes of answers, without files.", **make)
        self._files = Counter(
            "file_reads", "Requests for files of the registry.", ["kind", "status"], **make
        )
        self._reads: dict[tuple[str, int], Counter] = {}
        self._refused = Counter("refusals", "Refused requests, by error code.", ["code"], **make)
        self.limited = Counter("limited_requests", "Requests over the rate limit.", **make)
        self.failures = Counter("failures", "Requests that ended with an unknown error.", **make)
        self.swept = Counter("swept_sessions", "Sessions that were swept away.", **make)
        self._now = _Now()
        self._registry.register(self._now)
        ProcessCollector(registry=self._registry)

    def request_answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(_method(method), route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def file_read(self, path: str, status: int) -> None:
        """Count a request for a file of the registry's tree."""
        kind = path[1:].partition("/")[0]
        counter = self._reads.get((kind, status))
        if counter is None:
            counter = self._reads[kind, status] = self._files.labels(kind, str(status))
        counter.inc()

    def refused(self, code: str) -> None:
        """Count a refusal with an error code."""
        self._refused.labels(code).inc()

    def ask(self, name: str, help_text: str, count: Callable[[], float]) -> None:
        """Add a figure that is asked for when the metrics are read."""
        self._now.add(f"modpkg_{name}", help_text, count)

    def text(self) -> bytes:
        """Return all of them, in the text format."""
        if (folder := os.environ.get(FOLDER)) is None:
            return generate_latest(self._registry)
        forget_ended(Path(folder))
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        together.register(self._now)
        ProcessCollector(registry=together)
        return generate_latest(together)


def forget_ended(folder: Path) -> None:
    """Forget what processes that have ended had under way."""
    for file in folder.glob("gauge_live*_*.db"):
        number = file.stem.rpartition("_")[2]
        if number.isdigit() and not is_running(int(number)):
            mark_process_dead(int(number), str(folder))  # type: ignore[no-untyped-call]


def _method(text: str) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
    return text if text in known else OTHER


class _Now:
    """Figures that are asked for when the metrics are read."""

    def __init__(self) -> None:
        self._figures: list[tuple[str, str, Callable[[], float]]] = []

    def add(self, name: str, help_text: str, count: Callable[[], float]) -> None:
        self._figures.append((name, help_text, count))

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, help_text, count in self._figures:
            yield GaugeMetricFamily(name, help_text, value=count())
