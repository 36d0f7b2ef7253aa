"""What a worker tells Prometheus, in a registry of its own."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fastchat.engine.base import Engine
from fastchat.serve.admission import Admission

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class WorkerMetrics:
    """Counts of requests by outcome, latencies, and the engines' state when asked."""

    def __init__(self, engines: Mapping[str, Engine], admission: Admission) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_State(engines, admission))
        self._requests = Counter(
            "fastchat_requests",
            "Requests by route and status.",
            ("route", "status"),
            registry=self._registry,
        )
        self._first_token = Histogram(
            "fastchat_time_to_first_token_seconds",
            "From the request to the first piece of a stream.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._duration = Histogram(
            "fastchat_request_duration_seconds",
            "From the request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )

    def first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def finished(self, route: str, status: str, seconds: float) -> None:
        """Counts an ended request; `status` is an HTTP status, or `gone` when the client left."""
        self._requests.labels(route, status).inc()
        self._duration.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _State(Collector):
    """Reads the engines at the moment of the question."""

    def __init__(self, engines: Mapping[str, Engine], admission: Admission) -> None:
        self._engines = engines
        self._admission = admission

    def collect(self) -> Iterator[Metric]:
        admission = self._admission
        yield GaugeMetricFamily("fastchat_running", "Admitted requests.", admission.running)
        yield GaugeMetricFamily("fastchat_waiting", "Requests in the queue.", admission.waiting)
        gauges = {
            name: GaugeMetricFamily(f"fastchat_engine_{name}", text, labels=("model",))
            for name, text in (
                ("running", "Sequences that advance together."),
                ("waiting", "Sequences that wait for a place."),
                ("cached_tokens", "Tokens whose keys and values are held."),
                ("cache_budget", "Tokens that may be held."),
            )
        }
        totals = {
            name: CounterMetricFamily(f"fastchat_{name}", text, labels=("model",))
            for name, text in (
                ("prompt_tokens", "Prompt tokens taken in."),
                ("generated_tokens", "Tokens generated."),
                ("prefix_hit_tokens", "Prompt tokens taken from the prefix cache."),
                ("steps", "Steps of the engine."),
            )
        }
        for model, engine in self._engines.items():
            stats = engine.stats()
            for name, gauge in gauges.items():
                gauge.add_metric((model,), getattr(stats, name))
            for name, total in totals.items():
                total.add_metric((model,), getattr(stats, f"{name}_total"))
        yield from gauges.values()
        yield from totals.values()
