"""What a gateway tells Prometheus, in a registry of its own."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fastchat.serve.forwarder import Forwarder
from fastchat.serve.router import Router

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(frozen=True, slots=True)
class _Series:
    """The two values of one route and status; looked up once, then kept."""

    requests: Counter
    duration: Histogram


class GatewayMetrics:
    """Counts and durations of requests, and the table's state when asked."""

    def __init__(self, forwarder: Forwarder, router: Router) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_State(forwarder, router))
        self._requests = Counter(
            "fastchat_gateway_requests",
            "Requests by route and status; 499 when the client left.",
            ("route", "status"),
            registry=self._registry,
        )
        self._duration = Histogram(
            "fastchat_gateway_request_duration_seconds",
            "From the request's headers to the end of the reply.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._series: dict[tuple[str, int], _Series] = {}

    def count(self, route: str, status: int, seconds: float) -> None:
        """Counts an ended request; `route` is one of a fixed set."""
        series = self._series.get((route, status))
        if series is None:
            requests = self._requests.labels(route, str(status))
            series = self._series[route, status] = _Series(requests, self._duration.labels(route))
        series.requests.inc()
        series.duration.observe(seconds)

    def text(self) -> bytes:
        """All values in the Prometheus text format."""
        return generate_latest(self._registry)


class _State(Collector):
    """Values that live elsewhere and are read when asked for."""

    def __init__(self, forwarder: Forwarder, router: Router) -> None:
        self._forwarder = forwarder
        self._router = router

    def collect(self) -> Iterator[Metric]:
        tally = self._forwarder.tally
        gauges = {
            "in_flight": ("Requests under way.", self._forwarder.in_flight),
            "endpoints": ("Endpoints in the table.", len(self._router.endpoints())),
            "endpoints_failing": ("Endpoints that did not answer.", len(self._router.failing())),
            "models": ("Models that can be asked.", len(self._router.models())),
        }
        counters = {
            "retries": ("Requests tried at a second endpoint.", tally.retries),
            "endpoint_failures": ("Requests that an endpoint failed.", tally.failures),
            "broken_streams": ("Streams that ended with an error event.", tally.broken_streams),
            "disconnects": ("Clients that left before the end.", tally.disconnects),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"fastchat_gateway_{name}", text, value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"fastchat_gateway_{name}", text, value)
