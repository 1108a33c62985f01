"""The metrics that every service has, in a registry of its own: one per application, never the process-wide one.

Labels are bounded: routes are templates (`/v1/units/{name}`), what matched none is `unmatched`, and methods beyond
HTTP's own are `other`; a client cannot make series.
"""

from __future__ import annotations

from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
LAG_WINDOW = 60  # measurements; the watchdog task makes one a second


class Metrics:
    """Counters of one application; `registry` is where a service adds its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, *, service: str, version: str, role: str, image: str) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "backline_http_requests", "Answered requests", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "backline_http_request_seconds", "From request to last byte", ["method", "route"], registry=self.registry
        )
        self._gauges: dict[str, Gauge] = {}
        self._lags: deque[float] = deque(maxlen=LAG_WINDOW)
        lag = Gauge(
            "backline_event_loop_lag_seconds", "Worst delay of the event loop in a minute", registry=self.registry
        )
        lag.set_function(lambda: max(self._lags, default=0.0))
        build = Gauge(
            "backline_build_info", "What runs", ["service", "version", "role", "image"], registry=self.registry
        )
        build.labels(service=service, version=version, role=role, image=image).set(1)

    def answered(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count one answer."""
        method = method if method in METHODS else "other"
        self.requests.labels(method=method, route=route or "unmatched", status=str(status)).inc()
        self.seconds.labels(method=method, route=route or "unmatched").observe(seconds)

    def gauge(self, name: str, about: str, label: str) -> Gauge:
        """A gauge with one label, which several parts of a service share."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, about, [label], registry=self.registry)
        return self._gauges[name]

    def loop_lag(self, seconds: float) -> None:
        """Note how late the event loop was."""
        self._lags.append(seconds)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
